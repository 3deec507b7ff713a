"""How captions are written: word by word (greedy, nucleus) or along several beams; a row stops at its end token."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from deepcoro.captioning.decoder import CaptionDecoder, Reading, Written
from deepcoro.config import Block

_STEPS_PER_LOOK = 8
"""Whether every row has ended is asked once in so many words: asking waits for the device."""


class Generation(Block):
    """How captions are written in evaluation. May change on resume."""

    method: Literal["greedy", "beam", "nucleus"] = "greedy"
    """greedy: the likeliest word each time; beam: the likeliest of num_beams captions; nucleus: words drawn among the likeliest that
    hold top_p of the probability (Holtzman et al. 2020, arXiv:1904.09751)."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Most words of a caption; unset = as many as the decoder has positions for."""
    num_beams: int = Field(4, ge=1)
    """Captions that beam search follows at a time."""
    length_penalty: float = Field(1.0, ge=0)
    """Beams are compared at the end by log-probability / words^this: 0 prefers short captions, 1 compares means."""
    temperature: float = Field(1.0, gt=0)
    """nucleus: logits are divided by this before drawing."""
    top_p: float = Field(0.9, gt=0, le=1)
    """nucleus: share of the probability that is drawn from."""
    seed: int = 0
    """nucleus: with the row's unit it settles every draw, whatever batch or rank the row is in."""


@runtime_checkable
class Writer(Protocol):
    """What a search asks: it hands in the next tokens of every line and gets the logits of what follows."""

    def logits(self, tokens: Int[Tensor, "line token"]) -> Float[Tensor, "line word"]: ...

    def keep(self, lines: Int[Tensor, "line"]) -> None: ...


class CachedWriter:
    """Keys and values of what was written are kept, so a word costs one token's work; those of the video are made once."""

    def __init__(self, decoder: CaptionDecoder, reading: Reading, room: int):
        self._decoder, self._reading = decoder, reading
        self._written = [Written(room) for _ in decoder.blocks]

    def logits(self, tokens: Int[Tensor, "line token"]) -> Float[Tensor, "line word"]:
        return self._decoder.logits(tokens, self._reading, self._written)

    def keep(self, lines: Int[Tensor, "line"]) -> None:
        """Line i goes on from what line `lines[i]` has written."""
        for layer in self._written:
            layer.keep(lines)


class Script:
    """The lines as they grow: words, and whether each has ended."""

    def __init__(self, num_lines: int, length: int, end: int, pad: int, device: torch.device):
        self.end, self.pad = end, pad
        self.tokens = torch.full((num_lines, length), pad, device=device)
        self.has_ended = torch.zeros(num_lines, dtype=torch.bool, device=device)

    def allowed(self, logits: Tensor) -> Tensor:
        """A pad is no word, unless it ends the caption too."""
        if self.pad == self.end:
            return logits
        return logits.index_fill(-1, torch.tensor([self.pad], device=logits.device), -torch.inf)

    def write(self, step: int, words: Int[Tensor, "line"]) -> Int[Tensor, "line 1"]:
        words = words.masked_fill(self.has_ended, self.pad)
        self.tokens[:, step] = words
        self.has_ended = self.has_ended | (words == self.end)
        return rearrange(words, "line -> line 1")

    def is_over(self, step: int) -> bool:
        return (step + 1) % _STEPS_PER_LOOK == 0 and bool(self.has_ended.all())


def write_captions(
    writer: Writer,
    prefix: Int[Tensor, "row token"],
    script: Script,
    settings: Generation,
    units: Sequence[int],
) -> Int[Tensor, "row word"]:
    """What follows the prefix: words up to and with the end token, then pads. `units` name the rows, for nucleus."""
    if settings.method == "beam":
        return _search(writer, prefix, script, settings)
    choose = _likeliest
    if settings.method == "nucleus":
        choose = _nucleus(settings, units, script.tokens.shape[1], prefix.device)
    tokens = prefix
    for step in range(script.tokens.shape[1]):
        tokens = script.write(step, choose(script.allowed(writer.logits(tokens)), step))
        if script.is_over(step):
            break
    return script.tokens


def _likeliest(logits: Tensor, step: int) -> Tensor:
    return logits.argmax(dim=-1)


def _nucleus(
    settings: Generation, units: Sequence[int], length: int, device: torch.device
) -> Callable[[Tensor, int], Tensor]:
    """Draws by the inverse of the cumulative distribution, likeliest word first; a number a row and word, fixed beforehand."""
    draws = torch.stack([_draws_of(settings.seed, unit, length) for unit in units]).to(device)

    def choose(logits: Tensor, step: int) -> Tensor:
        chances, words = (
            (logits / settings.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        )
        before = chances.cumsum(dim=-1) - chances
        chances = chances.masked_fill(before >= settings.top_p, 0)  # the first always stays
        reached = chances.cumsum(dim=-1)
        drawn = draws[:, step, None] * reached[:, -1:]
        place = torch.searchsorted(reached, drawn, right=True).clamp(
            max=(chances > 0).sum(-1, keepdim=True) - 1
        )
        return words.gather(-1, place)[:, 0]

    return choose


def _draws_of(seed: int, unit: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + unit) % 2**63)
    return torch.rand(length, generator=generator)


def _search(writer: Writer, prefix: Tensor, script: Script, settings: Generation) -> Tensor:
    """Lines are beams, row by row; one that has ended stays as it is and competes with its score."""
    rows, beams = len(prefix), settings.num_beams
    device = prefix.device
    # all beams of a row start alike, so at first only one of them counts
    scores = torch.full((rows, beams), -torch.inf, device=device)
    scores[:, 0] = 0
    tokens = repeat(prefix, "row token -> (row beam) token", beam=beams)
    first_line = rearrange(torch.arange(rows, device=device) * beams, "row -> row 1")
    for step in range(script.tokens.shape[1]):
        gained = script.allowed(writer.logits(tokens)).log_softmax(dim=-1)
        only_pad = torch.full_like(gained[:1], -torch.inf)
        only_pad[:, script.pad] = 0
        gained = torch.where(script.has_ended[:, None], only_pad, gained)
        total = rearrange(scores, "row beam -> row beam 1") + rearrange(
            gained, "(row beam) word -> row beam word", beam=beams
        )
        scores, best = rearrange(total, "row beam word -> row (beam word)").topk(beams)
        lines = rearrange(first_line + best // gained.shape[1], "row beam -> (row beam)")
        writer.keep(lines)
        script.tokens, script.has_ended = script.tokens[lines], script.has_ended[lines]
        tokens = script.write(step, rearrange(best % gained.shape[1], "row beam -> (row beam)"))
        if script.is_over(step):
            break
    length = _num_words(script)
    chosen = (
        scores / rearrange(length, "(row beam) -> row beam", beam=beams) ** settings.length_penalty
    ).argmax(1)
    return script.tokens[first_line[:, 0] + chosen]


def _num_words(script: Script) -> Tensor:
    """Words of each line, its end included."""
    after_end = (script.tokens == script.end).cumsum(dim=1) - (script.tokens == script.end).long()
    return (after_end == 0).sum(dim=1).clamp(min=1)
