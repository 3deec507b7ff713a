"""The label columns that a run reads, looked through before its first step: what their values mean, who disagrees, how often each is."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow
from jaxtyping import Float

from deepcoro.config import ConfigError, DataError
from deepcoro.data.collection import Collection
from deepcoro.data.tables import RESERVED
from deepcoro.data.units import Units
from deepcoro.fields.labels import Config

logger = logging.getLogger(__name__)

FACTS = ("side", "view")
"""Columns of films.parquet that may be labels."""
CONFLICT_MEANS = {"max": "the highest counts", "drop": "taken as not assessed"}
"""What becomes of a label on which the films of a study disagree, by `conflict`."""
_MOST_NAMED = 5


@dataclass(frozen=True)
class Settled:
    """A column over the rows of a split."""

    numbers: Float[np.ndarray, " row"]
    """NaN = not assessed."""
    disagreeing: list[str]
    """Keyed ids of the studies whose films disagree."""


@dataclass(frozen=True)
class LookedThrough:
    """What the columns hold, over the splits that a run reads."""

    counts: dict[str, dict[float, int]]
    """Column -> value -> rows of the train split."""
    conflicts: dict[str, dict[str, int]]
    """Split -> column -> studies whose films disagree; nothing where all agree."""
    values: dict[str, dict[str, list[float]]]
    """Split -> column -> the distinct numbers of its rows, ascending."""


def check_labels(
    config: Config, shards: Collection, splits: Mapping[str, Units], is_training: bool
) -> LookedThrough:
    """Looks through the columns over these splits.

    ConfigError for a column that the films do not have (an evaluation has it not assessed). DataError for a word that no map knows,
    for films of a study that disagree where conflict=error, and for a column that training could not learn a difference from.
    """
    present = _present(config.columns, shards, is_training)
    counts: dict[str, dict[float, int]] = {}
    conflicts: dict[str, dict[str, int]] = {}
    values: dict[str, dict[str, list[float]]] = {split: {} for split in splits}
    shown = {split: units.may_show for split, units in splits.items()}
    for column in present:  # one at a time: a run of ninety heads would hold them all
        coded = shards.films.read([column])[column].combine_chunks().dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy()
        for split, units in splits.items():
            numbers = _numbers(config, column, coded.dictionary, codes, shown[split], split)
            settled = _settled(numbers, units, config.conflict)
            if settled.disagreeing:
                _tell_disagreement(config, column, split, settled, len(units))
                conflicts.setdefault(split, {})[column] = len(settled.disagreeing)
            values[split][column] = np.unique(settled.numbers[~np.isnan(settled.numbers)]).tolist()
            if split == "train":
                counts[column] = _counted(column, settled.numbers)
    return LookedThrough(counts, conflicts, values)


def _settled(numbers: Float[np.ndarray, " film"], units: Units, conflict: str) -> Settled:
    """Of numbers a film (NaN for films that no row may show) those of the rows; a study that shows some of its films counts with all."""
    if (units.clip >= 0).all():
        return Settled(numbers[units.film], [])
    studies, known = units.studies, ~np.isnan(numbers)
    study = studies.study_of_film()[known]
    low, high = np.full(len(studies), np.inf), np.full(len(studies), -np.inf)
    np.minimum.at(low, study, numbers[known])
    np.maximum.at(high, study, numbers[known])
    low, high = low[units.study_row], high[units.study_row]
    disagree = low < high
    settled = np.where(np.isfinite(high) & ((conflict == "max") | ~disagree), high, np.nan)
    return Settled(settled, [units.study_id(row) for row in np.flatnonzero(disagree).tolist()])


def _present(columns: Sequence[str], shards: Collection, is_training: bool) -> list[str]:
    allowed = [name for name in shards.films.names if name in FACTS or name not in RESERVED]
    absent = [column for column in columns if column not in allowed]
    if absent and is_training:
        raise ConfigError(
            f"the films have no label column {absent}; there are: {allowed}. Join it with data.tables, shard again with "
            "--label_columns if it is a column of your table, correct the name (head_column of its head, or "
            "data.fields.labels.columns), or take the head out",
            topic="labels",
        )
    if absent:
        logger.warning("the films have no label column %s: not assessed here", absent)
    return [column for column in columns if column in allowed]


def _numbers(
    config: Config, column: str, written: pyarrow.Array, codes: np.ndarray, films: np.ndarray, split: str
) -> Float[np.ndarray, " film"]:
    """NaN where a film has no label, and for films that the split does not show."""
    words = written.to_pylist()
    meant = np.full(len(words) + 1, np.nan)  # last: code -1, no label
    unknown = []
    for code in np.unique(codes[films & (codes >= 0)]).tolist():
        try:
            number = config.number(column, words[code])
        except ValueError as error:
            unknown.append(str(error))
            continue
        meant[code] = np.nan if number is None else number
    if unknown:
        raise DataError(
            f"label '{column}' of split {split}: {'; '.join(unknown[:_MOST_NAMED])}; give every value its number in the "
            f"labels_map of the head (data.fields.labels.values.{column}), null for one that is to be not assessed",
            topic="labels",
        )
    return np.where(films, meant[codes], np.nan)


def _tell_disagreement(config: Config, column: str, split: str, settled: Settled, num_rows: int) -> None:
    count = len(settled.disagreeing)
    told = f"label '{column}': the films of {count} of {num_rows} studies of split {split} disagree"
    if config.conflict == "error":
        raise DataError(
            f"{told} ({', '.join(settled.disagreeing[:_MOST_NAMED])}); correct the table, or set data.fields.labels.conflict to "
            "max (the highest counts) or drop (not assessed)",
            topic="labels-that-disagree",
        )
    logger.warning("%s; %s", told, CONFLICT_MEANS[config.conflict])


def _counted(column: str, numbers: Float[np.ndarray, " row"]) -> dict[float, int]:
    values, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    if len(values) < 2:
        found = (
            f"{values[0]:g} in all {counts[0]} assessed rows" if len(values) else "not assessed in any row"
        )
        raise DataError(
            f"label '{column}' is {found} of split train: nothing can be learned from it; take its head out, or join labels "
            "with data.tables",
            topic="labels",
        )
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
