"""The text that speaks of a row's clips, as tokens; a text that several rows share is encoded once."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deepcoro.config import Block, ConfigError
from deepcoro.matching import Described, packed
from deepcoro.sample import StudyRecord, text_id

_REMEMBERED = 65536
"""Texts whose tokens a process keeps: some 30 MB."""


class Config(Block):
    """Reports of the studies, by their scope."""

    type: Literal["report"] = "report"
    """Which field this is."""
    max_tokens: int = pydantic.Field(256, ge=2)
    """Longer reports are cut here; shorter ones are padded to the longest of the batch only."""
    length_buckets: int = pydantic.Field(1, ge=1, le=16)
    """The distinct texts of a micro-batch go through the text tower in so many groups by length, each padded to its own longest.
    Worth it where long and short reports mix; the embeddings are the same."""

    def build(self, tokenizer: Any = None) -> "ReportField":
        """`tokenizer`: that of the text tower (Hugging Face call convention)."""
        if tokenizer is None:
            raise ConfigError(
                "field 'report' needs the tokenizer of a text tower; add 'towers.text' or drop the field"
            )
        return ReportField(self, tokenizer)


class ReportField:
    """Batch entries `report` {input_ids, attention_mask [text token], index [row]} and `report_id` [row]; -1 = no text.

    With length_buckets `report` also has `buckets`: for each group the text at which it ends and its longest, in tokens. Texts then
    lie by length, and there are as many groups in every batch, since ZeRO-3 needs the same tower calls on every rank: a batch with
    fewer texts repeats its shortest one, which no row points at.
    """

    def __init__(self, config: Config, tokenizer: Any) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._known: dict[str, Tensor] = {}
        self.describe: Callable[[str], Described] | None = None
        """What a rule of positives sees of a text, set where one is in use: `report` then has the
        `meaning` of each text, and the `keys` of all as `deepcoro.matching.Keys`."""
        self._described: dict[str, Described] = {}

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> str | None:
        return study.report_of(clip_indices)

    def collate(self, values: list[str | None], num_videos: int) -> dict[str, dict[str, Any] | Tensor]:
        """Rows without text (missing, invalid or padding) point at text 0 and have id -1: mask by the id."""
        ids = [text_id(value) for value in values]
        texts: dict[int, str] = {}
        for each, value in zip(ids, values, strict=True):
            if value is not None:
                texts.setdefault(each, value)
        tokens = self._tokens(list(texts.values()) or [""])
        order, buckets = list(range(len(tokens))), None
        if self._config.length_buckets > 1:
            order, buckets = _by_length([len(each) for each in tokens], self._config.length_buckets)
        place = {each: order.index(number) for number, each in enumerate(texts)}
        report = self._padded([tokens[number] for number in order])
        report["index"] = torch.tensor([place.get(each, 0) for each in ids], dtype=torch.int64)
        if self.describe is not None:
            described = [self._described_once(text) for text in texts.values()]
            meanings = [each.meaning for each in described] or [-1]
            report["meaning"] = torch.tensor([meanings[number] for number in order], dtype=torch.int64)
            report["keys"] = packed(described)._asdict()
        if buckets:
            report["buckets"] = buckets
        return {"report": report, "report_id": torch.tensor(ids, dtype=torch.int64)}

    def _tokens(self, texts: list[str]) -> list[Tensor]:
        """Each distinct text is tokenised once in this process. By its very letters, not its id: a tokenizer may mind case, and a
        batch must not depend on what was read before."""
        new = [text for text in texts if text not in self._known]
        if new:
            if len(self._known) + len(new) > _REMEMBERED:
                self._known.clear()
                new = texts
            encoded = self._tokenizer(new, truncation=True, max_length=self._config.max_tokens)["input_ids"]
            self._known |= {
                text: torch.tensor(each, dtype=torch.int32) for text, each in zip(new, encoded, strict=True)
            }
        return [self._known[text] for text in texts]

    def _described_once(self, text: str) -> Described:
        if text not in self._described:
            if len(self._described) >= _REMEMBERED:
                self._described.clear()
            self._described[text] = self.describe(text)
        return self._described[text]

    def _padded(self, tokens: list[Tensor]) -> dict[str, Any]:
        # behind the text, whatever the tokenizer prefers: the class token stays in place 0, and a bucket is cut from the left
        mask = [torch.ones(len(each), dtype=torch.int64) for each in tokens]
        return {
            "input_ids": pad_sequence(tokens, True, self._tokenizer.pad_token_id).long(),
            "attention_mask": pad_sequence(mask, True),
        }


def _by_length(lengths: list[int], num_buckets: int) -> tuple[list[int], list[tuple[int, int]]]:
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


def buckets_of(report: dict[str, Any]) -> list[tuple[int, int]]:
    """(end, longest) of each group of texts that goes through the tower together; one group unless length_buckets says more."""
    return report.get("buckets") or [tuple(report["input_ids"].shape)]


def padded_token_fraction(reports: Sequence[dict[str, Any]]) -> float:
    """Share of the tokens that the text tower reads which are padding (or a repeated text that fills a group)."""
    read = real = 0
    for report in reports:
        start = 0
        for end, longest in buckets_of(report):
            read, start = read + (end - start) * longest, end
        shown = torch.unique(report["index"])
        real += int(report["attention_mask"][shown].sum())
    return 1 - real / max(read, 1)
