"""Maps against gradients taken the long way, and against a model whose eyes are known."""

import pytest
import torch
from einops import rearrange

from deepcoro.config import ConfigError
from deepcoro.explain.maps import attention_map, map_of, over_frames, pixel_map, token_map
from deepcoro.explain.targets import Target
from deepcoro.normalisation import PixelNormalisation
from deepcoro.towers.video_mvit import EncoderSettings, VideoMViT
from tests.explain.planted import STD, TARGET, Planted, batch_of, noisy_film


class Encoder(torch.nn.Module):
    """A tower behind the calls of the whole model."""

    def __init__(self, settings: EncoderSettings = EncoderSettings()) -> None:  # noqa: B008 - frozen
        super().__init__()
        torch.manual_seed(0)
        self.normalisation = PixelNormalisation(100.0, 50.0)
        tower = VideoMViT.from_variant("tiny", frames=4, size_px=64, settings=settings)
        self.towers = torch.nn.ModuleDict({"video": tower})

    def forward(self, batch, task, active):
        features = self.towers["video"].features(self.normalisation(batch["video"]), batch["clip_mask"])
        return {"video": features.aggregate()}


SUM = Target("sum", lambda said: said["video"][:, :5].sum(dim=1))


@pytest.fixture(scope="module")
def model():
    return Encoder().eval()


@pytest.fixture(scope="module")
def batch():
    return batch_of(noisy_film(clips=2, frames=4, size=64))


def test_a_token_map_is_gradient_times_activation_of_the_whole_graph(model, batch):
    """The oracle keeps the graph of the whole encoder instead of cutting it."""
    block, kept = model.towers["video"].blocks[2], []
    assert block.shape.query_stride == 2

    def keep(_, given):
        given[0].retain_grad()
        kept.append(given[0])

    handle = block.register_forward_pre_hook(keep)
    SUM.score(model, batch).sum().backward()
    handle.remove()
    expected = (kept[0] * kept[0].grad).sum(-1)[:, 1:].clamp(min=0)
    frames, height, width = block.shape.grid
    expected = rearrange(expected, "clip (f h w) -> clip f h w", f=frames, h=height, w=width)
    found = token_map(model, batch, SUM)
    assert found.shape == (2, 2, 8, 8)
    assert found.max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_a_frozen_encoder_has_the_same_map(batch):
    free, frozen = Encoder().eval(), Encoder(EncoderSettings(video_freeze_ratio=1.0)).eval()
    torch.testing.assert_close(token_map(free, batch, SUM), token_map(frozen, batch, SUM))


def test_the_attention_map_is_what_the_class_token_is_made_of(model, batch):
    """The block's own output for the class token is the attended values, projected."""
    block, seen = model.towers["video"].blocks[-1], []
    handle = block.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    found = attention_map(model, batch, SUM)
    handle.remove()
    with torch.no_grad():
        weights = block.attn.class_attention(seen[0], block.norm1)
        projected = block.norm1(seen[0], reader=block.attn.qkv)
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-6)
        from deepcoro.kernels.attention_plan import plan_attention

        plan = plan_attention(block.attn.dense_layout.attention, seen[0], block.shape.head_dim, "plain")
        values = block.attn._heads(seen[0], block.norm1, block.attn.dense_layout, plan)[2]
        attended = torch.einsum("bnk,bknc->bnc", weights, values)
        expected = block.attn.project(rearrange(attended, "b n c -> b (n c)"))
        actual = block.attn(seen[0], block.norm1)[:, 0]
    assert projected.shape[1] == seen[0].shape[1]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, *block.shape.key_grid)
    torch.testing.assert_close(found.flatten(1), weights.mean(dim=1)[:, 1:])


def test_pixels_that_count_stand_out_by_their_weight():
    weight = torch.zeros(4, 32, 32)
    weight[2, 8:16, 16:24] = 3.0
    found = pixel_map(Planted(weight), batch_of(noisy_film()), TARGET)
    expected = torch.zeros(1, 4, 4, 4)
    expected[0, 2, 1, 2] = 3.0
    torch.testing.assert_close(found, expected)
    assert STD != 1  # the gradient is that of the normalised pixel


def test_an_encoder_without_class_token_says_what_to_use_instead(batch):
    bare = Encoder(EncoderSettings(class_token=False)).eval()
    with pytest.raises(ConfigError, match="use gradients"):
        attention_map(bare, batch, SUM)
    assert token_map(bare, batch, SUM).shape == (2, 2, 8, 8)


def test_a_map_that_is_not_known_is_refused(model, batch):
    with pytest.raises(ConfigError, match="allowed"):
        map_of("lime", model, batch, SUM)


def test_hooks_do_not_stay_behind(model, batch):
    before = SUM.score(model, batch)
    for method in ("tokens", "attention", "pixels"):
        map_of(method, model, batch, SUM)
    assert not model.towers["video"].blocks[2]._forward_pre_hooks
    assert not model.normalisation._forward_hooks
    torch.testing.assert_close(SUM.score(model, batch), before)


def test_a_map_is_drawn_over_the_films_frames_with_its_highest_value_one():
    found = torch.zeros(2, 2, 4, 4)
    found[0, 1, 2, 3] = 7.0
    shown = over_frames(found, 6, 16, 16)
    assert shown.shape == (2, 6, 16, 16)
    assert shown[0].max() == 1
    assert shown[1].max() == 0
