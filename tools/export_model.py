#!/usr/bin/env python3
"""Writes a trained run as a folder that others load in one line: weights, config, tokenizer, model card; nothing of the patients."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  The best checkpoint of a run (or another one):
    python tools/export_model.py runs/mine --output models/mine --license cc-by-nc-4.0
    python tools/export_model.py runs/mine --checkpoint step_4000 --output models/mine
    python tools/export_model.py runs/mine/checkpoints/step_4000 --output models/mine

  Use it, here or on another machine, without network, on a GPU or none:
    python -c "import deepcoro; print(deepcoro.load('models/mine').embed(['one.dcm', 'two.dcm']).films.shape)"
    python tools/predict.py STUDY_FOLDER --checkpoint models/mine --output answers
    accelerate launch ... train.py CONFIG towers.video.weights=models/mine

  Put it on the Hugging Face hub, once README.md has been read through:
    hf upload ORGANISATION/NAME models/mine

what is written to OUTPUT, whole or not at all:
  model.safetensors   fp32 (several files above 5 GB), without the decoder that guesses hidden parts of films
  config.json         what builds the model and shows it films, sentences of its questions, thresholds of val, sha256 of the weights
  tokenizer/          of its text tower. One learned from the training reports (from_scratch) holds their words: read it through.
  README.md           model card of the run's record, with the hub's front matter
  Reports, embeddings, films, ids and paths stay at home. --with_reports, --with_bank and --with_films take them along, for places
  where they may be, and the card says so.

The video encoder alone, for other programs: tools/export_encoder.py. More: docs/sharing.md.

exit codes: 0 done, 2 the command or the run is at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=Path, metavar="RUN", help="run folder, or one of its checkpoints/step_N")
    add("--output", type=Path, required=True, metavar="FOLDER", help="written; must not exist")
    add("--checkpoint", default="best", metavar="NAME", help="of a run: best (default), last or step_N")
    add("--license", default="unknown", help="as the hub spells it: apache-2.0, cc-by-nc-4.0, other, ...")
    add("--with_reports", action="store_true", help="also texts of training reports with their embeddings")
    add("--with_bank", action="store_true", help="also embeddings of films and studies, under keyed ids")
    add("--with_films", action="store_true", help="also report.html, which shows films and reports")
    add("--debug", action="store_true", help="show the full traceback of an error (it may name files)")
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> None:
    from deepcoro.sharing.export import Asked, export_model

    run_dir, load = options.source, options.checkpoint
    if run_dir.parent.name == "checkpoints":
        run_dir, load = run_dir.parent.parent, run_dir.name
    asked = Asked(options.with_reports, options.with_bank, options.with_films)
    about = export_model(run_dir, options.output, load, asked, options.license)
    print(f'written {options.output}: step {about.step} ({about.digest}); deepcoro.load("{options.output}")')


def main() -> int:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return exit_code("export_model", lambda: run(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
