"""Generated tokens to text, as evaluation reads it."""

import re
from typing import Any

import numpy as np
from jaxtyping import Int

# What decoders of word pieces leave apart: pieces (where a tokenizer has no decoder), signs, brackets, hyphens, decimals.
_TIDY = (
    (re.compile(r"\s+##(?=\w)"), ""),
    (re.compile(r"\s+([.,;!?)%])"), r"\1"),
    (re.compile(r"\(\s+"), "("),
    (re.compile(r"(?<=\w)\s+-\s+(?=\w)"), "-"),
    (re.compile(r"(?<=\d)\.\s+(?=\d+%)"), "."),
    (re.compile(r"(?<=\d)%"), " %"),
)


def decode_captions(tokens: Int[np.ndarray, "row token"], tokenizer: Any) -> list[str]:
    """The text of each row up to its end (the tokenizer's end or separator token, or padding), without special tokens.

    A row that ends at once is the empty text: the model said nothing.
    """
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id} - {None}
    starts = {tokenizer.bos_token_id, tokenizer.cls_token_id}
    return [_text(_said(row, starts, ends), tokenizer) for row in tokens.tolist()]


def _said(row: list[int], starts: set[int | None], ends: set[int]) -> list[int]:
    first = int(bool(row) and row[0] in starts)  # some tokenizers begin and end with one token
    length = next((place for place in range(first, len(row)) if row[place] in ends), len(row))
    return row[first:length]


def _text(row: list[int], tokenizer: Any) -> str:
    text = tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())
