"""The order that a run's configuration asks for, over the films that it has."""

import logging
from collections.abc import Iterable

import numpy as np
import pyarrow

from deepcoro.data.balance import Rule, Samples, mixed, order_of
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.data.film_table import as_words
from deepcoro.data.order import Order
from deepcoro.data.units import Units

logger = logging.getLogger(__name__)


def training_order(shards: Collection, units: Units, data: Data, seed: int, rows_per_step: int) -> Order:
    """ConfigError when a column, or a source, cannot be drawn from as the config says."""
    names, label = classes_of_units(shards, units, data) if data.balance_by else ((), None)
    samples = Samples(units.shard, units.study_row if data.balance == "study" else None, label)
    rule = Rule(
        seed=seed,
        shards_per_window=data.shards_per_window,
        balance=data.balance,
        apart=rows_per_step,
        power=data.balance_power,
        classes=[f"{data.balance_by}/{name}" for name in names],
    )
    weights = {name: source.weight for name, source in data.sources.items()}
    if None in weights.values() or not weights:
        order = order_of(samples, rule)
    else:
        order = mixed(samples, shards.source_of_study(units.study_row), weights, rule)
    logger.info(
        "%d samples in %d shards, shuffled within windows of %d; an epoch is %d samples, %.1f steps",
        len(units),
        len(np.unique(samples.shard)),
        data.shards_per_window,
        order.num_units,
        order.num_units / rows_per_step,
    )
    return order


def classes_of_units(shards: Collection, units: Units, data: Data) -> tuple[list[str], np.ndarray]:
    """Names of the classes of `data.balance_by` in order, and that of each unit; -1 = not assessed, and not drawn.

    A study has the class that its films agree on; where they disagree it is not assessed.
    """
    words, of_film = _numbered_words(shards.films.batches([data.balance_by]))
    names = sorted(words)
    place = {name: number for number, name in enumerate(names)}
    of_unit = np.array([*(place[word] for word in words), -1], np.int32)[_of_units(of_film, units)]
    if data.balance_not_assessed == "own_class":
        of_unit = np.where(of_unit < 0, len(names), of_unit).astype(np.int32)
        names.append("not_assessed")
    return names, of_unit


def _numbered_words(tables: Iterable[pyarrow.Table]) -> tuple[list[str], np.ndarray]:
    """The values of a column as words, and the number of each film's among them; -1 = null."""
    numbers: dict[str, int] = {}
    parts = []
    for table in tables:
        column = table.column(0).combine_chunks().dictionary_encode()
        words = as_words(column.dictionary).to_pylist()
        own = np.array([*(numbers.setdefault(word, len(numbers)) for word in words), -1], np.int32)
        parts.append(own[column.indices.fill_null(len(words)).to_numpy()])
    return list(numbers), np.concatenate(parts)


def _of_units(of_film: np.ndarray, units: Units) -> np.ndarray:
    studies = units.studies
    if (units.clip >= 0).all():
        return of_film[units.film]
    study, lowest = studies.study_of_film(), np.full(len(studies), np.iinfo(np.int32).max, np.int32)
    highest = np.full(len(studies), -1, np.int32)
    known = of_film >= 0 if units.kept is None else (of_film >= 0) & units.kept
    np.minimum.at(lowest, study[known], of_film[known])
    np.maximum.at(highest, study[known], of_film[known])
    return np.where(lowest == highest, highest, -1)[units.study_row]
