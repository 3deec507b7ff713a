"""The label columns that metrics read as numbers, looked through before the first step: an evaluation would meet them hours later."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.units import Units
from deepcoro.evaluated import label_word

_MOST_NAMED = 5


def check_numbers(least: Mapping[str, float], shards: Collection, splits: Mapping[str, Units]) -> None:
    """`least`: column -> the smallest number that it may hold. A column that the films do not have is left to the metric's note.

    DataError for a word, for a number that is not finite and for one below `least`; empty cells and NaN are not assessed.
    """
    shown = {split: units.may_show for split, units in splits.items()}
    for column in (name for name in least if name in shards.films.names):
        coded = shards.films.read([column])[column].combine_chunks().dictionary_encode()
        codes, values = coded.indices.fill_null(-1).to_numpy(), coded.dictionary.to_pylist()
        for split, films in shown.items():
            held = [values[code] for code in np.unique(codes[films & (codes >= 0)]).tolist()]
            strange = [str(value) for value in held if not _may_stand(value, least[column])]
            if strange:
                raise DataError(
                    f"label '{column}' of split {split} holds {', '.join(strange[:_MOST_NAMED])}, and evaluate.metrics reads it as a number"
                    f"{_from(least[column])}; correct it (an empty cell is not assessed) in a table of data.tables, or name another column",
                    topic="labels",
                )


def _may_stand(value: Any, least: float) -> bool:
    if label_word(value) is None:
        return True
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isnan(number) or (math.isfinite(number) and number >= least)


def _from(least: float) -> str:
    return f" of {least:g} or more" if math.isfinite(least) else ""
