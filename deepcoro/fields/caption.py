"""What the caption decoder is to write of a row: the tasks of its report, packed behind each other in one line of tokens."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deepcoro.captioning.tasks import TASKS, CaptionWords, Exchange, exchanges_of
from deepcoro.config import Block, ConfigError
from deepcoro.sample import StudyRecord

IGNORED = -100
_REMEMBERED = 65536
"""Texts whose tokens a process keeps."""


class Config(Block):
    """Targets of the captioning objective."""

    type: Literal["caption"] = "caption"
    """Which field this is."""
    max_tokens: int = pydantic.Field(128, ge=4)
    """Longest sequence, with its task and end tokens: the positions of the decoder. Longer reports are cut and then have no end."""
    tasks: Literal["report", "one", "all"] = "all"
    """What is asked of a row in training: the whole report alone; one task, drawn among the whole report, a segment's finding and a
    finding's segment and view; or all three beside each other, as in LocCa. A report that the project's grammar cannot read is only
    written whole."""

    def build(self, tokenizer: Any = None) -> "CaptionField":
        """`tokenizer`: that of the text tower (Hugging Face call convention)."""
        if tokenizer is None:
            raise ConfigError(
                "field 'caption' needs the tokenizer of a text tower; add 'towers.text' or drop the field"
            )
        return CaptionField(self, CaptionWords(tokenizer))


class Asked(NamedTuple):
    """A row's tasks, and a number in [0, 1) for each that the objective decides by."""

    exchanges: list[Exchange]
    chances: list[float]


class CaptionField:
    """Batch entry `caption`, everything [row token]: `input_ids`; `targets`, the token that follows (-100 = not to be predicted);
    `sequence`, which of the row's sequences a token belongs to, from 1 (0 = padding); `position` in it; `chance`, one number in
    [0, 1) a sequence, drawn for the row (1 in evaluation).
    """

    def __init__(self, config: Config, words: CaptionWords) -> None:
        self._config = config
        self._words = words
        self._known: dict[str, list[int]] = {}

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> Asked:
        chances = [1.0] * len(TASKS) if draw is None else draw.random(len(TASKS)).tolist()
        text = study.report_of(clip_indices)
        if text is None:
            return Asked([], chances)
        views = {view for index in clip_indices if (view := study.clips[index].view)}
        exchanges = exchanges_of(text, views, draw)
        if self._config.tasks == "report":
            exchanges = exchanges[:1]
        if self._config.tasks == "one":
            exchanges = [exchanges[0 if draw is None else int(draw.integers(len(exchanges)))]]
        return Asked(exchanges, chances)

    def collate(self, values: list[Asked | None], num_videos: int) -> dict[str, dict[str, Tensor]]:
        """Rows without text (missing, invalid or padding) are padding altogether; there is one token at least."""
        rows = [self._row(value) for value in values]
        padding = {"input_ids": self._words.pad, "targets": IGNORED, "chance": 1.0}
        return {
            "caption": {
                name: pad_sequence([row[name] for row in rows], True, padding.get(name, 0))
                for name in rows[0]
            }
        }

    def _row(self, asked: Asked | None) -> dict[str, Tensor]:
        lines: dict[str, list] = {
            name: [] for name in ("input_ids", "targets", "sequence", "position", "chance")
        }
        for exchange, chance in zip(
            asked.exchanges if asked else [], asked.chances if asked else [], strict=False
        ):
            tokens, num_given = self._tokens(exchange)
            size = len(tokens) - 1
            if size < num_given:  # the question alone fills the window
                continue
            lines["input_ids"] += tokens[:-1]
            lines["targets"] += [IGNORED] * (num_given - 1) + tokens[num_given:]
            lines["sequence"] += [1 + max(lines["sequence"], default=0)] * size
            lines["position"] += range(size)
            lines["chance"] += [chance] * size
        if not lines["input_ids"]:
            lines = {
                "input_ids": [self._words.pad],
                "targets": [IGNORED],
                "sequence": [0],
                "position": [0],
                "chance": [1.0],
            }
        return {
            name: torch.tensor(line, dtype=torch.float32 if name == "chance" else torch.int64)
            for name, line in lines.items()
        }

    def _tokens(self, exchange: Exchange) -> tuple[list[int], int]:
        """The whole sequence, cut to the window, and the length of its prefix."""
        prefix = self._words.prefix(exchange.task, exchange.question)
        answer = self._encoded(exchange.answer)
        whole = [*prefix, *answer, self._words.end] if answer else prefix
        return whole[: self._config.max_tokens], len(prefix)

    def _encoded(self, text: str) -> list[int]:
        """By its very letters, as the report field: a batch must not depend on what was read before."""
        if text not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[text] = self._words.encode(text, self._config.max_tokens)
        return self._known[text]
