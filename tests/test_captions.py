"""Tokens back to text: up to the end, without special tokens, readable by the report grammar."""

import numpy as np
import pytest

from deepcoro.angiography.grammar import parse
from deepcoro.captions import decode_captions
from deepcoro.towers.text_hf import train_tokenizer
from tests.metrics.test_clinical_findings import generated


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for preset in ("demo", "full") for _, _, text in generated(preset, 15)]


def padded(rows: list[list[int]], fill: int) -> np.ndarray:
    longest = max(map(len, rows))
    return np.array([row + [fill] * (longest - len(row)) for row in rows], np.int64)


def test_reports_come_back_as_the_same_findings(texts):
    tokenizer = train_tokenizer(texts, 4096, 512)
    rows = [tokenizer(text)["input_ids"] for text in texts]
    with_start, without = padded(rows, tokenizer.pad_token_id), padded([row[1:] for row in rows], 0)
    captions = decode_captions(with_start, tokenizer)
    assert captions == decode_captions(without, tokenizer)
    for text, caption in zip(texts, captions, strict=True):
        assert parse(caption) == parse(text)


def test_captions_are_set_as_people_write(texts):
    tokenizer = train_tokenizer(texts, 4096, 512)
    text = "Severe stenosis (80.0 %) of the mid LAD, TIMI 3. In-stent restenosis of 35-45 % in the left main."
    ids = np.array([tokenizer(text)["input_ids"]])
    assert decode_captions(ids, tokenizer) == [text.lower()]
    spelled = np.array([tokenizer("Unheard-of words")["input_ids"]])
    assert decode_captions(spelled, tokenizer) == ["unheard-of words"]


def test_a_caption_ends_where_the_model_ended_it(texts):
    tokenizer = train_tokenizer(texts, 4096, 512)
    start, end, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    word, other = tokenizer("left coronary", add_special_tokens=False)["input_ids"]
    rows = [
        [start, word, end, other],
        [word, pad, other, other],
        [end, word, word, word],
        [word, other, word, other],
    ]
    captions = decode_captions(np.array(rows), tokenizer)
    assert captions == ["left", "left", "", "left coronary left coronary"]
