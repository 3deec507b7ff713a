"""Whether the films of a run say from where they were taken, before a pooler is to learn from it."""

import logging
from collections.abc import Mapping

import numpy as np

from deepcoro.angiography.vocabulary import projection_of
from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.units import Units

logger = logging.getLogger(__name__)

_ANGLES = ("primary_angle_deg", "secondary_angle_deg")
_MOST_NAMED = 5


def check_views(shards: Collection, splits: Mapping[str, Units]) -> None:
    """Logs how many films of each split have angles of the C-arm, or a view word in their place. DataError where no film of the train
    split has either: `pooler.view_embedding` would give every film the same vector.
    """
    films = shards.films.read(["view", *_ANGLES])
    measured = np.any([films[name].is_valid().to_numpy() for name in _ANGLES], axis=0)
    coded = films["view"].combine_chunks().dictionary_encode()
    words = coded.dictionary.to_pylist()
    is_projection = np.array([*(projection_of(word) is not None for word in words), False])  # last: no word
    named = ~measured & is_projection[coded.indices.fill_null(len(words)).to_numpy()]
    unread = [word for word, known in zip(words, is_projection, strict=False) if not known][:_MOST_NAMED]
    other = f"; words that name no projection: {unread}" if unread else ""
    for split, units in splits.items():
        mine = units.may_show
        angles, by_word = int(measured[mine].sum()), int(named[mine].sum())
        if split == "train" and not angles + by_word:
            raise DataError(
                f"pooler.view_embedding has nothing to read: no film of split train has C-arm angles or a view word such as RAO_CAU{other}; "
                "set pooler.view_embedding=false, or shard again with --view_column",
                topic="views",
            )
        level = logging.INFO if angles + by_word else logging.WARNING
        told = f"views of split {split}: {angles} of {mine.sum()} films have C-arm angles, {by_word} a view word in their place{other}"
        logger.log(level, told)
