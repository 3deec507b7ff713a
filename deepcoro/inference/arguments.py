"""Arguments that predict, serve and validate_site have alike. Loads nothing heavy: processes that decode films import it too."""

import argparse
from collections.abc import Collection
from pathlib import Path

from deepcoro.config import ConfigError
from deepcoro.tool import num_cores

USUAL_KEY = "secret of the ids (default: $DEEPCORO_KEY_FILE, else ~/.config/deepcoro/id.key)"

_TRUE_IDS = "shards hold no true ids; give the films or their table as SOURCE"
_AT_SHARDING = "films of shards were chosen and decoded when they were sharded; leave it out"
_NOT_OF_SHARDS = {
    "sr": _TRUE_IDS,
    "crosswalk": _TRUE_IDS,
    "key_file": "ids of shards are keyed already; leave it out",
    **dict.fromkeys(("modality", "accept_burned_in", "echo_mask", "workers"), _AT_SHARDING),
}
"""Option of predict -> why it means nothing for shards."""
CHECKED = (*_NOT_OF_SHARDS, "split", "neighbours", "bank")
"""Options of predict that `check_given` knows."""


def given_of(parser: argparse.ArgumentParser, words: list[str] | None, names: Collection[str]) -> set[str]:
    """Which of these options stand in the command line, whatever their values."""
    told = parser.parse_args(words, argparse.Namespace(**dict.fromkeys(names)))
    return {name for name in names if getattr(told, name) is not None}


def check_given(given: Collection[str], is_shards: bool) -> None:
    """ConfigError for an option of predict that would do nothing, `given` being those of the command line."""
    if is_shards:
        for name in _NOT_OF_SHARDS:
            if name in given:
                raise ConfigError(f"--{name}: {_NOT_OF_SHARDS[name]}")
    elif "split" in given:
        raise ConfigError("--split: only shards have splits; leave it out, or give a shard folder as SOURCE")
    if "neighbours" in given and "bank" not in given:
        raise ConfigError("--neighbours: there is no bank to find them in; name one with --bank")


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
    parser.add_argument("--certainty", type=_certainty, metavar="P", help=sure)


def _certainty(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not 0.5 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no probability from 0.5 to 1, such as 0.8 for 80 %")
    return value


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
