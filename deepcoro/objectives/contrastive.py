"""Videos and the reports written about them, drawn together in one space; `positives` says which reports are positives of which."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.config import Block
from deepcoro.features import Features, Surroundings
from deepcoro.kernels.tiled_contrastive import Form, Tiling
from deepcoro.losses import Loss
from deepcoro.losses.clip import Config as ClipConfig
from deepcoro.matching import keys_of, listed_in, matching_of, video_ids_of, weights_by_likeness
from deepcoro.pairing import PositiveWeights, pair_up
from deepcoro.positives import Positives, report_id


class Contrastive(nn.Module):
    """Projects both towers' features to one space and compares them there; owns projections, scale and bias.

    Neither projection is ever frozen. `logit_scale` holds the logarithm of the multiplier, `logit_bias` the number added.
    """

    reads = frozenset({"study", "text"})

    def __init__(self, config: "Config", beside: Surroundings):
        super().__init__()
        self.loss = config.loss.build()
        self.positives = config.positives
        self.tiling = Tiling(config.form, config.tile)
        self.log_scale_bounds = (math.log(config.min_logit_scale), math.log(config.max_logit_scale))
        self.max_bias = config.max_logit_bias
        self.video_projection = nn.Linear(beside.study_dim, config.embed_dim, bias=False)
        self.text_projection = config.build_text_projection(beside.text_dim)
        # shape [1]: DeepSpeed cannot broadcast a 0-dim parameter
        self.logit_scale = nn.Parameter(torch.tensor([math.log(self.loss.init_logit_scale)]))
        self.logit_bias = None
        if self.loss.init_logit_bias is not None:
            self.logit_bias = nn.Parameter(torch.tensor([float(self.loss.init_logit_bias)]))

    def forward(
        self, features: Features, batch: Mapping[str, Any], embed_only: bool = False
    ) -> dict[str, Any] | dict[str, Float[Tensor, "1"]]:
        """`sum` is this rank's share; over ranks and micro-batches sum of `sum` / sum of `count` is the loss. With `embed_only`
        what `loss_of` takes, for a loss over several micro-batches (`deepcoro/gradient_cache.py`).
        """
        with torch.autocast(features.study.device.type, enabled=False):
            embedded = self._embedded(features, batch)
            return embedded if embed_only else self.loss_of(embedded)

    def loss_of(self, embedded: dict[str, dict[str, Tensor]]) -> dict[str, Float[Tensor, "1"]]:
        """This rank's share of the loss and its metrics, of embeddings alone: no parameter is read. Texts that several ranks or
        micro-batches hold count once, so that the loss does not depend on how the global batch lies on them.
        """
        rows, labels, shared = embedded["rows"], embedded["labels"], embedded["shared"]
        scale, bias = shared["logit_scale"], shared.get("logit_bias")
        pairs = pair_up(
            rows["video"],
            rows["text"],
            labels["video_id"],
            labels["text_id"],
            self._weights(labels),
            labels["text_name"],
        )
        share = self.loss.share(pairs, scale, bias, self.tiling)
        metrics = {"logit_scale": scale.detach(), "in_batch_accuracy": share.in_batch_accuracy}
        if bias is not None:
            metrics["logit_bias"] = bias.detach().clone()
        return {"sum": share.sum.reshape(1), **metrics}

    def _weights(self, labels: Mapping[str, Tensor]) -> PositiveWeights | None:
        """What the data list, or the rule says; None = equal ids alone are positives. Collective."""
        rule = self.positives
        if rule.likeness is None:
            return listed_in(labels)
        return weights_by_likeness(keys_of(labels), rule.likeness, rule.threshold)

    def _embedded(self, features: Features, batch: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        rows = {"video": self.embed_video(features.study), "text": self.embed_text(features.text)}
        wide = torch.promote_types(rows["video"].dtype, rows["text"].dtype)
        shared = {"logit_scale": _bounded(self.logit_scale.to(wide), *self.log_scale_bounds).exp()}
        if self.logit_bias is not None:
            shared["logit_bias"] = _bounded(self.logit_bias, -self.max_bias, self.max_bias)
        return {"rows": rows, "labels": matching_of(batch, len(features.text)), "shared": shared}

    def count(self, batch: Mapping[str, Any]) -> Int[Tensor, "1"]:
        """Studies of this rank's batch that have a report, from the batch alone."""
        return self.loss.count(video_ids_of(batch))

    def embed_video(self, study: Float[Tensor, "study dim"]) -> Float[Tensor, "study embedding"]:
        """Unit vectors in fp32 at least."""
        return _embed(self.video_projection, study)

    def embed_text(self, text: Float[Tensor, "text dim"]) -> Float[Tensor, "text embedding"]:
        """Unit vectors in fp32 at least."""
        return _embed(self.text_projection, text)


def _bounded(number: Float[Tensor, "1"], low: float, high: float) -> Float[Tensor, "1"]:
    """Bounded in the value and not in the gradient: past a bound the parameter can still come back."""
    return number + (number.clamp(low, high) - number).detach()


def _embed(projection: nn.Module, features: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        projected = projection(features.to(next(projection.parameters()).dtype))
        wide = projected.to(torch.promote_types(projected.dtype, torch.float32))
        return functional.normalize(wide, dim=-1, eps=1e-6)


class Config(Block):
    """Contrastive learning of videos and reports."""

    type: Literal["contrastive"] = "contrastive"
    """Which objective this is."""
    reads_text: ClassVar[bool] = True
    loss: Loss = ClipConfig()
    """`clip` (softmax over the batch) or `siglip` (sigmoid of every pair), with the scale and bias they start from."""
    positives: Positives = report_id.Config()
    """Which reports are positives of a video besides its own: `report_id` equal ones, `findings` those that say the same of the coronary
    tree, `similarity` those in nearly the same words. What that matches is shown in run_dir/positives.html."""
    embed_dim: int = Field(512, gt=0)
    """Width of the common space, which retrieval and zero-shot classification search."""
    text_projection: Literal["linear", "gelu"] = "linear"
    """How texts come into that space: by a matrix, or by one with a bias and a GELU behind it, as in DeepCORO_CLIP, whose films have
    theirs in the pooler `aggregator` (imported weights alone)."""
    form: Form = "auto"
    """How the loss is computed, to the same numbers. `dense`: all logits of a rank at once, b x B of them. `gather`: in tiles,
    with the texts of all ranks on every rank. `ring`: in tiles, with two ranks' texts at a time, at the memory of a rank's own
    rows. `auto`: dense while a rank's logits fill no more than one tile (on a CPU also no more than 128 x 128, where tiles become
    faster), gather while all texts and their gradient fit 1 GiB, else ring. May change on resume."""
    tile: int = Field(1024, ge=1)
    """Videos and texts of a tile; a rank holds three matrices of tile x tile numbers. May change on resume."""
    min_logit_scale: float = Field(1, gt=0)
    """The multiplier of the cosine similarities is kept at or above it."""
    max_logit_scale: float = Field(100, gt=0)
    """The multiplier of the cosine similarities is kept at or below it."""
    max_logit_bias: float = Field(100, gt=0)
    """The bias of a loss that has one is kept between minus this and this."""

    @model_validator(mode="after")
    def _starts_within_its_bounds(self) -> "Config":
        scale, bias = self.loss.init_logit_scale, getattr(self.loss, "init_logit_bias", 0)
        if scale > self.max_logit_scale:
            raise ValueError(f"loss.init_logit_scale {scale} is above max_logit_scale {self.max_logit_scale}")
        if scale < self.min_logit_scale:
            raise ValueError(f"loss.init_logit_scale {scale} is below min_logit_scale {self.min_logit_scale}")
        if abs(bias) > self.max_logit_bias:
            raise ValueError(
                f"loss.init_logit_bias {bias} is farther from 0 than max_logit_bias {self.max_logit_bias}"
            )
        return self

    def build(self, beside: Surroundings) -> Contrastive:
        return Contrastive(self, beside)

    def build_text_projection(self, text_dim: int) -> nn.Module:
        linear = nn.Linear(text_dim, self.embed_dim, bias=self.text_projection == "gelu")
        return nn.Sequential(linear, nn.GELU()) if self.text_projection == "gelu" else linear
