"""A batch as large as a run's batches can be, and the model they go through, from the config alone: no shard and no weights are read."""

import functools
import itertools
import logging
import string
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from deepcoro.build import build_fields
from deepcoro.fields.texts import Config as TextsConfig
from deepcoro.model import Batch, VideoTextModel
from deepcoro.run_config import RunConfig
from deepcoro.sample import ClipRecord, Report, StudyRecord
from deepcoro.towers.text_hf import Config as HfText
from deepcoro.towers.text_hf import train_tokenizer

logger = logging.getLogger(__name__)

BERT_WORDS, BERT_POSITIONS = 30522, 512


class Architecture:
    """In the place of `from_scratch`: the encoder that a name or a folder stands for, with random weights."""

    def __init__(self, settings: Any):
        self.settings = settings
        self.vocabulary_size: int = settings.vocab_size
        self.max_tokens: int = settings.max_position_embeddings

    def build(self, num_tokens: int, attention: str) -> torch.nn.Module:
        from transformers import AutoModel

        return AutoModel.from_config(self.settings, attn_implementation=attention)


def without_files(config: RunConfig) -> RunConfig:
    """The config of a run of the same size that reads neither weights nor a hub."""
    video, text = config.towers.video, config.towers.text
    if getattr(video, "weights", None) is not None:
        video = video.model_copy(update={"weights": None})
    if getattr(video, "pretrained", False):
        video = video.model_copy(update={"pretrained": False})
    if isinstance(text, HfText) and text.from_scratch is None:
        text = text.model_copy(update={"from_scratch": _architecture(text.model)})
    towers = config.towers.model_copy(update={"video": video, "text": text})
    return config.model_copy(update={"towers": towers})


@functools.cache
def _architecture(model: str) -> Architecture:
    from transformers import AutoConfig, BertConfig

    try:
        return Architecture(AutoConfig.from_pretrained(model, local_files_only=True))
    except (OSError, ValueError):
        logger.info("%s is not on this machine: counted as a BERT of base size, which BioMedBERT is", model)
        return Architecture(
            BertConfig(vocab_size=BERT_WORDS, max_position_embeddings=BERT_POSITIONS, pad_token_id=0)
        )


def make_tokenizer(config: RunConfig) -> Any:
    """As many words as the text tower's has, none of which means anything; None without a text tower."""
    text = config.towers.text
    if text is None:
        return None
    return _tokenizer(text.from_scratch.vocabulary_size, text.from_scratch.max_tokens)


@functools.cache
def _tokenizer(size: int, positions: int) -> Any:
    letters = itertools.product(string.ascii_lowercase, repeat=4)
    return train_tokenizer(("".join(next(letters)) for _ in range(size)), size, positions)


def make_model(config: RunConfig, tokenizer: Any) -> VideoTextModel:
    """In training mode; under `pretended` in no time."""
    return VideoTextModel(config, tokenizer, 100.0, 60.0).train()


def make_batch(config: RunConfig, tokenizer: Any, rows: int, text_tokens: int | None = None) -> Batch:
    """`rows` samples with all their clips, each with a report of its own of `text_tokens` (unset: the longest that the fields take)."""
    studies = [_study(config, number, text_tokens) for number in range(rows)]
    clips = tuple(range(config.data.num_videos if config.data.multi_video else 1))
    numbers = torch.arange(rows)
    batch: Batch = {"valid": torch.ones(rows, dtype=torch.bool), "position": numbers, "unit": numbers}
    for name, field in build_fields(_readable(config), tokenizer).items():
        if name == "video":
            video = config.data.fields["video"]
            film = torch.zeros(1, video.frames, video.size_px, video.size_px, dtype=torch.uint8)
            values = [[film] * config.data.clips_per_sample] * rows
        else:
            values = [field.decode(study, clips, _no_bytes, np.random.default_rng(0)) for study in studies]
        batch |= field.collate(values, len(clips))
    return batch


def _readable(config: RunConfig) -> RunConfig:
    """Texts of a table of their own are counted as reports of the same length."""
    from deepcoro.fields.report import Config as ReportConfig

    fields: Mapping[str, Any] = {
        name: ReportConfig(max_tokens=field.max_tokens) if isinstance(field, TextsConfig) else field
        for name, field in config.data.fields.items()
    }
    return config.model_copy(update={"data": config.data.model_copy(update={"fields": dict(fields)})})


def _no_bytes(number: int) -> bytes:
    return b""


def _study(config: RunConfig, number: int, text_tokens: int | None) -> StudyRecord:
    longest = max((getattr(field, "max_tokens", 0) for field in config.data.fields.values()), default=0)
    first = np.base_repr(number, 26).lower().zfill(4)
    words = [first, *["aaaa"] * ((text_tokens or longest) - 3)]
    clip = ClipRecord(clip="film", member="000.mjpg", frame_offsets=[0, 1], height=512, width=512)
    clips = [
        clip.model_copy(update={"clip": f"{number}.{index}"})
        for index in range(config.data.num_videos if config.data.multi_video else 1)
    ]
    return StudyRecord(study=str(number), clips=clips, reports=[Report(scope="study", text=" ".join(words))])
