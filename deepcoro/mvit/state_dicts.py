"""Weights of other encoders and other grids, as this one takes them."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from deepcoro.config import ConfigError


def fit_tensor(name: str, value: Tensor, own: Tensor, source: str) -> Tensor:
    """`value` for the place of `own`: relative positions made for another grid are stretched, any other shape is a ConfigError."""
    if value.shape == own.shape:
        return value
    if "rel_pos_" in name and value.ndim == 2 and value.shape[1] == own.shape[1]:
        return interpolate_positions(value, len(own))
    raise ConfigError(
        f"weights {source}: '{name}' is {tuple(value.shape)}; this encoder has {tuple(own.shape)}"
    )


def interpolate_positions(
    table: Float[Tensor, "position dim"], num_positions: int
) -> Float[Tensor, "positions_out dim"]:
    """A table of relative positions made for another grid, stretched linearly as torchvision does in each forward."""
    film = rearrange(table.float(), "position dim -> 1 dim position")
    stretched = F.interpolate(film, size=num_positions, mode="linear")
    return rearrange(stretched, "1 dim position -> position dim").to(table.dtype)
