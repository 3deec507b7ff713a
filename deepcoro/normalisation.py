"""Grey levels 0-255 to what the towers take: the module, and whose mean and deviation it has."""

import logging

import pydantic
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deepcoro.config import Block, ConfigError

logger = logging.getLogger(__name__)


class Config(Block):
    """Mean and deviation of the grey levels. Unset: the checkpoint's own, else those of the weights that a run starts from, else
    those of the training films."""

    pixel_mean: float | None = pydantic.Field(None, ge=0, le=255)
    """Subtracted from the grey levels (0-255). Set it for films of another kind than the model was trained on, whose grey means
    something else; it then wins over a checkpoint's own."""
    pixel_std: float | None = pydantic.Field(None, gt=0, le=255)
    """Divides them; given together with pixel_mean."""

    @pydantic.model_validator(mode="after")
    def _both_or_neither(self) -> "Config":
        if (self.pixel_mean is None) != (self.pixel_std is None):
            raise ValueError(
                f"pixel_mean {self.pixel_mean} and pixel_std {self.pixel_std}: give both, or neither for the checkpoint's own"
            )
        return self


def carried_by(weights: dict[str, Tensor]) -> tuple[float, float]:
    """Mean and deviation that a model's weights bring along."""
    return weights["normalisation.mean"].item(), weights["normalisation.std"].item()


class PixelNormalisation(nn.Module):
    """Zero mean and unit variance; grey films stay one channel. The constants are buffers, so a checkpoint carries them."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.register_buffer("mean", torch.tensor([mean]))
        self.register_buffer("std", torch.tensor([std]))

    def forward(
        self, video: UInt8[Tensor, "clip channel frame height width"]
    ) -> Float[Tensor, "clip channel frame height width"]:
        return (video.to(self.mean.dtype) - self.mean) / self.std

    def to_bytes(self, films: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        """Normalised films as grey levels again, for the eye."""
        return (films * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)

    def override(self, config: Config) -> None:
        """What the configuration sets wins over what a checkpoint brought."""
        if config.pixel_mean is None:
            return
        if (self.mean.item(), self.std.item()) != (config.pixel_mean, config.pixel_std):
            logger.warning(
                "normalisation: the checkpoint has mean %.2f and std %.2f, the config sets %.2f and %.2f",
                *(self.mean.item(), self.std.item(), config.pixel_mean, config.pixel_std),
            )
        self.mean.fill_(config.pixel_mean)
        self.std.fill_(config.pixel_std)


def constants(
    config: Config, of_weights: tuple[float, float] | None, of_films: tuple[float | None, float | None]
) -> tuple[float, float]:
    """Mean and std of a model that no checkpoint has filled yet. ConfigError when nothing tells them."""
    if config.pixel_mean is not None:
        return config.pixel_mean, config.pixel_std
    if of_weights is not None:
        logger.info("normalisation of the weights that the run starts from: mean %.2f, std %.2f", *of_weights)
        return of_weights
    if None in of_films:
        raise ConfigError(
            "the shards name no pixel_mean and pixel_std, since no training film was sharded; set "
            "normalisation.pixel_mean and normalisation.pixel_std"
        )
    return of_films
