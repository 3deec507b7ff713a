"""Contrastive losses in tiles: exact over ranks, at a memory of rows times width instead of rows times rows.

A rank holds its videos and sees the texts of all ranks. A tile of logits is made, used for loss and gradient of both
directions, and forgotten. Softmax (CLIP) makes every tile twice, once for the normalisers; sigmoid (SigLIP) once. With b
videos of the rank, B texts of all, width D, features of e bytes and tiles of m x m, the ring holds at most two blocks of
texts, two of their gradients and the videos' gradient, (2 e + 12) b D bytes, and three tiles; the gathered form (e + 4) B D + 8 b D
bytes. FLOPs are 8 b B D (SigLIP 6), against 12 of the dense form. Distributed softmax in tiles: Cheng et al. 2024 (Inf-CL,
arXiv:2410.17243); here both directions come out of one pass, the logits of half formats are fp32, positives are many and weighed.

Gradients are taken in forward, where the ranks talk to each other; backward is local and multiplies them by the upstream
gradient, which has to be the same on all ranks, as it is under a global normalisation.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from deepcoro.distributed import world_size
from deepcoro.kernels.text_blocks import GatheredTexts, RingTexts, TextBlock
from deepcoro.pairing import EXCLUDED, Pairs, shared_hits

Form = Literal["auto", "dense", "gather", "ring"]
# gathered texts and their gradient on a GPU of 80 GB: little beside the activations, and one exchange instead of many
_GATHERED_BYTES = 2**30
# Logits of a rank past which tiles take fewer CPU seconds than the dense form, for both losses
# (docs/benchmarks/2026-11-25-contrastive.md). On a GPU, where it is not measured, one tile decides alone.
_DENSE_ON_CPU = 128**2


@dataclass(frozen=True)
class Tiling:
    """In which form a loss is computed; all forms give the same numbers."""

    form: Form = "auto"
    size: int = 1024

    def chosen_for(self, pairs: Pairs) -> Literal["dense", "gather", "ring"]:
        """`auto`: dense while a rank's logits fill no more than a tile (on a CPU also no more than 128 x 128), gather while texts and
        gradient fit 1 GiB, else ring.

        The same on every rank: it asks for the rows of the rank that has most. One rank alone has no ring.
        """
        counts, texts = pairs.texts.counts, pairs.texts.given
        num_logits = max(pairs.videos.counts) * sum(counts)
        few = self.size**2 if texts.is_cuda else min(self.size**2, _DENSE_ON_CPU)
        if self.form == "dense" or (self.form == "auto" and num_logits <= few):
            return "dense"
        if world_size() == 1:
            return "gather"
        if self.form != "auto":
            return self.form
        gathered = (
            len(counts) * max(counts) * texts.shape[1] * (texts.element_size() + pairs.texts.wide.itemsize)
        )
        return "gather" if gathered <= _GATHERED_BYTES else "ring"


class Share(NamedTuple):
    """What a rank contributes: over ranks the sums add up to the loss times its count; the accuracy is this rank's."""

    sum: Float[Tensor, ""]
    in_batch_accuracy: Float[Tensor, "1"]


def tiled_share(
    pairs: Pairs, logit_scale: Float[Tensor, "1"], logit_bias: Float[Tensor, "1"] | None, tiling: Tiling
) -> Share:
    """Softmax loss without a bias, sigmoid loss with one. Collective, and differentiable once.

    Whether gradients are wanted has to be the same on every rank.
    """
    leaves = [pairs.videos.given, pairs.texts.given, logit_scale, logit_bias]
    wants_gradient = torch.is_grad_enabled() and any(
        each is not None and each.requires_grad for each in leaves
    )
    if logit_bias is None:
        begin = functools.partial(_Softmax, pairs, logit_scale, tiling)
    else:
        begin = functools.partial(_Sigmoid, pairs, logit_scale, logit_bias, tiling)
    return Share(*_Tiled.apply(*leaves, begin, wants_gradient))


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        video: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        begin: Callable[[], "_Softmax | _Sigmoid"],
        wants_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(video.device.type, enabled=False):
            work = begin()
            loss = work.run(wants_gradient)
            accuracy = shared_hits(work.hits, work.ties, work.pairs)
        if wants_gradient:
            ctx.save_for_backward(*work.gradients())
            ctx.dtypes = [None if each is None else each.dtype for each in (video, text, scale, bias)]
        ctx.mark_non_differentiable(accuracy)
        return loss, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [
            None if each is None else (upstream * each).to(dtype)
            for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None


@dataclass(frozen=True)
class _Tile:
    """Some videos against some texts; `logits` may be overwritten, `spare` is a second matrix of its shape."""

    block: TextBlock
    rows: slice
    columns: slice
    """Among the texts of all ranks."""
    videos: Float[Tensor, "row dim"]
    """Times the scale."""
    texts: Float[Tensor, "column dim"]
    logits: Float[Tensor, "row column"]
    spare: Float[Tensor, "row column"]
    weights: Float[Tensor, "row column"]

    def add_gradients(self, by_video: Tensor) -> None:
        """`logits` has become the derivative by the logits."""
        by_video[self.rows].addmm_(self.logits, self.texts)
        start = self.columns.start - self.block.columns.start
        self.block.gradient[start : start + len(self.texts)].addmm_(self.logits.T, self.videos)


class _Tiles:
    """This rank's videos against the texts of all: tiles, the gradients they add to, and each video's nearest text."""

    def __init__(self, pairs: Pairs, scale: Tensor, tiling: Tiling):
        self.pairs, self.videos, self.texts = pairs, pairs.videos, pairs.texts
        self.wide, self.size = self.videos.wide, tiling.size
        self.scale = scale.detach().to(self.wide)
        self.carrier = (RingTexts if tiling.chosen_for(pairs) == "ring" else GatheredTexts)(pairs.texts)
        given = self.videos.given
        cells = min(self.size, len(given)) * min(self.size, max(self.texts.counts))
        self._buffers = [given.new_empty(cells, dtype=self.wide) for _ in range(3)]
        # far below every logit, and still finite when a row's and a column's meet: infinities would give NaN
        self._far = torch.finfo(self.wide).min / 4
        self._of_row = self._far * (self.videos.ids == EXCLUDED).to(self.wide)
        self.by_video: Tensor | None = None
        self.best = given.new_full((len(given),), -torch.inf, dtype=self.wide)
        self.hits, self.ties = torch.zeros_like(self.best), torch.zeros_like(self.best)

    def tiles(self, block: TextBlock) -> Iterator[_Tile]:
        first = block.columns.start
        for start in range(0, len(self.videos.given), self.size):
            rows = slice(start, min(start + self.size, len(self.videos.given)))
            videos = self._wide_videos(rows).mul_(self.scale)
            for begin in range(0, len(block.rows), self.size):
                texts = block.rows[begin : begin + self.size].to(self.wide)
                columns = slice(first + begin, first + begin + len(texts))
                logits, spare, weights = (
                    buffer[: len(videos) * len(texts)].view(len(videos), len(texts))
                    for buffer in self._buffers
                )
                of_column = self._far * (self.texts.all_ids[columns] == EXCLUDED).to(self.wide)
                torch.add(self._of_row[rows, None], of_column, out=logits)
                yield _Tile(
                    block, rows, columns, videos, texts, logits.addmm_(videos, texts.T), spare, weights
                )

    def weigh(self, tile: _Tile) -> None:
        """Fills in how much each pair is a positive, and sees which text is nearest. Logits stay as they are."""
        video_ids, text_ids = self.videos.ids[tile.rows], self.texts.all_ids[tile.columns]
        if self.pairs.weights is None:
            # an id of its own for excluded videos: else excluded texts would be their positives
            nobody = torch.iinfo(torch.int64).min
            torch.eq(
                video_ids.masked_fill(video_ids == EXCLUDED, nobody)[:, None], text_ids, out=tile.weights
            )
        else:
            tile.weights.copy_(self.pairs.of_block(video_ids, text_ids, self.wide))
        top = tile.logits.amax(dim=1)
        is_top = torch.eq(tile.logits, top[:, None], out=tile.spare)
        ties = is_top.sum(dim=1)
        hits = is_top.mul_(tile.weights if self.pairs.weights is None else tile.weights > 0).sum(dim=1)
        best = self.best[tile.rows]
        for total, of_tile in ((self.ties, ties), (self.hits, hits)):
            kept = total[tile.rows]
            kept.copy_(torch.where(top > best, of_tile, torch.where(top == best, kept + of_tile, kept)))
        torch.maximum(best, top, out=best)

    def visit(self, with_gradient: bool) -> Iterator[_Tile]:
        if with_gradient:
            self.by_video = torch.zeros_like(self.videos.given, dtype=self.wide)
        for block in self.carrier.visit(with_gradient):
            yield from self.tiles(block)

    def gradients(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Of videos, texts, scale and bias; `by_video` has been summed without the scale, which gives the scale's own."""
        by_scale = torch.zeros_like(self.scale)
        for start in range(0, len(self.videos.given), self.size):
            rows = slice(start, start + self.size)
            by_scale += (self._wide_videos(rows) * self.by_video[rows]).sum()
        return self.by_video.mul_(self.scale), self.carrier.gradient, by_scale, None

    def _wide_videos(self, rows: slice) -> Tensor:
        excluded = self.videos.ids[rows] == EXCLUDED
        return self.videos.given[rows].detach().to(self.wide).masked_fill(excluded[:, None], 0)


class _Softmax(_Tiles):
    """Half of video-to-text and half of text-to-video, each text query weighed by video queries / text queries."""

    def run(self, wants_gradient: bool) -> Tensor:
        """The loss of this rank's share; its gradients are kept."""
        per_video, per_text = self._query_weights()
        row_normaliser, column_normaliser = self._normalisers()
        loss = torch.where(per_video > 0, per_video * row_normaliser, 0).sum()
        own = slice(self.texts.start, self.texts.start + len(self.texts.given))
        loss += torch.where(per_text > 0, per_text * column_normaliser, 0)[own].sum()
        row_pull, column_pull = self._pulls(per_video, per_text)
        # a weight of 0 moves the normaliser to infinity, and the softmax to 0
        row_shift, column_shift = row_normaliser - per_video.log(), column_normaliser - per_text.log()
        del per_text, column_normaliser  # as long as the texts of all ranks
        for tile in self.visit(wants_gradient):
            self.weigh(tile)
            pulled = torch.mul(tile.logits, tile.weights, out=tile.spare)
            loss -= pulled.sum(dim=1) @ row_pull[tile.rows]
            if column_pull is not None:
                loss -= pulled.sum(dim=0) @ column_pull[tile.columns]
            if not wants_gradient:
                continue
            by_row = torch.sub(tile.logits, row_shift[tile.rows, None], out=tile.spare).exp_()
            tile.logits.sub_(column_shift[tile.columns]).exp_().add_(by_row)
            tile.logits.addcmul_(tile.weights, row_pull[tile.rows, None], value=-1)
            if column_pull is not None:
                tile.logits.addcmul_(tile.weights, column_pull[tile.columns], value=-1)
            tile.add_gradients(self.by_video)
        return loss

    def _query_weights(self) -> tuple[Tensor, Tensor]:
        """What the cross-entropy of each of my videos and of each text of all ranks counts."""
        pairs = self.pairs
        per_video = (pairs.video_totals > 0).to(self.wide) / 2
        ratio = pairs.num_video_queries / pairs.num_text_queries.clamp(min=1).double()
        return per_video, ((pairs.all_text_totals() > 0) * ratio / 2).to(self.wide)

    def _pulls(self, per_video: Tensor, per_text: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a positive's weight is multiplied with: a part by its video, a part by its text.

        Of equal ids the video's id tells both parts, which saves a pass over every tile.
        """
        row_pull = _quotient(per_video, self.pairs.video_totals)
        if self.pairs.weights is not None:
            return row_pull, _quotient(per_text, self.pairs.all_text_totals())
        # every text with a positive counts alike
        of_one_text = functional.pad(per_text, (0, 1)).amax()
        return row_pull + _quotient(of_one_text, self.pairs.videos_of_same_id()), None

    def _normalisers(self) -> tuple[Tensor, Tensor]:
        """Log-sum-exp of the logits of each of my videos, and of each text over the videos of all ranks."""
        rows = torch.full_like(self.best, -torch.inf)
        columns = rows.new_full((sum(self.texts.counts),), -torch.inf)
        for tile in self.visit(with_gradient=False):
            _add_log_sum_exp(rows[tile.rows], tile, dim=1)
            _add_log_sum_exp(columns[tile.columns], tile, dim=0)
        return rows, _log_sum_exp_over_ranks(columns)


class _Sigmoid(_Tiles):
    """Every pair by itself: softplus(logit) - weight x logit, which for weights 0 and 1 is -log sigmoid(-+ logit)."""

    def __init__(self, pairs: Pairs, scale: Tensor, bias: Tensor, tiling: Tiling):
        super().__init__(pairs, scale, tiling)
        self._of_row += bias.detach().to(self.wide)
        self.by_bias = torch.zeros_like(self.scale)

    def run(self, wants_gradient: bool) -> Tensor:
        """The loss of this rank's share; its gradients are kept."""
        loss = torch.zeros_like(self.scale[0])
        for tile in self.visit(wants_gradient):
            self.weigh(tile)
            loss += self._loss(tile)
            if wants_gradient:
                tile.logits.sigmoid_().sub_(tile.weights)
                self.by_bias += tile.logits.sum()
                tile.add_gradients(self.by_video)
        return loss

    def gradients(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return *super().gradients()[:3], self.by_bias

    def _loss(self, tile: _Tile) -> Tensor:
        # the sign of positives is turned first: softplus(20) - 20 has lost what softplus(-20) still has
        turned = tile.weights if self.pairs.weights is None else (tile.weights > 0.5).to(self.wide)
        signed = torch.addcmul(tile.logits, tile.logits, turned, value=-2, out=tile.spare)
        loss = functional.softplus(signed).sum()
        if self.pairs.weights is not None:
            loss -= ((tile.weights - turned) * tile.logits).sum()
        return loss


def _quotient(weights: Tensor, totals: Tensor) -> Tensor:
    """Weight / total, 0 where the total is."""
    return torch.where(totals > 0, weights / totals, 0).to(weights.dtype)


def _add_log_sum_exp(total: Tensor, tile: _Tile, dim: int) -> None:
    top = tile.logits.amax(dim=dim)
    above = torch.sub(tile.logits, top.unsqueeze(dim), out=tile.spare).exp_().sum(dim=dim)
    torch.logaddexp(total, top + above.log(), out=total)


def _log_sum_exp_over_ranks(values: Tensor) -> Tensor:
    """Of equally shaped tensors, one a rank; -inf where no rank has anything."""
    if world_size() == 1:
        return values
    top = values.clone()
    dist.all_reduce(top, op=dist.ReduceOp.MAX)
    total = (values - top).nan_to_num(nan=-torch.inf).exp_()
    dist.all_reduce(total)
    return top + total.log()
