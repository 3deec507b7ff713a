"""Arguments that predict, serve and validate_site have alike. Loads nothing heavy: processes that decode films import it too."""

import argparse
from pathlib import Path

from deepcoro.tool import num_cores

USUAL_KEY = "secret of the ids (default: $DEEPCORO_KEY_FILE, else ~/.config/deepcoro/id.key)"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which weights answer, and where."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="RUN", help="run folder of train.py")
    add("--load", default="best", metavar="NAME", help="its checkpoint: best (default), last or step_N")
    add("--device", default="auto", help="cpu, cuda, cuda:1 (default: cuda where there is one)")


def add_certainty(parser: argparse.ArgumentParser) -> None:
    """Below which certainty the model abstains."""
    sure = (
        "abstain from the call of a binary head below this recalibrated probability of the finding or of its absence; for all heads "
        "alike, 0.5 = never (default: what val chose for each head where evaluate.metrics.classification.selective_error was set, else never)"
    )
    parser.add_argument("--certainty", type=float, metavar="P", help=sure)


def add_film_arguments(parser: argparse.ArgumentParser, key_help: str = USUAL_KEY) -> None:
    """How films are decoded and named."""
    add = parser.add_argument
    workers = "processes that decode (default: one a core)"
    add("--workers", type=int, default=max(2, min(16, num_cores())), help=workers)
    add("--modality", choices=("XA", "US"), type=str.upper, default="XA", help="what the model reads")
    burned = "take films that declare, or seem to hold, names or dates burnt into the pixels"
    add("--accept_burned_in", action="store_true", help=burned)
    add("--echo_mask", choices=("sector", "none"), default="sector", help="as in tools/shard_dataset.py")
    add("--key_file", type=Path, metavar="FILE", help=key_help)
    add("--debug", action="store_true", help="show the full traceback of an error (it may name files)")
