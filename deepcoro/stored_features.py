"""What a frozen video tower made of films, on disk: rows of numbers in parts, each written once and mapped by whoever reads it.

A part is `NAME.features`, the rows one behind the other, and `NAME.json`, which says whose they are; the latter is written last, so a part
that was not finished does not exist. Parts may be added by several runs at once.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.tokens import letters_id

FEATURES, CARD = ".features", ".json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class _Index:
    """Where the rows of each film are; columns, ascending by the id of its name."""

    ids: np.ndarray
    part: np.ndarray
    first: np.ndarray
    count: np.ndarray


class StoredFeatures:
    """Reads a folder of parts as it was when first asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getstate__(self) -> dict:
        return {"_folder": self._folder}

    def has(self, names: Iterable[str]) -> np.ndarray:
        """Of each film whether its features are there."""
        ids = np.array([letters_id(name) for name in names], np.int64)
        index = self._index
        if not len(index.ids):
            return np.zeros(len(ids), bool)
        return index.ids[self._place(ids)] == ids

    def of(self, name: str) -> Float[Tensor, "clip token dim"]:
        """The clips of a film. DataError for one that is not there."""
        if not self.has([name])[0]:
            raise DataError(f"film {name} has no stored features; it could not be read when they were made")
        index = self._index
        row = self._place(np.array([letters_id(name)]))[0]
        first, count = int(index.first[row]), int(index.count[row])
        return self._parts[int(index.part[row])][first : first + count].clone()

    def no_clip(self) -> Float[Tensor, "1 token dim"]:
        """Zeros that stand in where a batch has no clip."""
        return torch.zeros_like(self._parts[0][:1])

    def _place(self, ids: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._index.ids, ids).clip(max=len(self._index.ids) - 1)

    @cached_property
    def _cards(self) -> list[tuple[Path, dict]]:
        paths = sorted(self._folder.glob(f"*{CARD}"))
        return [(path.with_suffix(FEATURES), json.loads(path.read_text())) for path in paths]

    @cached_property
    def _parts(self) -> list[Tensor]:
        return [_mapped(path, card) for path, card in self._cards]

    @cached_property
    def _index(self) -> _Index:
        ids, part, first, count = [], [], [], []
        for number, (_, card) in enumerate(self._cards):
            counts = np.array(card["clips"], np.int64)
            ids.append(np.array([letters_id(name) for name in card["films"]], np.int64))
            part.append(np.full(len(counts), number))
            first.append(np.cumsum(counts) - counts)
            count.append(counts)
        columns = [
            np.concatenate(each) if each else np.zeros(0, np.int64) for each in (ids, part, first, count)
        ]
        _, one_of_each = np.unique(columns[0], return_index=True)  # two runs may have made the same
        return _Index(*(column[one_of_each] for column in columns))


def write_part(
    folder: Path, names: Sequence[str], clips: Sequence[int], features: Float[Tensor, "clip token dim"]
) -> None:
    """Adds films, each with so many of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]
    dtype = str(features.dtype).removeprefix("torch.")
    path = folder / f"{stem}{FEATURES}"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(memoryview(features.contiguous().flatten().view(torch.uint8).numpy()))
        file.flush()
        os.fsync(file.fileno())
    atomic.publish(temporary, path)
    card = {"films": list(names), "clips": list(clips), "shape": list(features.shape), "dtype": dtype}
    atomic.write_text(folder / f"{stem}{CARD}", json.dumps(card))


def _mapped(path: Path, card: dict) -> Float[Tensor, "clip token dim"]:
    """DataError where the file is not as long as its card says."""
    dtype = _DTYPES[card["dtype"]]
    expected = int(np.prod(card["shape"])) * dtype.itemsize
    size = path.stat().st_size if path.is_file() else 0
    if size != expected:
        raise DataError(
            f"{path.name} holds {size} bytes of stored features, not {expected}; remove {path.parent}"
        )
    # copy on write, though nobody writes: torch has no tensor that is read-only
    mapped = np.memmap(path, np.uint8, "c")
    return torch.from_numpy(mapped).view(dtype).view(*card["shape"])
