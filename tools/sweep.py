#!/usr/bin/env python3
"""Trains one config with many hyper-parameters, as a W&B sweep YAML says, on this machine with Optuna (or hands the sweep to W&B)."""

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError, find_config  # noqa: E402
from deepcoro.launching.command import chosen_gpus, launch_file  # noqa: E402
from deepcoro.run_config import load_run_config  # noqa: E402
from deepcoro.sweeping import register, summary, trials, worker  # noqa: E402
from deepcoro.sweeping.sweep_file import read_sweep  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  Forty trials, each on one of four GPUs; then two trials at a time on two GPUs each:
    python tools/sweep.py clip/base_config sweep_config_single_video --count 40 --selected_gpus 0,1,2,3 \\
        --output runs/sweep data.shards=shards/mine
    ... --gpus_per_trial 2

  A probe, without a GPU; a file of your own; the summary of what is done so far:
    python tools/sweep.py linear_probing/base_config linear_probing/sweep_config --count 20 --selected_gpus none \\
        --output runs/probe_sweep data.shards=shards/mine towers.video.weights=runs/clip
    python tools/sweep.py clip/base_config my_sweep.yaml --count 10 --output runs/mine data.shards=shards/mine
    ... --summary_only

what happens:
  Trial N is a run of train in OUTPUT/trials/N. Stop with Ctrl-C or SIGTERM at any moment (runs save first) or by force, and start the same
  command again: what is done stays, what was interrupted goes on from its checkpoint. A larger --count adds trials. The same command in a
  second terminal with other GPUs is a second worker: no trial is run by both. OUTPUT has to be on this machine's own disk.

what is written:
  OUTPUT/summary.html   parallel coordinates, importance, every trial; OUTPUT/trials.csv   the same as a table
  OUTPUT/best_config.yaml   the best trial's config, to train; OUTPUT/sweep.db   Optuna's study

More: docs/sweeps.md. Exit codes: 0 done, 2 the command, a file or every trial is at fault (one line says how), 75 stopped: start it again,
1 a bug.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sweep.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file or shipped name, as for train.py")
    add("sweep", metavar="SWEEP", help="W&B sweep YAML, a file or a shipped name")
    add("overrides", nargs="*", metavar="key=value", help="laid over CONFIG in every trial")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the trials and the summary")
    add("--count", type=int, metavar="N", help="trials in all, those of earlier starts among them (default: the file's run_cap, or the whole grid)")  # fmt: skip
    add("--selected_gpus", metavar="0,1", help="GPUs to use, or `none` for the CPU (default: all there are)")
    add("--gpus_per_trial", type=int, default=1, metavar="K", help="GPUs of one trial (default: 1)")
    add("--launch", metavar="NAME", help="file of accelerate_configs/ (default: by the number of GPUs)")
    add("--max_restarts", type=int, default=1, metavar="N", help="how often a killed trial goes on (default: 1)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    add("--summary_only", action="store_true", help="run nothing, write the summary of what is done")
    add("--wandb", action="store_true", help="register the sweep with W&B and print the agents' commands")
    add("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_intermixed_args()


def sweep(options: argparse.Namespace) -> int:
    if options.count is not None and options.count < 1:
        raise ConfigError(f"--count is {options.count}; at least 1")
    whole = load_run_config(  # CONFIG itself is in order, and so are the words of every trial
        find_config(options.config), options.overrides
    )
    made = trials.Sweep(
        config=options.config,
        overrides=tuple(options.overrides),
        file=read_sweep(options.sweep),
        folder=options.output,
        seed=options.seed,
        count=options.count,
    )
    trials.check_examples(made)
    if options.summary_only:
        return _summarise(made)
    if options.launch:
        launch_file(options.launch)
    places = worker.places_of(chosen_gpus(options.selected_gpus, _num_gpus()), options.gpus_per_trial)
    if options.wandb:
        tracking = whole.tracking
        name = register.register(made, tracking.wandb_project, tracking.wandb_entity, options.launch)
        print("registered; start an agent for each group of GPUs, from the project's root:")
        print("\n".join(register.agent_commands(name, places, options.count)))
        return 0
    if unused := made.file.unused():
        logging.info("%s of the sweep file are W&B's agent's; runs are started by this tool", unused)
    return _run(made, places, options)


def _run(made: trials.Sweep, places: list[worker.Place], options: argparse.Namespace) -> int:
    working = worker.Worker(
        made,
        places,
        worker.runner(options.launch),
        lambda found: summary.write_summary(made, found),
        max_restarts=options.max_restarts,
    )
    code = working.run()
    for path in sorted(made.folder.glob("*.html")) + sorted(made.folder.glob("best_config.yaml")):
        print(path)
    return code


def _summarise(made: trials.Sweep) -> int:
    if not (made.folder / "sweep.json").is_file():
        raise ConfigError(f"--output {made.folder} holds no sweep yet")
    for path in summary.write_summary(made, trials.Trials(made)):
        print(path)
    return 0


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def main() -> int:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s sweep: %(message)s", force=True)
    codes: list[int] = []
    return exit_code("sweep", lambda: codes.append(sweep(options)), options.debug) or codes[0]


if __name__ == "__main__":
    sys.exit(main())
