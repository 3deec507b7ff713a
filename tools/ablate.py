#!/usr/bin/env python3
"""Trains subsets of a config's objectives with several seeds and puts their results into one table, mean ± standard deviation."""

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from deepcoro import ablation  # noqa: E402
from deepcoro.config import ConfigError, find_config  # noqa: E402
from deepcoro.run_config import load_run_config  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  What captioning and masked modelling add to each other, three seeds, every subset (7 x 3 runs):
    python tools/ablate.py clip/multitask_config --output runs/ablation --seeds 3 \\
        --launch accelerate_configs/multi_gpu_zero2.yaml data.shards=shards/mine

  Only whether two of them help the first:
    python tools/ablate.py clip/multitask_config --output runs/ablation --seeds 3 data.shards=shards/mine \\
        --subsets contrastive,contrastive+captioning,contrastive+captioning+masked_modeling

  The table again, of what is done so far, with other columns:
    python tools/ablate.py clip/multitask_config --output runs/ablation --seeds 3 data.shards=shards/mine \\
        --table_only --metrics 'retrieval/*/R@5,clinical_findings/lesion/*'

what happens:
  Each run goes to OUTPUT/OBJECTIVES/seed_N: trained, then evaluated on --split from --checkpoint. Runs come one after the other.
  Stop it at any moment and start the same command again: finished runs stay, the interrupted one continues from its checkpoint.
  A run folder that was made with other settings is an error, not a result. Objectives of CONFIG that --objectives does not name
  are on in every run. The best checkpoint is that of evaluate.best_metric, which a run may not have; so the last one is the default.

what is written:
  OUTPUT/ablation.md   one row a subset; OUTPUT/ablation.csv   every metric: objectives, metric, mean, sd, seeds

exit codes: 0 done, 2 the command, a config or a run is at fault (one line says how), 1 a bug.
"""


def names(text: str) -> list[str]:
    return text.split(",")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ablate.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file or shipped name; it trains all objectives")
    add("overrides", nargs="*", metavar="key=value", help="laid over CONFIG in every run")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the runs and the table")
    add("--objectives", type=names, metavar="A,B", help="those switched on and off (default: all of CONFIG)")
    add(
        "--subsets", type=names, metavar="A,A+B", help="the subsets to train (default: all but the empty one)"
    )
    add("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1 (default: 3)")
    add("--split", choices=("val", "test"), default="test", help="what is evaluated (default: test)")
    add("--checkpoint", choices=("last", "best"), default="last", help="which weights (default: last)")
    add("--launch", type=Path, default=ROOT / "accelerate_configs" / "cpu_1.yaml", metavar="FILE", help="accelerate config (default: accelerate_configs/cpu_1.yaml)")  # fmt: skip
    add(
        "--metrics",
        type=names,
        metavar="P,Q",
        default=ablation.SHOWN,
        help="columns of the table; a star stands for one part of a name",
    )
    add("--table_only", action="store_true", help="run nothing, write the table of what is done")
    add("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_intermixed_args()


def ablate(options: argparse.Namespace) -> None:
    whole = load_run_config(find_config(options.config), options.overrides)
    objectives = options.objectives or list(whole.objectives)
    unknown = [name for name in objectives if name not in whole.objectives]
    if unknown:
        raise ConfigError(
            f"--objectives {unknown} are not in {options.config}; it has {list(whole.objectives)}"
        )
    if options.seeds < 1:
        raise ConfigError(f"--seeds is {options.seeds}; at least 1")
    subsets = ablation.all_subsets(objectives, others_are_on=len(objectives) < len(whole.objectives))
    if options.subsets:
        subsets = tuple(ablation.subset_named(each, objectives) for each in options.subsets)
    study = ablation.Study(
        config=options.config,
        overrides=tuple(options.overrides),
        subsets=subsets,
        seeds=tuple(range(options.seeds)),
        split=options.split,
        checkpoint=options.checkpoint,
        output=options.output,
    )
    if not options.table_only:
        ablation.run(study, objectives, ablation.launcher(options.launch, ROOT / "train.py"))
    for path in ablation.write_tables(study, objectives, options.metrics):
        print(path)


def main() -> int:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    return exit_code("ablate", lambda: ablate(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
