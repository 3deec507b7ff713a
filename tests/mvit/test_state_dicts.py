"""SlowFast's MViTv2 weights: they load, stretch and are refused by name."""

import re
from dataclasses import replace

import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.kernels.grid import strided
from deepcoro.mvit.shapes import VARIANTS, Variant
from deepcoro.towers.video_mvit import EncoderSettings, VideoMViT
from tests.mvit.slowfast import FRAMES, SIZE, SlowFast, random_slowfast

# Two heads at the stem and heads narrower than the stem, as in MViTv2-L.
LIKE_L = Variant(dim=24, depth=4, stage_starts=(1, 3), key_stride=4, drop_path_rate=0.0, heads=2)


def ours(variant: Variant, frames: int = FRAMES, size_px: int = SIZE) -> VideoMViT:
    grid = strided(((frames - 1) // 2 + 1, size_px, size_px), 4)
    return VideoMViT(variant, grid, 7, EncoderSettings()).eval()


@pytest.mark.parametrize("variant", [LIKE_L, VARIANTS["tiny"]], ids=["like_l", "tiny"])
def test_slowfast_weights_give_the_logits_of_slowfast(variant: Variant) -> None:
    state = random_slowfast(variant, num_classes=7)
    model = ours(variant)
    model.load_weights(state, source="slowfast.pyth")
    video = torch.randn(2, 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    expected = SlowFast(state, variant)(video)
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(video), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_slowfast_weights_of_another_grid_are_stretched_as_slowfast_does_in_its_forward() -> None:
    state = random_slowfast(LIKE_L, num_classes=7)
    model = ours(LIKE_L, frames=6, size_px=48)
    model.load_weights(state, source="slowfast.pyth")
    video = torch.randn(1, 3, 6, 48, 48, generator=torch.Generator().manual_seed(1))
    expected = SlowFast(state, LIKE_L)(video)
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


def test_weights_of_the_first_mvit_are_told_by_their_absolute_positions() -> None:
    from torchvision.models.video import mvit_v1_b

    with torch.device("meta"):
        state = mvit_v1_b().state_dict()
    with pytest.raises(ConfigError, match="first MViT .mvit_v1_b., which is not built.*mvit_v2_s"):
        ours(LIKE_L).load_weights(state, "mvit_v1_b.pth")
