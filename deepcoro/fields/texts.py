"""Texts of a table in the place of reports: several positives a film, each with a weight, and negatives drawn from the table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic
import torch
from torch import Tensor

from deepcoro.config import Block, ConfigError
from deepcoro.sample import StudyRecord, text_id
from deepcoro.text_bank import TextBank
from deepcoro.tokens import TextFeatures, Tokens


class Config(Block):
    """Texts with edges to films or studies (SigLIP data): `data.fields.report: {type: texts, texts: texts.csv, edges: edges.csv}`."""

    type: Literal["texts"] = "texts"
    """Which field this is."""
    texts: Path
    """CSV with text_id, prompt_text and, where it is not 1, soft_weight."""
    edges: Path
    """CSV with keyed `clip` or `study` ids and text_id (and weight, where it is not 1), or with positive_text_ids (`T1|T2`)."""
    num_positives: int | None = pydantic.Field(default=None, ge=1)
    """Texts of its own that a row brings in training, drawn anew each time; unset = all. Those not drawn are never its negatives."""
    num_negatives: int = pydantic.Field(default=0, ge=0)
    """Further texts that a row brings in training, drawn from the whole table by seed and position. They are negatives of every film of
    the global batch that has no edge to them."""
    max_tokens: int = pydantic.Field(256, ge=2)
    """Longer texts are cut here; shorter ones are padded to the longest of the batch only."""
    length_buckets: int = pydantic.Field(1, ge=1, le=16)
    """As of field `report`."""

    def build(self, tokenizer: Any = None) -> "TextsField":
        """`tokenizer`: that of the text tower (Hugging Face call convention). Reads the tables."""
        if tokenizer is None:
            raise ConfigError(
                "field 'texts' needs the tokenizer of a text tower; add 'towers.text' or drop the field"
            )
        return TextsField(self, tokenizer)


class Shown(NamedTuple):
    """What a row has to say."""

    row_id: int
    positives: dict[int, float]
    """Row of the bank -> weight."""
    shown: list[int]
    """Rows of the bank that this row brings into the batch."""


class TextsField:
    """Batch entries `report` {input_ids, attention_mask [text token], id [text], index [row]}, `report_id` [row] (that of the films shown)
    and `positives` {video_id, text_id, weight [pair]}; -1 = no text. `index` points at a row's first text.
    """

    def __init__(self, config: Config, tokenizer: Any) -> None:
        self.bank = TextBank(config.texts, config.edges)
        self._config = config
        self._tokens = Tokens(tokenizer, config.max_tokens, config.length_buckets)

    @property
    def sha256(self) -> str:
        """Of what the field reads besides the films."""
        return self.bank.sha256

    def join(self, films: Any) -> None:
        """Makes sure that the edges are of these films. DataError when none is."""
        self.bank.join(films)

    def read_features(self, features: TextFeatures) -> None:
        """Texts come with these from now on."""
        self._tokens.features = features

    def text_of(self, study: StudyRecord, clip_indices: tuple[int, ...]) -> str | None:
        """The heaviest of a sample's texts (the first of equals), which evaluation takes for its report; None without any."""
        positives = self.bank.positives_of(study, clip_indices)
        return self.bank.texts[max(positives, key=positives.__getitem__)] if positives else None

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> Shown | None:
        """None for a sample without an edge: nothing is known of it."""
        positives = self.bank.positives_of(study, clip_indices)
        if not positives:
            return None
        names = [study.clips[index].clip for index in clip_indices]
        row_id, own = text_id(" ".join(names)), list(positives)
        if draw is None:
            return Shown(row_id, positives, own)
        most, bank = self._config.num_positives or len(own), len(self.bank.texts)
        if most < len(own):
            own = [own[place] for place in np.sort(draw.choice(len(own), most, replace=False)).tolist()]
        others = draw.choice(bank, min(self._config.num_negatives, bank), replace=False, shuffle=False)
        return Shown(row_id, positives, [*own, *np.sort(others).tolist()])

    def collate(self, values: list[Shown | None], num_videos: int) -> dict[str, dict[str, Any] | Tensor]:
        """Each distinct text once."""
        there = [value for value in values if value is not None]
        rows = list(dict.fromkeys(row for value in there for row in value.shown))
        report, order = self._tokens.of([self.bank.texts[row] for row in rows])
        ids = [self.bank.ids[row] for row in rows] or [-1]
        # a text that is repeated to fill a group has its id again, and counts once
        report["id"] = torch.tensor([ids[number] for number in order], dtype=torch.int64)
        place = {row: order.index(number) for number, row in enumerate(rows)}
        report["index"] = torch.tensor([place[value.shown[0]] if value else 0 for value in values])
        pairs = [
            (value.row_id, self.bank.ids[row], weight)
            for value in there
            for row, weight in value.positives.items()
        ]
        columns = list(zip(*pairs, strict=True)) or [(), (), ()]
        return {
            "report": report,
            "report_id": torch.tensor([value.row_id if value else -1 for value in values], dtype=torch.int64),
            "positives": {
                "video_id": torch.tensor(columns[0], dtype=torch.int64),
                "text_id": torch.tensor(columns[1], dtype=torch.int64),
                "weight": torch.tensor(columns[2], dtype=torch.float64),
            },
        }
