"""k-fold cross-validation: a column numbers the folds, one of them is the val split, the others train."""

import logging
from dataclasses import replace

import numpy as np
import pyarrow

from deepcoro.config import Block, ConfigError, DataError
from deepcoro.data.index import StudyTable, split_code
from deepcoro.evaluated import label_word

logger = logging.getLogger(__name__)


class Fold(Block):
    """Which studies are val in this run; a run for each fold gives cross-validation."""

    column: str
    """Column of films.parquet or of data.tables that says of each study (best: patient) which fold it is in."""
    held_out: int | str
    """The fold that is val. The other studies of train and val train; test and inference stay as they are."""


def with_fold(studies: StudyTable, column: pyarrow.Array, fold: Fold) -> StudyTable:
    """The studies with their splits as the fold says. `column`: a value a film.

    ConfigError when no study is in the fold or all are; DataError when a study of train or val has no fold, or two.
    """
    is_open = np.isin(studies.split, [split_code("train"), split_code("val")])
    coded = column.dictionary_encode()
    words = [label_word(value) for value in coded.dictionary.to_pylist()]
    codes = coded.indices.fill_null(-1).to_numpy()
    study, held_out = studies.study_of_film(), label_word(fold.held_out)
    is_known = np.array([*(word is not None for word in words), False])[codes]
    is_held_out = np.array([*(word == held_out for word in words), False])[codes]
    known, inside = (np.bincount(study[each], minlength=len(studies)) for each in (is_known, is_held_out))
    has_films = studies.num_clips > 0
    unknown = int((is_open & has_films & (known == 0)).sum())
    if unknown:
        raise DataError(
            f"data.fold: {unknown} studies of train and val have no '{fold.column}'; give every one a fold in a table of data.tables"
        )
    if (is_open & (inside > 0) & (inside < known)).any():
        raise DataError(
            f"data.fold: films of one study are in two folds of '{fold.column}'; a study is in one"
        )
    is_val = is_open & (inside > 0)
    if not is_val.any() or is_val[is_open & has_films].all():
        raise ConfigError(
            f"data.fold.held_out is {fold.held_out!r}, which {'all' if is_val.any() else 'no'} studies have; '{fold.column}' holds "
            f"{sorted(word for word in words if word is not None)}"
        )
    logger.info("fold '%s' of '%s': %d studies are val", held_out, fold.column, is_val.sum())
    split = np.where(is_open, split_code("train"), studies.split)
    return replace(studies, split=np.where(is_val, split_code("val"), split).astype(studies.split.dtype))
