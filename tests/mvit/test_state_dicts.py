"""SlowFast's MViTv2 weights: a model written from its source's definition, in its names, against ours."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepcoro.config import ConfigError
from deepcoro.mvit.shapes import VARIANTS, Variant, strided
from deepcoro.towers.video_mvit import EncoderSettings, VideoMViT

# Two heads at the stem and heads narrower than the stem, as in MViTv2-L.
LIKE_L = Variant(dim=24, depth=4, stage_starts=(1, 3), key_stride=4, drop_path_rate=0.0, heads=2)
FRAMES, SIZE = 4, 64


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


def slowfast(state: dict[str, Tensor], variant: Variant, video: Tensor) -> Tensor:
    """Logits, step by step from the paper (arXiv:2112.01526) and SlowFast's conventions, one bias entry at a time."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def pool(x: Tensor, grid: tuple, function) -> tuple[Tensor, tuple]:  # x: batch, head, token, channel
        batch, heads, _, channels = x.shape
        film = x[:, :, 1:].transpose(2, 3).reshape(batch * heads, channels, *grid)
        pooled = function(film)
        tokens = pooled.reshape(batch, heads, channels, -1).transpose(2, 3)
        return torch.cat((x[:, :, :1], tokens), dim=2), tuple(pooled.shape[2:])

    def attention(x: Tensor, prefix: str, grid: tuple, heads: int, strides: tuple) -> tuple[Tensor, tuple]:
        parts = linear(x, f"{prefix}qkv").unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        pooled, grids = {}, {}
        for part, tensor, stride in zip("qkv", parts, strides, strict=True):
            weight = state[f"{prefix}pool_{part}.weight"]
            settings = {"stride": (1, stride, stride), "padding": 1, "groups": len(weight)}
            tensor, grids[part] = pool(
                tensor, grid, lambda film, w=weight, s=settings: F.conv3d(film, w, **s)
            )
            pooled[part] = norm(tensor, f"{prefix}norm_{part}")
        q, k, v = pooled["q"], pooled["k"], pooled["v"]
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + bias(q, prefix, grids["q"], grids["k"])
        attended = scores.softmax(-1) @ v
        attended[:, :, 1:] += q[:, :, 1:]
        return linear(attended.transpose(1, 2).flatten(2), f"{prefix}proj"), grids["q"]

    def bias(q: Tensor, prefix: str, q_grid: tuple, k_grid: tuple) -> Tensor:
        queries = torch.cartesian_prod(*map(torch.arange, q_grid))
        keys = torch.cartesian_prod(*map(torch.arange, k_grid))
        total = torch.zeros(len(queries), len(keys), q.shape[-1])
        for axis, name in enumerate("thw"):
            num_q, num_k = q_grid[axis], k_grid[axis]
            table = state[f"{prefix}rel_pos_{name}"]
            table = F.interpolate(table.T[None], size=2 * max(num_q, num_k) - 1, mode="linear")[0].T
            scale_q, scale_k = max(num_k / num_q, 1.0), max(num_q / num_k, 1.0)
            row = queries[:, None, axis] * scale_q - keys[None, :, axis] * scale_k + (num_k - 1) * scale_k
            total = total + table[row.long()]
        return F.pad(torch.einsum("bnqc,qkc->bnqk", q[:, :, 1:], total), (1, 0, 1, 0))

    x = F.conv3d(
        video, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], (2, 4, 4), (1, 3, 3)
    )
    grid = tuple(x.shape[2:])
    x = torch.cat((state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), dim=1)
    heads, kv_stride = variant.heads, variant.key_stride
    for number in range(variant.depth):
        doubles, prefix = number in variant.stage_starts, f"blocks.{number}."
        if doubles:
            heads, kv_stride = 2 * heads, kv_stride // 2
        normed = norm(x, f"{prefix}norm1")
        strides = (2 if doubles else 1, kv_stride, kv_stride)
        block, new_grid = attention(normed, f"{prefix}attn.", grid, heads, strides)
        if doubles:
            x = linear(normed, f"{prefix}proj")
            film, _ = pool(x[:, None], grid, lambda f: F.max_pool3d(f, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
            x = film[:, 0]
        x, grid = x + block, new_grid
        inner = F.gelu(linear(norm(x, f"{prefix}norm2"), f"{prefix}mlp.fc1"))
        x = x + linear(inner, f"{prefix}mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head.projection")


def ours(variant: Variant, frames: int = FRAMES, size_px: int = SIZE) -> VideoMViT:
    grid = strided(((frames - 1) // 2 + 1, size_px, size_px), 4)
    return VideoMViT(variant, grid, 7, EncoderSettings()).eval()


@pytest.mark.parametrize("variant", [LIKE_L, VARIANTS["tiny"]], ids=["like_l", "tiny"])
def test_slowfast_weights_give_the_logits_of_slowfast(variant: Variant) -> None:
    state = random_slowfast(variant, num_classes=7)
    model = ours(variant)
    model.load_weights(state, source="slowfast.pyth")
    video = torch.randn(2, 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    expected = slowfast(state, variant, video)
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(video), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_slowfast_weights_of_another_grid_are_stretched_as_slowfast_does_in_its_forward() -> None:
    state = random_slowfast(LIKE_L, num_classes=7)
    model = ours(LIKE_L, frames=6, size_px=48)
    model.load_weights(state, source="slowfast.pyth")
    video = torch.randn(1, 3, 6, 48, 48, generator=torch.Generator().manual_seed(1))
    expected = slowfast(state, LIKE_L, video)
    with torch.no_grad():
        torch.testing.assert_close(model(video), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_every_tensor_of_a_slowfast_checkpoint_is_used(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        ours(LIKE_L).load_weights(random_slowfast(LIKE_L, num_classes=7), source="slowfast.pyth")
    assert ", 0 unused []" in caplog.text


def test_slowfast_models_that_are_no_mvit_v2_of_ours_are_refused_by_name() -> None:
    state = random_slowfast(LIKE_L, num_classes=7)
    separate = {re.sub(r"attn\.qkv", "attn.q", name): value for name, value in state.items()}
    with pytest.raises(ConfigError, match="separate q, k, v"):
        ours(LIKE_L).load_weights(separate, "x.pyth")
    # DIM_MUL_IN_ATT false: the width grows in the MLP of the block before
    in_mlp = {re.sub(r"blocks\.1\.proj\.", "blocks.0.proj.", name): value for name, value in state.items()}
    with pytest.raises(ConfigError, match=r"blocks that widen \[0, 3\], this encoder \[1, 3\]"):
        ours(LIKE_L).load_weights(in_mlp, "x.pyth")
    with pytest.raises(ConfigError, match="depth 4, this encoder 5"):
        ours(replace(LIKE_L, depth=5)).load_weights(state, "x.pyth")
