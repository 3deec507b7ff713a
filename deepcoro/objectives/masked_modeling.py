"""Masked video modelling: the encoder sees a quarter of each clip's units, a small decoder says what stands in the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.config import Block, ConfigError
from deepcoro.draws import clip_keys, row_of_clip
from deepcoro.features import Features, MaskUnits, Surroundings, VideoFeatures, gather_clips
from deepcoro.masked_video.decoder import MaskedDecoder
from deepcoro.masked_video.masks import Masking, MaskRule, hidden_of, nearest_in_time
from deepcoro.masked_video.pixels import UnitPixels, cut, inside, normalise, put_together
from deepcoro.masked_video.teacher import LaggingTeacher


@dataclass(frozen=True)
class Guess:
    """What the decoder said of the hidden units of each clip, and what stood there."""

    hidden: Int[Tensor, "clip masked"]
    tokens: Float[Tensor, "clip masked dim"]
    normalised: Float[Tensor, "clip masked pixel"]
    """Pixels as the decoder thinks them, without each unit's mean and contrast."""
    truth: UnitPixels
    """Of all units of the grid."""


class MaskedModeling(nn.Module):
    """Owns the decoder, its heads and the teacher. What it hides and how it is scored is the same in training and in evaluation."""

    def __init__(self, config: "Config", beside: Surroundings):
        super().__init__()
        self.units = _units_of(beside)
        self.rule = MaskRule(self.units, config.mask_ratio, config.masking)
        self.seed, self.latent, self.latent_weight = config.seed, config.latent, config.latent_weight
        self.reads = frozenset({"visible", "clips"} if config.latent == "dense" else {"visible"})
        weight = inside(self.units, beside.frames, beside.size_px)
        self.register_buffer("inside", weight.float(), persistent=False)
        self.decoder = MaskedDecoder(
            self.units, beside.video_dim, config.decoder_dim, config.decoder_layers, config.decoder_heads
        )
        self.pixels = nn.Linear(config.decoder_dim, weight.shape[1])
        self.latents = None if self.latent == "none" else nn.Linear(config.decoder_dim, beside.video_dim)
        for head in (self.pixels, self.latents):
            if head is not None:  # at first it guesses next to nothing, whose error is 1
                nn.init.trunc_normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)
        self.teacher = None
        if self.latent == "ema":
            self.teacher = LaggingTeacher(beside.video_tower, config.ema_momentum, beside.clips_per_chunk)

    def shown_units(self, batch: Mapping[str, Any], num_clips: int) -> Int[Tensor, "clip seen"]:
        """What the encoder sees of each clip of the flat axis: a hash of (seed, position of the row, clip of the row)."""
        return self.rule.draw(clip_keys(self.seed, num_clips, batch["clip_mask"], batch["position"])).shown

    def count(self, batch: Mapping[str, Any]) -> Int[Tensor, "1"]:
        """Hidden units of this rank's valid rows, from the batch alone."""
        return _real_cells(batch).sum().reshape(1) * self.rule.num_hidden

    def forward(self, features: Features, batch: Mapping[str, Any]) -> dict[str, Float[Tensor, "1"]]:
        """`sum`: squared errors of the hidden units, each the mean over its pixels, plus `latent_weight` times those of its token."""
        guess = self.guess(features, batch)
        weight = _real_clips(features, batch)
        with torch.autocast(guess.tokens.device.type, enabled=False):
            errors = {"pixel_loss": self._pixel_errors(guess)}
            total = errors["pixel_loss"]
            if self.latents is not None:
                errors["latent_loss"] = self._latent_errors(guess, self._latent_targets(features, batch))
                total = total + self.latent_weight * errors["latent_loss"]
            sums = {name: (each.sum(1) * weight).sum().reshape(1) for name, each in errors.items()}
            num = self.count(batch).clamp(min=1)
            metrics = {name: each.detach() / num for name, each in sums.items()}
            return {"sum": (total.sum(1) * weight).sum().reshape(1), **metrics}

    def guess(self, features: Features, batch: Mapping[str, Any]) -> Guess:
        """The decoder's view of what the encoder did not see."""
        seen = _unit_tokens(features.visible, batch, len(features.shown))
        hidden = hidden_of(features.shown, len(self.inside))
        tokens = self.decoder(seen, features.shown, hidden)
        truth = normalise(cut(features.video, self.units), self.inside)
        return Guess(hidden, tokens, self.pixels(tokens).to(truth.normalised.dtype), truth)

    @torch.no_grad()
    def evaluate(self, features: Features, batch: Mapping[str, Any]) -> dict[str, Float[Tensor, "row"]]:
        """Mean squared error over the hidden pixels of each row's clips, in units of each mask unit's own variance: `error` of the
        decoder, `error_of_unit_mean` of a flat guess, `error_of_nearest_visible` of a copy of the unit seen nearest in time at the
        same place (flat where none was). All three are told the unit's mean and contrast. Flat units are left out; NaN for a row
        without any other. With `vessels` [clip frame height width] in the batch also `..._on_vessels`: over those pixels alone.
        """
        guess = self.guess(features, batch)
        truth = _rows_at(guess.truth.normalised, guess.hidden)
        squares = {
            "error": (guess.normalised - truth).square(),
            "error_of_unit_mean": truth.square(),
            "error_of_nearest_visible": (self._copied(guess, features.shown) - truth).square(),
        }
        weight = self.inside[guess.hidden] * ~_rows_at(guess.truth.is_flat, guess.hidden)
        found = {name: _mean_of_rows(each, weight, batch) for name, each in squares.items()}
        if "vessels" in batch:
            vessels = cut(batch["vessels"][:, None].float(), self.units)
            weight = weight * _rows_at(vessels, guess.hidden)
            found |= {
                f"{name}_on_vessels": _mean_of_rows(each, weight, batch) for name, each in squares.items()
            }
        return found

    @torch.no_grad()
    def pictures(
        self, features: Features, batch: Mapping[str, Any]
    ) -> dict[str, Float[Tensor, "clip frame height width"]]:
        """Grey films to look at, in the units of the normalised films: `original`; `masked`, its hidden units at the mean grey level;
        `reconstruction`, where they are the decoder's guess with each unit's own mean and contrast.
        """
        guess = self.guess(features, batch)
        pixels = cut(features.video, self.units)
        mean, std = (_rows_at(each, guess.hidden) for each in (guess.truth.mean, guess.truth.std))
        index = repeat(guess.hidden, "b u -> b u d", d=pixels.shape[-1])
        films = {
            "original": pixels,
            "masked": pixels.scatter(1, index, torch.zeros_like(guess.normalised)),
            "reconstruction": pixels.scatter(1, index, guess.normalised * std + mean),
        }
        size = (features.video.shape[2], features.video.shape[3])
        return {name: put_together(each, self.units, *size) for name, each in films.items()}

    def _copied(self, guess: Guess, shown: Tensor) -> Float[Tensor, "clip masked pixel"]:
        source = nearest_in_time(shown, self.units).gather(1, guess.hidden)
        copied = _rows_at(guess.truth.normalised, source.clamp(min=0))
        return torch.where((source >= 0)[..., None], copied, 0)

    def _pixel_errors(self, guess: Guess) -> Float[Tensor, "clip masked"]:
        weight = self.inside[guess.hidden]
        squares = (guess.normalised - _rows_at(guess.truth.normalised, guess.hidden)).square()
        return (squares * weight).sum(-1) / weight.sum(-1)

    def _latent_errors(
        self, guess: Guess, targets: Float[Tensor, "clip unit dim"]
    ) -> Float[Tensor, "clip masked"]:
        predicted = self.latents(guess.tokens.to(self.latents.weight.dtype))
        wanted = functional.layer_norm(targets.to(predicted.dtype), targets.shape[-1:])
        return (predicted - _rows_at(wanted, guess.hidden)).square().mean(-1)

    def _latent_targets(self, features: Features, batch: Mapping[str, Any]) -> Float[Tensor, "clip unit dim"]:
        """Tokens of every unit, without gradient: of the student's pass over whole clips, or of its teacher's."""
        if self.teacher is None:
            return _unit_tokens(features.clips, batch, len(features.shown)).detach()
        tokens = self.teacher(features.video, batch["clip_mask"])
        return tokens[:, -len(self.inside) :]


def _units_of(beside: Surroundings) -> MaskUnits:
    units = getattr(beside.video_tower, "mask_units", None)
    if units is None:
        raise ConfigError(
            "objectives.masked_modeling needs a video tower that can encode a part of a clip, and "
            f"{type(beside.video_tower).__name__} cannot; take towers.video.type=video_mvit, or leave the objective out"
        )
    return units


def _unit_tokens(
    features: VideoFeatures, batch: Mapping[str, Any], num_clips: int
) -> Float[Tensor, "clip unit dim"]:
    """The flat axis of clips, without class token: it speaks for the clip in other objectives and is left to them."""
    tokens = gather_clips(features.tokens, batch["clip_mask"], num_clips)
    return tokens[:, int(features.has_class_token) :]


def _real_cells(batch: Mapping[str, Any]) -> Bool[Tensor, "row slot"]:
    return batch["clip_mask"] & batch["valid"][:, None]


def _real_clips(features: Features, batch: Mapping[str, Any]) -> Float[Tensor, "clip"]:
    """1 for the clips of valid rows; 0 for those of others, and for a film that stands in for none."""
    num_clips = len(features.shown)
    is_valid = batch["valid"][row_of_clip(num_clips, batch["clip_mask"])]
    return (_stands_for_itself(num_clips, batch) & is_valid).to(torch.float32)


def _stands_for_itself(num_clips: int, batch: Mapping[str, Any]) -> Bool[Tensor, "clip"]:
    """False for the film of a batch without any."""
    return torch.arange(num_clips, device=batch["clip_mask"].device) < batch["clip_mask"].sum()


def _rows_at(
    rows: Float[Tensor, "clip unit dim"] | Bool[Tensor, "clip unit dim"], index: Int[Tensor, "clip some"]
) -> Tensor:
    return rows.gather(1, repeat(index, "b u -> b u d", d=rows.shape[-1]))


def _mean_of_rows(values: Tensor, weight: Tensor, batch: Mapping[str, Any]) -> Float[Tensor, "row"]:
    """Weighted mean over all clips of each row; NaN where a row has no weight."""
    row = row_of_clip(len(values), batch["clip_mask"])
    weight = weight * _stands_for_itself(len(values), batch)[:, None, None]
    sums, weights = (
        values.new_zeros(len(batch["valid"])).index_add(0, row, each.sum((1, 2)).to(values.dtype))
        for each in (values * weight, weight)
    )
    return sums / weights


class Config(Block):
    """Masked video modelling (VideoMAE, arXiv:2203.12602; MAE-ST, arXiv:2205.09113): guess what stands in hidden parts of a clip."""

    type: Literal["masked_modeling"] = "masked_modeling"
    """Which objective this is."""
    reads_films: ClassVar[bool] = True
    is_pretext: ClassVar[bool] = True
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    """Fraction of each clip's mask units that is hidden. A unit is a cell of the encoder's last grid: 2 frames x 32x32 px in the
    published variants (16x16 px in `demo` and `tiny`). The encoder never sees the hidden ones and costs as much less."""
    masking: Masking = "agnostic"
    """`agnostic`: units anywhere in space and time; `tube`: whole columns through time, so that no earlier or later frame shows a
    hidden place."""
    decoder_layers: int = Field(4, ge=1)
    """Blocks of the decoder, which is thrown away after training."""
    decoder_dim: int = Field(384, ge=6)
    """Width of the decoder, which holds one token a unit."""
    decoder_heads: int = Field(6, ge=1)
    """Heads of its attention; must divide decoder_dim."""
    latent: Literal["none", "dense", "ema"] = "none"
    """What is guessed besides pixels: nothing; the encoder's own tokens of the whole clip, which the contrastive objective has
    computed anyway (`dense`, free); or those of a teacher whose weights trail the encoder's (`ema`, one more forward pass)."""
    latent_weight: float = Field(1.0, gt=0)
    """Weight of the guessed tokens against the guessed pixels; both errors are 1 for a guess that knows nothing."""
    ema_momentum: float = Field(0.999, ge=0, lt=1)
    """Share of itself that the teacher keeps at each optimiser step. Constant: one that rises to 1 stops the teacher."""
    seed: int = 0
    """Seed of the masks."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "Config":
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"decoder_heads {self.decoder_heads} does not divide decoder_dim {self.decoder_dim}"
            )
        return self

    def best_metric(self, name: str) -> tuple[str, str]:
        return f"{name}/error", "min"

    def build(self, beside: Surroundings) -> MaskedModeling:
        """ConfigError for a video tower that cannot encode a part of a clip, and for a ratio that hides all or nothing."""
        return MaskedModeling(self, beside)
