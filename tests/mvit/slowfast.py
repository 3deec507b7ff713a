"""SlowFast's MViTv2, written from its source's definition in its names: weights at random, and the forward pass step by step."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deepcoro.mvit.shapes import Variant

FRAMES, SIZE = 4, 64
Grid = tuple[int, ...]


def random_slowfast(variant: Variant, num_classes: int) -> dict[str, Tensor]:
    """A state dict as SlowFast saves one: its names, shapes and order of creation written down from its source."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, around: float = 0.0) -> Tensor:
        return around + 0.2 * torch.randn(*shape, generator=generator)

    state = {
        "cls_token": draw(1, 1, variant.dim),
        "patch_embed.proj.weight": draw(variant.dim, 3, 3, 7, 7),
        "patch_embed.proj.bias": draw(variant.dim),
    }
    dim, heads, side, kv_stride = variant.dim, variant.heads, SIZE // 4, variant.key_stride
    for number in range(variant.depth):
        dim_in, stride = dim, 1
        if number in variant.stage_starts:
            dim, heads, kv_stride, stride = 2 * dim, 2 * heads, kv_stride // 2, 2
        head, prefix = dim // heads, f"blocks.{number}."
        for norm, width in (("norm1", dim_in), ("norm2", dim)):
            state |= {f"{prefix}{norm}.weight": draw(width, around=1), f"{prefix}{norm}.bias": draw(width)}
        for part in "qkv":
            state[f"{prefix}attn.pool_{part}.weight"] = draw(head, 1, 3, 3, 3)
            state |= {
                f"{prefix}attn.norm_{part}.weight": draw(head, around=1),
                f"{prefix}attn.norm_{part}.bias": draw(head),
            }
        positions = 2 * max(side // stride, side // kv_stride) - 1
        state |= {f"{prefix}attn.rel_pos_{axis}": draw(positions, head) for axis in "hw"}
        state[f"{prefix}attn.rel_pos_t"] = draw(FRAMES - 1, head)
        linears = {"attn.qkv": (3 * dim, dim_in), "attn.proj": (dim, dim), "mlp.fc1": (4 * dim, dim)}
        linears |= {"mlp.fc2": (dim, 4 * dim)} | ({"proj": (dim, dim_in)} if dim != dim_in else {})
        for name, (out, inner) in linears.items():
            state |= {f"{prefix}{name}.weight": draw(out, inner), f"{prefix}{name}.bias": draw(out)}
        side //= stride
    last = {"norm.weight": draw(dim, around=1), "norm.bias": draw(dim)}
    return (
        state
        | last
        | {"head.projection.weight": draw(num_classes, dim), "head.projection.bias": draw(num_classes)}
    )


class SlowFast:
    """arXiv:2112.01526 with SlowFast's conventions; the bias is looked up pair by pair."""

    def __init__(self, state: dict[str, Tensor], variant: Variant):
        self.state, self.variant = state, variant

    def __call__(self, video: Tensor) -> Tensor:
        weight, bias = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"]
        x = F.conv3d(video, weight, bias, (2, 4, 4), (1, 3, 3))
        grid = tuple(x.shape[2:])
        class_token = self.state["cls_token"].expand(len(x), -1, -1)
        x = torch.cat((class_token, x.flatten(2).transpose(1, 2)), dim=1)
        heads, kv_stride = self.variant.heads, self.variant.key_stride
        for number in range(self.variant.depth):
            doubles = number in self.variant.stage_starts
            if doubles:
                heads, kv_stride = 2 * heads, kv_stride // 2
            x, grid = self.block(x, f"blocks.{number}.", grid, heads, (2 if doubles else 1, kv_stride))
        return self.linear(self.norm(x, "norm")[:, 0], "head.projection")

    def block(
        self, x: Tensor, prefix: str, grid: Grid, heads: int, strides: tuple[int, int]
    ) -> tuple[Tensor, Grid]:
        normed = self.norm(x, f"{prefix}norm1")
        attended, new_grid = self.attention(normed, f"{prefix}attn.", grid, heads, strides)
        if strides[0] == 2:
            x = self.linear(normed, f"{prefix}proj")
            x = pool(x[:, None], grid, lambda film: F.max_pool3d(film, (1, 3, 3), (1, 2, 2), (0, 1, 1)))[0][
                :, 0
            ]
        x = x + attended
        inner = F.gelu(self.linear(self.norm(x, f"{prefix}norm2"), f"{prefix}mlp.fc1"))
        return x + self.linear(inner, f"{prefix}mlp.fc2"), new_grid

    def attention(
        self, x: Tensor, prefix: str, grid: Grid, heads: int, strides: tuple[int, int]
    ) -> tuple[Tensor, Grid]:
        parts = self.linear(x, f"{prefix}qkv").unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        q, q_grid = self.pooled(parts[0], prefix, "q", grid, strides[0])
        k, k_grid = self.pooled(parts[1], prefix, "k", grid, strides[1])
        v, _ = self.pooled(parts[2], prefix, "v", grid, strides[1])
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.bias(q, prefix, q_grid, k_grid)
        attended = scores.softmax(-1) @ v
        attended[:, :, 1:] += q[:, :, 1:]
        return self.linear(attended.transpose(1, 2).flatten(2), f"{prefix}proj"), q_grid

    def pooled(self, x: Tensor, prefix: str, part: str, grid: Grid, stride: int) -> tuple[Tensor, Grid]:
        weight = self.state[f"{prefix}pool_{part}.weight"]
        settings = {"stride": (1, stride, stride), "padding": 1, "groups": len(weight)}
        tokens, new_grid = pool(x, grid, lambda film: F.conv3d(film, weight, **settings))
        return self.norm(tokens, f"{prefix}norm_{part}"), new_grid

    def bias(self, q: Tensor, prefix: str, q_grid: Grid, k_grid: Grid) -> Tensor:
        queries = torch.cartesian_prod(*map(torch.arange, q_grid))
        keys = torch.cartesian_prod(*map(torch.arange, k_grid))
        total = torch.zeros(len(queries), len(keys), q.shape[-1])
        for axis, name in enumerate("thw"):
            num_q, num_k = q_grid[axis], k_grid[axis]
            table = self.state[f"{prefix}rel_pos_{name}"]
            table = F.interpolate(table.T[None], size=2 * max(num_q, num_k) - 1, mode="linear")[0].T
            scale_q, scale_k = max(num_k / num_q, 1.0), max(num_q / num_k, 1.0)
            row = queries[:, None, axis] * scale_q - keys[None, :, axis] * scale_k + (num_k - 1) * scale_k
            total = total + table[row.long()]
        return F.pad(torch.einsum("bnqc,qkc->bnqk", q[:, :, 1:], total), (1, 0, 1, 0))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])


def pool(x: Tensor, grid: Grid, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Grid]:
    """`function` over the patches of [batch, head, token, channel]; the class token passes by."""
    batch, heads, _, channels = x.shape
    film = function(x[:, :, 1:].transpose(2, 3).reshape(batch * heads, channels, *grid))
    tokens = film.reshape(batch, heads, channels, -1).transpose(2, 3)
    return torch.cat((x[:, :, :1], tokens), dim=2), tuple(film.shape[2:])
