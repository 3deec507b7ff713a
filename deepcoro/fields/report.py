"""The text that speaks of a row's clips, as tokens; a text that several rows share is encoded once."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch import Tensor

from deepcoro.config import Block, ConfigError
from deepcoro.sample import StudyRecord, text_id


class Config(Block):
    """Reports of the studies, by their scope."""

    type: Literal["report"] = "report"
    """Which field this is."""
    max_tokens: int = pydantic.Field(256, ge=2)
    """Longer reports are cut here; shorter ones are padded to the longest of the batch only."""

    def build(self, tokenizer: Any = None) -> "ReportField":
        """`tokenizer`: that of the text tower (Hugging Face call convention)."""
        if tokenizer is None:
            raise ConfigError(
                "field 'report' needs the tokenizer of a text tower; add 'towers.text' or drop the field"
            )
        return ReportField(self, tokenizer)


class ReportField:
    """Batch entries `report` {input_ids, attention_mask [text token], index [row]} and `report_id` [row]; -1 = no text."""

    def __init__(self, config: Config, tokenizer: Any) -> None:
        self._max_tokens = config.max_tokens
        self._tokenizer = tokenizer

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> str | None:
        return study.report_of(clip_indices)

    def collate(self, values: list[str | None], num_videos: int) -> dict[str, dict[str, Tensor] | Tensor]:
        """Rows without text (missing, invalid or padding) point at text 0 and have id -1: mask by the id."""
        ids = [text_id(value) for value in values]
        texts: dict[int, str] = {}
        for each, value in zip(ids, values, strict=True):
            if value is not None:
                texts.setdefault(each, value)
        place = {each: number for number, each in enumerate(texts)}
        tokens = self._tokenizer(
            list(texts.values()) or [""],
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        return {
            "report": {
                "input_ids": tokens["input_ids"].long(),
                "attention_mask": tokens["attention_mask"].long(),
                "index": torch.tensor([place.get(each, 0) for each in ids], dtype=torch.int64),
            },
            "report_id": torch.tensor(ids, dtype=torch.int64),
        }
