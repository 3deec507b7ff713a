#!/usr/bin/env python3
"""What this machine has, which kernels will run and why, whether ranks can talk, how fast shards are read: one line of advice a finding."""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.doctor import finding, software  # noqa: E402

EXAMPLES = """\
examples:
  The machine alone; with the kernels and needs of a config; with the speed of its shards:
    python tools/doctor.py
    python tools/doctor.py clip/base_config run_dir=runs/mine
    python tools/doctor.py clip/base_config --shards shards/mine data.num_workers=6

  For a script, and where NCCL stops:
    python tools/doctor.py clip/base_config --json
    NCCL_DEBUG=INFO python tools/doctor.py

levels: ok; note (nothing is lost); slow (it works and could be better); broken (a run would fail). Nothing is changed or downloaded; a
quarter of a minute, half a minute with a config. What a GPU takes of films is a run's own log where run_dir has one, else counted
operations over what an H200 reached.

exit codes: 0 nothing is broken, 1 something is, 2 the config is at fault.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="doctor.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a run config, as for train.py")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="keys of it that differ")
    parser.add_argument("--shards", metavar="FOLDER", help="shards to read (default: data.shards of CONFIG)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to read them (default: 10)")
    parser.add_argument(
        "--timeout_s",
        type=float,
        default=120.0,
        help="how long ranks may take to meet and talk (default: 120)",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of a config that is at fault"
    )
    return parser.parse_intermixed_args(words)


def findings_of(options: argparse.Namespace) -> list[finding.Finding]:
    from deepcoro.config import find_config
    from deepcoro.doctor.examine import Examination, examine
    from deepcoro.run_config import load_run_config

    shards = [] if options.shards is None else [f"data.shards={options.shards}"]
    name = options.config or ("clip/base_config" if shards else "demo/tiny")
    config = load_run_config(find_config(name), [*options.words, *shards])
    asked = Examination(config, bool(options.config or shards), options.seconds, options.timeout_s)
    return list(examine(asked, lambda what: sys.stderr.write(f"looking at {what} ...\n")))


def show(findings: Sequence[finding.Finding], as_json: bool) -> None:
    if as_json:
        print(finding.as_json(findings))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(finding.as_table(findings))
    else:
        print(finding.as_lines(findings))


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    warnings.filterwarnings("ignore")
    findings = software.missing()
    if not findings:
        from deepcoro.tool import exit_code

        code = exit_code("doctor.py", lambda: findings.extend(findings_of(options)), options.debug)
        if code:
            return code
    show(findings, options.json)
    return finding.exit_code(findings)


if __name__ == "__main__":
    sys.exit(main())
