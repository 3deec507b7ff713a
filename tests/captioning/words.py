"""A tokenizer, a small objective and its batches for tests of captions."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deepcoro.captioning.tasks import Exchange
from deepcoro.features import Features, Surroundings, VideoFeatures
from deepcoro.fields import caption
from deepcoro.fields.caption import Asked, CaptionField
from deepcoro.objectives.captioning import Captioning, Config

WORDS = ["[PAD]", "[SEP]", "[UNK]", "left", "right", "severe", "mild", "stenosis", "of", "the", "lad", "rca"]
VIDEO_DIM, VIDEO_TOKENS, WINDOW = 6, 3, 10


def make_tokenizer() -> Any:
    model = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"
    )


def make_field(**settings: Any) -> CaptionField:
    return caption.Config(**{"max_tokens": WINDOW} | settings).build(make_tokenizer())


def make_objective(**settings: Any) -> Captioning:
    """In fp64, with weights large enough that every part of it matters."""
    torch.manual_seed(0)
    config = Config(**{"decoder_layers": 2, "decoder_heads": 2} | settings)
    beside = Surroundings(VIDEO_DIM, 8, make_tokenizer(), frames=4, size_px=32, caption_tokens=WINDOW)
    objective = config.build(beside).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.ndim > 1:
                parameter.mul_(20)
    return objective


def asked(*texts: str, chance: float = 1.0) -> Asked:
    """`report`, `question: answer` (a finding)."""
    exchanges = []
    for text in texts:
        question, colon, answer = text.partition(": ")
        exchanges.append(Exchange("finding", question, answer) if colon else Exchange("report", "", text))
    return Asked(exchanges, [chance] * len(exchanges))


def make_features(num_clips: list[int], width: int | None = None, seed: int = 0) -> Features:
    """A study a row with so many clips, padded to `width`."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(num_clips)
    mask = torch.arange(width) < torch.tensor(num_clips)[:, None]
    tokens = torch.zeros(len(num_clips), width, VIDEO_TOKENS, VIDEO_DIM, dtype=torch.float64)
    for row, count in enumerate(num_clips):
        tokens[row, :count] = torch.randn(
            count, VIDEO_TOKENS, VIDEO_DIM, generator=generator, dtype=torch.float64
        )
    return Features(clips=VideoFeatures(tokens, mask, has_class_token=False))


def make_batch(rows: list[Asked | None], field: CaptionField | None = None) -> dict[str, Any]:
    batch = (field or make_field()).collate(rows, 1)
    valid = torch.tensor([row is not None for row in rows])
    return batch | {"valid": valid, "unit": torch.arange(len(rows))}
