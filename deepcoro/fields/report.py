"""The text that speaks of a row's clips, as tokens; a text that several rows share is encoded once."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch import Tensor

from deepcoro.config import Block, ConfigError
from deepcoro.matching import Described, packed
from deepcoro.sample import StudyRecord, text_id
from deepcoro.tokens import REMEMBERED, TextFeatures, Tokens


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

    What else `report` may hold says `deepcoro.tokens.Tokens`.
    """

    def __init__(self, config: Config, tokenizer: Any) -> None:
        self._tokens = Tokens(tokenizer, config.max_tokens, config.length_buckets)
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

    def text_of(self, study: StudyRecord, clip_indices: tuple[int, ...]) -> str | None:
        """The text that evaluation takes for a sample's report."""
        return study.report_of(clip_indices)

    def read_features(self, features: TextFeatures) -> None:
        """Texts come with these from now on."""
        self._tokens.features = features

    def collate(self, values: list[str | None], num_videos: int) -> dict[str, dict[str, Any] | Tensor]:
        """Rows without text (missing, invalid or padding) point at text 0 and have id -1: mask by the id."""
        ids = [text_id(value) for value in values]
        texts: dict[int, str] = {}
        for each, value in zip(ids, values, strict=True):
            if value is not None:
                texts.setdefault(each, value)
        report, order = self._tokens.of(list(texts.values()))
        place = {each: order.index(number) for number, each in enumerate(texts)}
        report["index"] = torch.tensor([place.get(each, 0) for each in ids], dtype=torch.int64)
        if self.describe is not None:
            described = [self._described_once(text) for text in texts.values()]
            meanings = [each.meaning for each in described] or [-1]
            report["meaning"] = torch.tensor([meanings[number] for number in order], dtype=torch.int64)
            report["keys"] = packed(described)._asdict()
        return {"report": report, "report_id": torch.tensor(ids, dtype=torch.int64)}

    def _described_once(self, text: str) -> Described:
        if text not in self._described:
            if len(self._described) >= REMEMBERED:
                self._described.clear()
            self._described[text] = self.describe(text)
        return self._described[text]


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
        shown = report["id"] >= 0 if "id" in report else torch.unique(report["index"])
        real += int(report["attention_mask"][shown].sum())
    return 1 - real / max(read, 1)
