"""Distinct texts of a batch as tokens, padded by groups of length: what the text tower reads, whichever field the texts are of."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deepcoro.config import DataError

REMEMBERED = 65536
"""Texts whose tokens a process keeps: some 30 MB."""


class Tokens:
    """Makes the entries `input_ids` and `attention_mask` [text token] of a batch.

    With several groups also `buckets`: for each group the text at which it ends and its longest, in tokens. Texts then lie by
    length, and there are as many groups in every batch, since ZeRO-3 needs the same tower calls on every rank: a batch with fewer
    texts repeats its shortest one, which no row points at.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, num_buckets: int) -> None:
        """`tokenizer`: that of the text tower (Hugging Face call convention)."""
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._num_buckets = num_buckets
        self._known: dict[str, Tensor] = {}
        self.features: TextFeatures | None = None
        """Of a frozen tower; the entries then hold `features` [text dim] too."""

    def of(self, texts: Sequence[str]) -> tuple[dict[str, Any], list[int]]:
        """The entries, and which text each of their rows is. Without a text one empty text."""
        tokens = self._tokens(list(texts) or [""])
        order, buckets = list(range(len(tokens))), None
        if self._num_buckets > 1:
            order, buckets = by_length([len(each) for each in tokens], self._num_buckets)
        entries = self._padded([tokens[number] for number in order])
        if buckets:
            entries["buckets"] = buckets
        if self.features is not None:
            found = self.features.of(list(texts) or [""])
            entries["features"] = found[order]
        return entries, order

    def _tokens(self, texts: list[str]) -> list[Tensor]:
        """Each distinct text is tokenised once in this process. By its very letters, not its id: a tokenizer may mind case, and a
        batch must not depend on what was read before."""
        new = [text for text in texts if text not in self._known]
        if new:
            if len(self._known) + len(new) > REMEMBERED:
                self._known.clear()
                new = texts
            encoded = self._tokenizer(new, truncation=True, max_length=self._max_tokens)["input_ids"]
            self._known |= {
                text: torch.tensor(each, dtype=torch.int32) for text, each in zip(new, encoded, strict=True)
            }
        return [self._known[text] for text in texts]

    def _padded(self, tokens: list[Tensor]) -> dict[str, Any]:
        # behind the text, whatever the tokenizer prefers: the class token stays in place 0, and a bucket is cut from the left
        mask = [torch.ones(len(each), dtype=torch.int64) for each in tokens]
        return {
            "input_ids": pad_sequence(tokens, True, self._tokenizer.pad_token_id).long(),
            "attention_mask": pad_sequence(mask, True),
        }


def letters_id(text: str) -> int:
    """63 bits of a text's very letters: a tokenizer may mind case."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class TextFeatures:
    """What a frozen tower made of texts, on disk; each process maps it for itself."""

    IDS, VALUES = "ids.npy", "features.npy"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """fp32. DataError for a text that is not among them."""
        ids, values = self._mapped
        wanted = np.array([letters_id(text) for text in texts])
        place = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
        absent = int((ids[place] != wanted).sum())
        if absent:
            raise DataError(
                f"{absent} of {len(texts)} texts have no feature in {self._folder.name}; were reports changed during the run?"
                " Start it again, or set towers.text.cache_features=false"
            )
        return torch.from_numpy(values[place])

    @cached_property
    def _mapped(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.load(self._folder / name, mmap_mode="r") for name in (self.IDS, self.VALUES))

    def __getstate__(self) -> dict:
        return {"_folder": self._folder}


def by_length(lengths: list[int], num_buckets: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Texts in order of length (the shortest repeated where there are too few), and (end, longest) of each group."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    order = [order[0]] * max(num_buckets - len(order), 0) + order
    ascending = np.array([lengths[number] for number in order])
    ends = _cheapest_cuts(ascending, num_buckets)
    return order, [(end, int(ascending[end - 1])) for end in ends]


def _cheapest_cuts(ascending: np.ndarray, num_buckets: int) -> list[int]:
    """Where to end each group so that the fewest tokens are padded; every group holds a text. Exact, by dynamic programming."""
    count = len(ascending)
    start, end = np.ogrid[: count + 1, : count + 1]
    longest = np.concatenate([[0], ascending])
    cost = np.where(start < end, (end - start) * longest[end], np.inf)
    best = np.where(np.arange(count + 1) == 0, 0.0, np.inf)
    starts = []
    for _ in range(num_buckets):
        total = best[:, None] + cost
        starts.append(total.argmin(axis=0))
        best = total.min(axis=0)
    ends = [count]
    for chosen in reversed(starts[1:]):
        ends.insert(0, int(chosen[ends[0]]))
    return ends
