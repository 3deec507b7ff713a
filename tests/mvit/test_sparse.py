"""Encoding visible mask units alone: against the dense encoder, against a slow oracle, and blind to what is hidden."""

import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.towers.video_mvit import Config, EncoderSettings, VideoMViT
from tests.mvit import sparse_oracle


def make_tower(frames=4, size_px=64, variant="tiny", **settings):
    """Weights at their initial values hide mistakes: norms are 1 and 0 there, biases 0."""
    torch.manual_seed(0)
    tower = VideoMViT.from_variant(
        variant, frames=frames, size_px=size_px, settings=EncoderSettings(**settings)
    )
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower.eval()


def film(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_visible(num_clips, num_visible, num_units, seed=2):
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.randperm(num_units, generator=generator)[:num_visible].sort().values for _ in range(num_clips)
    ]
    return torch.stack(rows)


def num_units_of(tower):
    frames, height, width = tower.blocks[-1].shape.query_grid
    return frames * height * width


def hidden_pixels(tower, visible, frames, size_px):
    """[clip, 1, frame, row, column]: which pixels no visible unit holds (units of `tiny`: 2 frames, 16x16 px)."""
    _, height, width = tower.blocks[-1].shape.query_grid
    frame = torch.arange(frames)[:, None, None] // 2
    row = torch.arange(size_px)[:, None] // 16
    unit = (frame * height + row) * width + torch.arange(size_px) // 16
    return torch.stack([~torch.isin(unit, kept) for kept in visible])[:, None]


def values_and_gradients(tower, encode, video):
    video = video.clone().requires_grad_()
    tower.zero_grad(set_to_none=True)
    tokens = encode(video)
    tokens.sin().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in tower.named_parameters()}
    return {"tokens": tokens.detach(), "video": video.grad} | gradients


def assert_same(got, expected, tolerance=1e-5):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(value.norm().item(), 1.0)
        torch.testing.assert_close(got[name] / scale, value / scale, rtol=0, atol=tolerance, msg=name)


SHAPES = [(4, 64), (3, 52), (1, 40), (5, 33)]


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(("frames", "size_px"), SHAPES)
def test_with_every_unit_visible_it_is_the_dense_encoder(frames, size_px, class_token):
    tower = make_tower(frames, size_px, class_token=class_token)
    video = film(2, 3, frames, size_px, size_px)
    every = torch.arange(num_units_of(tower)).expand(2, -1)
    got = values_and_gradients(tower, lambda film: tower.encode(film, every), video)
    assert_same(got, values_and_gradients(tower, tower.encode, video))


@pytest.mark.parametrize("attention", ["auto", "plain"])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(("frames", "size_px"), SHAPES)
def test_it_equals_the_dense_encoder_with_hidden_tokens_struck_out(frames, size_px, class_token, attention):
    tower = make_tower(frames, size_px, class_token=class_token, attention=attention)
    video = film(3, 3, frames, size_px, size_px)
    visible = random_visible(3, num_units_of(tower) // 3, num_units_of(tower))
    got = values_and_gradients(tower, lambda film: tower.encode(film, visible), video)
    oracle = values_and_gradients(tower, lambda film: sparse_oracle.encode(tower, film, visible), video)
    assert_same(got, oracle)


@pytest.mark.parametrize("positions", ["rope3d", "none"])
@pytest.mark.parametrize(("frames", "size_px"), [(4, 64), (3, 52)])
def test_without_tables_of_positions_visible_units_are_the_dense_encoder_too(frames, size_px, positions):
    tower = make_tower(frames, size_px, positions=positions)
    assert not [name for name, _ in tower.named_parameters() if "rel_pos" in name]
    video = film(2, 3, frames, size_px, size_px)
    every = torch.arange(num_units_of(tower)).expand(2, -1)
    got = values_and_gradients(tower, lambda film: tower.encode(film, every), video)
    assert_same(got, values_and_gradients(tower, tower.encode, video))


def test_rotary_positions_change_what_attention_sees():
    video = film(1, 3, 4, 64, 64)
    tokens = {name: make_tower(positions=name).encode(video) for name in ("rope3d", "none")}
    assert (tokens["rope3d"] - tokens["none"]).norm() > 1e-3 * tokens["none"].norm()


def test_unknown_positions_are_refused():
    with pytest.raises(ConfigError, match="positions is 'absolute'; allowed"):
        make_tower(positions="absolute")


def test_the_oracle_with_every_unit_visible_is_the_dense_encoder():
    tower = make_tower(3, 52)
    video = film(2, 3, 3, 52, 52)
    every = torch.arange(num_units_of(tower)).expand(2, -1)
    oracle = values_and_gradients(tower, lambda film: sparse_oracle.encode(tower, film, every), video)
    assert_same(values_and_gradients(tower, tower.encode, video), oracle)


@pytest.mark.parametrize(("frames", "size_px"), SHAPES)
@pytest.mark.parametrize("content", [0.0, 1e6, float("nan")])
def test_what_stands_in_hidden_pixels_changes_no_bit_of_values_and_gradients(frames, size_px, content):
    tower = make_tower(frames, size_px)
    clean = film(2, 3, frames, size_px, size_px)
    visible = random_visible(2, num_units_of(tower) // 3, num_units_of(tower))
    hidden = hidden_pixels(tower, visible, frames, size_px)
    assert 0.3 < hidden.float().mean() < 1
    results = [
        values_and_gradients(tower, lambda film: tower.encode(film, visible), video)
        for video in (clean, clean.masked_fill(hidden, content))
    ]
    for name, value in results[0].items():
        assert value.isfinite().all(), name
        assert torch.equal(value, results[1][name]), name
    by_pixel = results[0]["video"]
    assert not by_pixel[hidden.expand_as(by_pixel)].any()
    assert by_pixel[~hidden.expand_as(by_pixel)].count_nonzero() > 0.9 * (~hidden.expand_as(by_pixel)).sum()


def test_the_published_variant_too_has_one_token_a_visible_unit_and_equals_the_oracle():
    tower = make_tower(4, 64, variant="mvit_v2_s")
    video, visible = film(1, 3, 4, 64, 64), random_visible(1, 3, 8)
    with torch.no_grad():
        got, expected = tower.encode(video, visible), sparse_oracle.encode(tower, video, visible)
    assert got.shape == (1, 1 + 3, 768)
    torch.testing.assert_close(got / expected.norm(), expected / expected.norm(), rtol=0, atol=1e-5)


def test_clips_that_show_different_units_do_not_touch_each_other():
    tower = make_tower()
    video, visible = film(3, 3, 4, 64, 64), random_visible(3, 9, 32)
    together = tower.encode(video, visible)
    for clip in range(3):
        alone = tower.encode(video[clip : clip + 1], visible[clip : clip + 1])
        torch.testing.assert_close(together[clip : clip + 1], alone)


def test_recomputed_activations_give_the_same_gradients():
    visible = random_visible(2, 9, 32)
    results = []
    for checkpointing in ("none", "selective", "blocks"):
        tower = make_tower(activation_checkpointing=checkpointing)
        results.append(
            values_and_gradients(
                tower, lambda film, tower=tower: tower.encode(film, visible), film(2, 3, 4, 64, 64)
            )
        )
    for recomputed in results[1:]:
        assert_same(recomputed, results[0], tolerance=1e-6)


def test_a_frozen_bottom_stays_without_gradient():
    tower = make_tower(video_freeze_ratio=0.5).train()
    tower.encode(film(2, 3, 4, 64, 64), random_visible(2, 9, 32)).sum().backward()
    assert tower.conv_proj.weight.grad is None
    assert tower.blocks[0].mlp[0].weight.grad is None
    assert tower.blocks[2].mlp[0].weight.grad is not None


@pytest.mark.parametrize("class_token", [True, False])
def test_features_of_masked_clips_have_fewer_tokens_and_come_in_chunks(class_token):
    tower = make_tower(class_token=class_token)
    clip_mask = torch.tensor([[True, False], [True, True]])
    video, visible = film(3, 3, 4, 64, 64), random_visible(3, 9, 32)
    whole = tower.features(video, clip_mask, visible=visible)
    assert whole.tokens.shape == (2, 2, 9 + class_token, 64)
    torch.testing.assert_close(whole.tokens[clip_mask], tower.encode(video, visible))
    chunked = tower.features(video, clip_mask, clips_per_chunk=1, visible=visible)
    torch.testing.assert_close(chunked.tokens, whole.tokens)


def test_the_views_of_a_study_are_taken_of_visible_tokens():
    tower = make_tower()
    video, visible = film(2, 3, 4, 64, 64), random_visible(2, 9, 32)
    torch.testing.assert_close(tower(video, visible=visible), tower.encode(video, visible)[:, 0])


def test_bfloat16_autocast_stays_near_fp32():
    tower = make_tower(3, 52)
    video, visible = film(2, 3, 3, 52, 52), random_visible(2, 9, 32)
    exact = tower.encode(video, visible)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = tower.encode(video, visible)
    assert (rounded.float() - exact).norm() / exact.norm() < 0.03


def test_units_of_another_number_of_clips_are_refused():
    with pytest.raises(ValueError, match="visible lists units of 3 clips, video holds 2"):
        make_tower().encode(film(2, 3, 4, 64, 64), random_visible(3, 9, 32))


def test_the_config_hands_on_class_token_and_positions():
    tower = Config(variant="tiny", class_token=False, positions="rope3d").build(frames=4, size_px=32)
    assert not tower.has_class_token
    assert tower.encode(film(1, 3, 4, 32, 32)).shape == (1, 2 * 2 * 2, 64)
    assert tower.blocks[0].attn.positions == "rope3d"
