"""From where a film was taken, as a vector."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class ViewEmbedding(nn.Module):
    """A linear map of sines and cosines of each angle and of twice the angle; 0 at first. An angle that is not known has a place of its
    own and is not an angle of 0.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(10, dim)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, degrees: Float[Tensor, "study clip 2"]) -> Float[Tensor, "study clip dim"]:
        known = ~degrees.isnan()
        angles = torch.deg2rad(torch.where(known, degrees, 0))[..., None]
        waves = torch.cat([angles.sin(), angles.cos(), (2 * angles).sin(), (2 * angles).cos()], dim=-1)
        told = torch.cat([waves * known[..., None], known[..., None].to(waves.dtype)], dim=-1)
        return self.map(rearrange(told, "study clip angle wave -> study clip (angle wave)"))
