"""Every film of a shard folder as one small picture, and what is known of its content."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from deepcoro.config import DataError
from deepcoro.data.film_table import read_films
from deepcoro.data.manifest import SPLIT_NAMES
from deepcoro.data.shards import Shards
from deepcoro.evaluated import label_word
from deepcoro.fields import video

logger = logging.getLogger(__name__)

HEADS = ("main_structure", "contrast_agent", "status", "stent_presence")
"""What is read off a film: columns of films.parquet and of the table that is made."""
_FRAMES = 16
_NOT_ASSESSED = -100  # what torch's cross-entropy leaves out


@dataclass(frozen=True)
class Films:
    """Films in the order of films.parquet, unreadable ones left out. One row each."""

    clips: Sequence[str]
    """Keyed id of the film."""
    patients: np.ndarray
    """Keyed id of its patient, or of its study where no patient is named."""
    splits: np.ndarray
    """Name of its split."""
    pictures: UInt8[Tensor, "film 3 height width"]
    """First frame, darkest value of each pixel over time, middle frame."""
    words: dict[str, list[str | None]]
    """Head -> class of each film; None = not assessed."""

    def of_split(self, split: str) -> "Films":
        chosen = np.flatnonzero(self.splits == split)
        return Films(
            clips=[self.clips[row] for row in chosen],
            patients=self.patients[chosen],
            splits=self.splits[chosen],
            pictures=self.pictures[torch.from_numpy(chosen)],
            words={head: [words[row] for row in chosen] for head, words in self.words.items()},
        )

    def targets(self, head: str, classes: Sequence[str]) -> Tensor:
        """Class numbers; a film that is not assessed, or of a class that the head does not know, is left out of the loss."""
        number = {name: index for index, name in enumerate(classes)}
        return torch.tensor([number.get(word, _NOT_ASSESSED) for word in self.words[head]])


def read_pictures(
    shards: Shards,
    size_px: int,
    on_film: Callable[[], None] = lambda: None,
    splits: Sequence[str] | None = None,
) -> Films:
    """Decodes the films of these splits (None = all). A film that cannot be read is counted and logged, and left out.

    DataError when not one film can be read.
    """
    rows, pictures = [], []
    num_bad = 0
    for row, picture in _pictures(shards, size_px, splits):
        on_film()
        if picture is None:
            num_bad += 1
            continue
        rows.append(row)
        pictures.append(picture)
    if num_bad:
        logger.warning("%d films cannot be read and are left out", num_bad)
    if not rows:
        raise DataError(
            f"no film of the splits {list(splits or shards.splits)} can be read; verify the shard folder",
            topic="empty-split",
        )
    return _described(shards, rows, torch.stack(pictures))


def _pictures(
    shards: Shards, size_px: int, splits: Sequence[str] | None
) -> Iterator[tuple[int, Tensor | None]]:
    """Row in films.parquet and picture of each film; None for one that cannot be read."""
    field = video.Config(frames=_FRAMES, size_px=size_px).build()
    table = shards.studies
    for study_row in range(len(table)):
        if splits is not None and _split_name(int(table.split[study_row])) not in splits:
            continue
        for clip in range(int(table.num_clips[study_row])):
            row = int(table.first_clip[study_row]) + clip
            try:
                record = shards.study(study_row)
                frames = field.decode(
                    record, (clip,), lambda each, study=study_row: shards.read_clip(study, each), None
                )[0]
            except DataError as error:
                logger.debug("%s", error)
                yield row, None
                continue
            yield row, picture_of(frames)


def picture_of(frames: UInt8[Tensor, "channel frame height width"]) -> UInt8[Tensor, "3 height width"]:
    """First frame, minimum over time, middle frame, as grey: what was there before the contrast, all it reached, and how."""
    grey = frames.float().mean(0).round().to(torch.uint8)
    return torch.stack([grey[0], grey.amin(0), grey[len(grey) // 2]])


def _described(shards: Shards, rows: Sequence[int], pictures: Tensor) -> Films:
    table = read_films(shards.folder)
    study = shards.studies.study_of_film()[rows]
    splits = [_split_name(int(code)) for code in shards.studies.split[study]]
    clips, patients, studies = (table[name].to_pylist() for name in ("clip", "patient", "study"))
    words = {
        head: [label_word(value) for value in table[head].to_pylist()] if head in table.column_names else None
        for head in HEADS
    }
    return Films(
        clips=[clips[row] for row in rows],
        patients=np.array([patients[row] or studies[row] for row in rows]),
        splits=np.array(splits),
        pictures=pictures,
        words={
            head: [None] * len(rows) if values is None else [values[row] for row in rows]
            for head, values in words.items()
        },
    )


def _split_name(code: int) -> str:
    """Name of a split; a withdrawn study has none."""
    return SPLIT_NAMES[code] if code >= 0 else ""
