#!/usr/bin/env python3
"""A checkpoint of DeepCORO_CLIP (contrastive, multitask or linear probing) as a run of this project, or its video encoder alone."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.migration.old_checkpoint import import_encoder  # noqa: E402
from deepcoro.migration.old_config import pixel_constants_of  # noqa: E402
from deepcoro.migration.old_model import TOKENIZER, Old, import_model  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  python tools/import_checkpoint.py best_model_epoch_11.pt --config zcb8cu0l_inference_config.yaml --run_dir runs/stenosis
  python tools/predict.py STUDY_FOLDER --checkpoint runs/stenosis --output answers
  python tools/import_checkpoint.py checkpoint.pt --config single_video_report_config.yaml --run_dir runs/clip --output imported/clip
  python tools/import_checkpoint.py checkpoint.pt --pixel_mean 122.09 --pixel_std 28.79 --output imported/clip
  accelerate launch ... train.py CONFIG towers.video.weights=imported/clip data.fields.video.preset=predecessor

--run_dir: the whole model, the same function as there, as a run folder for tools/predict.py and run_mode=val, test, inference.
--output: MViTv2-S alone, to train on from. Every tensor of the file is answered for: used, or unused and why; what is missing is an
error. Nothing in the file is run. Grey levels are those of dataset_mean and dataset_std in --config, or of the two options.

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
    add(
        "--run_dir", type=Path, metavar="RUN", help="written: the whole model; needs --config; must not exist"
    )
    add("--output", type=Path, metavar="FOLDER", help="written: the video encoder alone; must not exist")
    add("--config", type=Path, metavar="OLD.yaml", help="the config it was trained with")
    add("--pixel_mean", type=float, help="mean grey level (0-255) that it was trained with")
    add("--pixel_std", type=float, help="and its deviation")
    add("--tokenizer", default=TOKENIZER, help="that of the text encoder, a name or a local folder")
    add(
        "--absent_films",
        choices=("counted", "masked"),
        default="counted",
        help="of linear probing: a study of fewer than num_videos films is filled up with films of mean grey, as there (W20), or is not",
    )
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
    if options.output is None and options.run_dir is None:
        raise ConfigError(
            "nothing to write; give --run_dir (the whole model), --output (its video encoder), or both"
        )
    if options.run_dir is not None:
        _write_model(options, constants)
    if options.output is not None:
        print(import_encoder(options.old, options.output, constants))
        print(
            f"written {options.output}: use it with towers.video.weights={options.output} data.fields.video.preset=predecessor"
        )


def _write_model(options: argparse.Namespace, constants: tuple[float, float] | None) -> None:
    if options.config is None:
        raise ConfigError(
            "--run_dir needs --config: a checkpoint says neither tasks nor pooling of its heads"
        )
    old = Old(options.old, options.config, constants, options.tokenizer, absent_films=options.absent_films)
    print(import_model(old, options.run_dir))
    print(
        f"written {options.run_dir}: `python tools/predict.py STUDY_FOLDER --checkpoint {options.run_dir} --output answers`"
    )


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_code("import_checkpoint", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
