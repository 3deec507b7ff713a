#!/usr/bin/env python3
"""Reads a YAML of DeepCORO_CLIP (contrastive, multitask or linear probing) and writes the config that says the same here."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro import atomic  # noqa: E402
from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.migration.old_config import import_config  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
example:
  python tools/import_config.py config/clip/base_config.yaml --output ours.yaml
  python train.py ours.yaml --show

What is printed names every key of the old file once: mapped, changed on purpose, or dropped with why, and the commands that make
shards and weights. Without --output the new YAML is printed after it. Freeze ratios are inverted: the predecessor trained the fraction
that its key names, here it is frozen. Old and new side by side: docs/migrating.md.

exit codes: 0 done, 2 the command or the file is at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="import_config.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("old", type=Path, metavar="OLD.yaml", help="a config of the predecessor (no sweep)")
    add("--output", type=Path, metavar="NEW.yaml", help="written; must not exist")
    add("--debug", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args(words)


def work(options: argparse.Namespace) -> None:
    if not options.old.is_file():
        raise ConfigError(f"'{options.old}' is no file; name a YAML of the predecessor")
    if options.output is not None and options.output.exists():
        raise ConfigError(f"'{options.output}' exists; name a new file")
    imported = import_config(options.old)
    print(imported.report())
    text = imported.yaml(options.output or Path("NEW.yaml"))
    if options.output is None:
        print(text)
        return
    atomic.write_text(options.output, text)
    print(
        f"written {options.output}: every key of it is explained by `python train.py {options.output} --show`"
    )


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    return exit_code("import_config", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
