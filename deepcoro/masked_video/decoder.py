"""The small decoder: tokens of the units that were seen, a learned one for each that was not, all of them attending to all."""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.features import MaskUnits

NORM_EPS = 1e-6


class MaskedDecoder(nn.Module):
    """One token a unit, so that it costs a twentieth of the encoder (one a patch would cost as much as the encoder itself)."""

    def __init__(self, units: MaskUnits, dim_in: int, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim_in, dim)
        self.fill = MaskToken(dim)
        self.register_buffer("positions", unit_positions(units, dim), persistent=False)
        self.blocks = nn.ModuleList(DecoderBlock(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.apply(_initialise)

    def forward(
        self,
        seen: Float[Tensor, "clip seen dim_in"],
        shown: Int[Tensor, "clip seen"],
        hidden: Int[Tensor, "clip masked"],
    ) -> Float[Tensor, "clip masked dim"]:
        """What is thought of each hidden unit. `shown` and `hidden` are the unit indices of a whole grid."""
        tokens = self.fill(self.embed(seen), shown, len(self.positions)) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens.gather(1, repeat(hidden, "b u -> b u d", d=tokens.shape[-1])))


class MaskToken(nn.Module):
    """What stands for a unit that was not seen."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))

    def forward(
        self, seen: Float[Tensor, "clip seen dim"], shown: Int[Tensor, "clip seen"], num_units: int
    ) -> Float[Tensor, "clip unit dim"]:
        everywhere = repeat(self.token.to(seen.dtype), "d -> b u d", b=len(seen), u=num_units)
        return everywhere.scatter(1, repeat(shown, "b u -> b u d", d=seen.shape[-1]), seen)


class DecoderBlock(nn.Module):
    """Attention, then an MLP four times as wide, each after its norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(2))
        self.qkv, self.project = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Float[Tensor, "clip unit dim"]) -> Float[Tensor, "clip unit dim"]:
        q, k, v = rearrange(self.qkv(self.norm1(tokens)), "b u (of n d) -> of b n u d", of=3, n=self.heads)
        attended = functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.project(rearrange(attended, "b n u d -> b u (n d)"))
        return tokens + self.mlp(self.norm2(tokens))


def unit_positions(units: MaskUnits, dim: int) -> Float[Tensor, "unit dim"]:
    """Sines and cosines of frame, row and column, a third of the columns each; what `dim` has beyond a multiple of 6 stays 0."""
    num = dim // 6
    rates = torch.exp(-math.log(10_000) * torch.arange(num) / max(num, 1))
    places = torch.cartesian_prod(*(torch.arange(size) for size in units.grid)).float()
    angles = rearrange(places, "u place -> u place 1") * rates
    waves = rearrange(torch.cat((angles.sin(), angles.cos()), dim=-1), "u place d -> u (place d)")
    return functional.pad(waves, (0, dim - waves.shape[1]))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
