#!/usr/bin/env python3
"""Takes the video encoder out of a checkpoint of DeepCORO_CLIP (contrastive, multitask or linear probing) for towers.video.weights."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.migration.old_checkpoint import import_encoder  # noqa: E402
from deepcoro.migration.old_config import pixel_constants_of  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  python tools/import_checkpoint.py best_model_epoch_11.pt --config zcb8cu0l_inference_config.yaml --output imported/stenosis
  python tools/import_checkpoint.py checkpoint.pt --pixel_mean 122.09 --pixel_std 28.79 --output imported/clip
  accelerate launch ... train.py CONFIG towers.video.weights=imported/clip data.fields.video.preset=predecessor

Every tensor of the file is answered for: used, unused, or left out with what it was. MViTv2-S alone is taken, and its tokens are the
original's. Projection, token pooling, aggregator, multi-instance pooling, heads and text encoder have no equal here and are named.
Nothing in the file is run. Grey levels are those of dataset_mean and dataset_std in --config, or of the two options.

exit codes: 0 done, 2 the command or the file is at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="import_checkpoint.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("old", type=Path, metavar="OLD.pt", help="a checkpoint of the predecessor")
    add("--output", type=Path, required=True, metavar="FOLDER", help="written; must not exist")
    add("--config", type=Path, metavar="OLD.yaml", help="the config it was trained with")
    add("--pixel_mean", type=float, help="mean grey level (0-255) that it was trained with")
    add("--pixel_std", type=float, help="and its deviation")
    add("--debug", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args(words)


def work(options: argparse.Namespace) -> None:
    if not options.old.is_file():
        raise ConfigError(f"'{options.old}' is no file; name a checkpoint of the predecessor")
    given = (options.pixel_mean, options.pixel_std)
    if (given[0] is None) != (given[1] is None):
        raise ConfigError("--pixel_mean and --pixel_std belong together; give both")
    constants = None if given[0] is None else given
    if constants is None and options.config is not None:
        constants = pixel_constants_of(options.config)
    print(import_encoder(options.old, options.output, constants))
    print(
        f"written {options.output}: use it with towers.video.weights={options.output} data.fields.video.preset=predecessor"
    )


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_code("import_checkpoint", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
