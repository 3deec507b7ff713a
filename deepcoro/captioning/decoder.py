"""A transformer decoder that reads the un-pooled video tokens of a study while it writes: pre-norm, learned positions.

Every parameter is used inside the forward of the module that owns it, the fused loss included (ZeRO-3 gathers it there).
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.kernels.fused_cross_entropy import LinearCrossEntropy


@dataclass(frozen=True)
class DecoderShape:
    """How large a decoder is."""

    layers: int
    heads: int
    dim: int
    video_dim: int
    num_ids: int
    """What it reads: the words and whatever else has an embedding."""
    num_words: int
    """What it writes: the first of these."""
    max_tokens: int
    dropout: float
    tie_weights: bool


@dataclass(frozen=True)
class Reading:
    """A study's video tokens as the cross-attention of each layer sees them: made once, whatever is written about them."""

    layers: list[tuple[Tensor, Tensor]]
    """Keys and values [row, head, video_token, width] of each layer."""
    mask: Bool[Tensor, "row 1 1 video_token"]


@dataclass
class Written:
    """Keys and values of the tokens that one layer has seen; room for all to come is taken at once."""

    room: int
    keys: Tensor | None = None
    values: Tensor | None = None
    length: int = 0

    def extended(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, [line, head, token, width], these last."""
        if self.keys is None:
            shape = (*keys.shape[:2], self.room, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def keep(self, lines: Int[Tensor, "line"]) -> None:
        """Line i goes on where line `lines[i]` was."""
        self.keys, self.values = self.keys[lines], self.values[lines]


class CaptionDecoder(nn.Module):
    """Tokens and the video tokens of their rows to the loss of what follows (`forward`), or to logits (`read`, then `logits`).

    A row is a study; in generation it may have several lines (beams), which share what was read of the study.
    """

    def __init__(self, shape: DecoderShape, cross_entropy: LinearCrossEntropy):
        super().__init__()
        self.shape = shape
        self.words = WordTable(shape.num_ids, shape.num_words, shape.dim, cross_entropy)
        self.positions = nn.Embedding(shape.max_tokens, shape.dim)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim)
        self.head = None if shape.tie_weights else WordHead(shape.dim, shape.num_words, cross_entropy)
        self.apply(_initialise)

    def forward(
        self,
        ids: Int[Tensor, "row token"],
        position: Int[Tensor, "row token"],
        self_mask: Bool[Tensor, "row token token"],
        targets: Int[Tensor, "row token"],
        video: tuple[Float[Tensor, "row clip video_token video_dim"], Bool[Tensor, "row clip"]],
    ) -> tuple[Float[Tensor, "1"], Float[Tensor, "1"]]:
        """Loss of the targets summed, and how many of them are foremost."""
        mask = rearrange(self_mask, "row query key -> row 1 query key")
        states = self._states(ids, position, mask, self.read(*video), None)
        flat = rearrange(_lowered(states), "row token dim -> (row token) dim")
        output = self.words if self.head is None else self.head
        return output(hidden=flat, targets=rearrange(targets, "row token -> (row token)"))

    def read(
        self, tokens: Float[Tensor, "row clip video_token video_dim"], clip_mask: Bool[Tensor, "row clip"]
    ) -> Reading:
        """The clips of a study as one set of tokens, padded clips masked; a study without a clip reads zero tokens."""
        shown = clip_mask | ~clip_mask.any(dim=1, keepdim=True)
        mask = shown.repeat_interleave(tokens.shape[2], dim=1)
        flat = rearrange(tokens, "row clip video_token dim -> row (clip video_token) dim")
        layers = [block.cross_attention.read(flat) for block in self.blocks]
        return Reading(layers, rearrange(mask, "row key -> row 1 1 key"))

    def logits(
        self, ids: Int[Tensor, "line token"], reading: Reading, written: list[Written] | None = None
    ) -> Float[Tensor, "line word"]:
        """Of the word after the last token, fp32 at least. Lines lie row by row. With `written` (one a layer) `ids` go on
        where it ends and are added to it; without, they are the whole sequence.
        """
        start, size = written[0].length if written else 0, ids.shape[1]
        position = torch.arange(start, start + size, device=ids.device)
        mask = torch.ones(size, start + size, dtype=torch.bool, device=ids.device).tril(start)
        states = self._states(ids, position.expand_as(ids), mask, reading, written)[:, -1]
        logits = (self.words if self.head is None else self.head)(hidden=_lowered(states))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _states(
        self, ids: Tensor, position: Tensor, mask: Tensor, reading: Reading, written: list[Written] | None
    ) -> Tensor:
        states = self.dropout(self.words(ids) + self.positions(position))
        for number, block in enumerate(self.blocks):
            past = written[number] if written else None
            states = block(states, mask, reading.layers[number], reading.mask, past)
        return self.norm(states)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention, MLP, each on the norm of the residual stream. No bias in attention, as in CapPa."""

    def __init__(self, shape: DecoderShape):
        super().__init__()
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(shape.dim) for _ in range(3))
        self.self_attention = SelfAttention(shape.dim, shape.heads)
        self.cross_attention = CrossAttention(shape.dim, shape.video_dim, shape.heads)
        self.mlp = nn.Sequential(
            nn.Linear(shape.dim, 4 * shape.dim), nn.GELU(), nn.Linear(4 * shape.dim, shape.dim)
        )
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self,
        states: Float[Tensor, "line token dim"],
        self_mask: Tensor,
        video: tuple[Tensor, Tensor],
        video_mask: Tensor,
        written: Written | None = None,
    ) -> Float[Tensor, "line token dim"]:
        states = states + self.dropout(self.self_attention(self.self_norm(states), self_mask, written))
        states = states + self.dropout(self.cross_attention(self.cross_norm(states), *video, video_mask))
        return states + self.dropout(self.mlp(self.mlp_norm(states)))


class SelfAttention(nn.Module):
    """Over the tokens of a line, and those written before."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, states: Tensor, mask: Tensor, written: Written | None) -> Tensor:
        split = rearrange(
            self.into(states),
            "line token (part head width) -> part line head token width",
            part=3,
            head=self.heads,
        )
        query, key, value = split.unbind()
        if written is not None:
            key, value = written.extended(key, value)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(rearrange(attended, "line head token width -> line token (head width)"))


class CrossAttention(nn.Module):
    """Over a study's video tokens. All lines of a row ask at once, so that keys and values are there once a study."""

    def __init__(self, dim: int, video_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.into = nn.Linear(video_dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def read(self, video: Float[Tensor, "row video_token video_dim"]) -> tuple[Tensor, Tensor]:
        split = rearrange(
            self.into(video),
            "row token (part head width) -> part row head token width",
            part=2,
            head=self.heads,
        )
        return split[0], split[1]

    def forward(self, states: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        query = rearrange(
            self.query(states),
            "(row line) token (head width) -> row head (line token) width",
            row=len(keys),
            head=self.heads,
        )
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        lines = len(states) // len(keys)
        return self.out(
            rearrange(attended, "row head (line token) width -> (row line) token (head width)", line=lines)
        )


class WordTable(nn.Embedding):
    """Embeddings of ids; with tied weights the output layer too, whose words are the first rows of the table."""

    def __init__(self, num_ids: int, num_words: int, dim: int, cross_entropy: LinearCrossEntropy):
        super().__init__(num_ids, dim)
        self.num_words = num_words
        self.cross_entropy = cross_entropy

    def forward(
        self, ids: Tensor | None = None, hidden: Tensor | None = None, targets: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Of `ids` their embeddings; of `hidden` the logits, or with `targets` the summed loss and hits."""
        if ids is not None:
            return super().forward(ids)
        return _judged(hidden, self.weight[: self.num_words], targets, self.cross_entropy)


class WordHead(nn.Linear):
    """The output layer where it is not the table of embeddings."""

    def __init__(self, dim: int, num_words: int, cross_entropy: LinearCrossEntropy):
        super().__init__(dim, num_words, bias=False)
        self.cross_entropy = cross_entropy

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The logits, or with `targets` the summed loss and hits."""
        return _judged(hidden, self.weight, targets, self.cross_entropy)


def _judged(
    hidden: Tensor, weight: Tensor, targets: Tensor | None, cross_entropy: LinearCrossEntropy
) -> Tensor | tuple[Tensor, Tensor]:
    if targets is None:
        return functional.linear(hidden, weight)
    total, hits = cross_entropy.sum_and_hits(hidden, weight, targets)
    return total.reshape(1), hits.reshape(1)


def _lowered(states: Tensor) -> Tensor:
    """In autocast's format: the last norm gives fp32, and the output layer is the dearest product of all."""
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
