"""The levers of the video tower, one by one: each does what its key says, and no more."""

import logging

import pytest
import torch
from einops import rearrange

from deepcoro.mvit.patch_dropout import draw_units
from deepcoro.towers.video_mvit import Config
from tests.towers.test_video_mvit import film, perturb, tiny


def test_fast_keys_and_values_have_the_smallest_grid_in_every_block_and_public_weights_load():
    fast, full = tiny(kv_grid="fast", size_px=64), tiny(size_px=64)
    assert {block.shape.key_grid for block in fast.blocks} == {(2, 4, 4)}
    assert [block.shape.key_grid for block in full.blocks] == [(2, 4, 4), (2, 8, 8), (2, 8, 8)]
    fast.load_weights(full.state_dict(), "full")
    video = film(1, 3, 4, 64, 64)
    assert fast.eval()(video).shape == full(video).shape
    assert not torch.allclose(fast(video), full.eval()(video), atol=1e-3)


@pytest.mark.parametrize(
    ("given", "mode"), [(True, "blocks"), (False, "none"), ("selective", "selective"), ("blocks", "blocks")]
)
def test_checkpointing_is_a_mode_or_a_switch(given, mode):
    tower = Config(variant="tiny", activation_checkpointing=given, residual="bf16").build(4, 32)
    assert {block.checkpointing for block in tower.blocks} == {mode}
    assert tower.settings.residual == "bf16"


def test_patch_dropout_hides_units_in_training_alone_and_others_in_each_pass():
    tower = tiny(size_px=64, patch_dropout=0.75)
    video, mask = film(2, 1, 4, 64, 64), torch.ones(1, 2, dtype=torch.bool)
    first, second = (tower.train().features(video, mask).tokens for _ in range(2))
    assert first.shape[2] == 1 + 2 * 4 * 4 * 0.25
    assert not torch.allclose(first, second)
    torch.manual_seed(3)
    once = tower.features(video, mask).tokens
    torch.manual_seed(3)
    assert torch.equal(tower.features(video, mask).tokens, once), "the draw is the seed's"
    whole = tiny(size_px=64)
    torch.testing.assert_close(
        tower.eval().features(video, mask).tokens, whole.eval().features(video, mask).tokens
    )
    once.sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_drawn_units_ascend_differ_between_clips_and_leave_at_least_one():
    torch.manual_seed(0)
    units = draw_units(64, 32, 0.75, torch.device("cpu"))
    assert units.shape == (64, 8)
    assert (units.diff(dim=1) > 0).all()
    assert len(units.unique(dim=0)) > 32
    assert torch.bincount(units.flatten(), minlength=32).min() > 0
    assert draw_units(1, 4, 0.99, torch.device("cpu")).shape == (1, 1)


@pytest.mark.parametrize("positions", ["rope3d", "none"])
@pytest.mark.parametrize("class_token", [True, False])
def test_without_tables_public_weights_load_and_order_in_time_counts_as_it_should(
    positions, class_token, caplog
):
    full = perturb(tiny(frames=8, size_px=64))
    tower = tiny(frames=8, size_px=64, positions=positions, class_token=class_token).eval()
    assert not any("rel_pos" in name for name, _ in tower.named_parameters())
    with caplog.at_level(logging.INFO):
        tower.load_weights(full.state_dict(), "public")
    assert "rel_pos_t" in caplog.text
    video = film(1, 1, 8, 64, 64)
    tokens = tower.encode(video)
    assert tokens.isfinite().all()
    assert not torch.allclose(tokens[:, -64:], full.encode(video)[:, -64:], atol=1e-3)
    visible = torch.arange(4 * 4 * 4)[None]
    torch.testing.assert_close(tower.encode(video, visible), tokens, rtol=1e-4, atol=1e-5)


def make_filters_identities(tower):
    for name, parameter in tower.named_parameters():
        if ".pool.weight" in name:
            parameter.zero_()[:, :, 1, 1, 1] = 1


@torch.no_grad()
def test_rotary_positions_tell_frames_apart_where_attention_alone_would_not():
    """The filters are set to the identity: then only positions can tell one order of frames from another."""
    video = film(1, 1, 8, 32, 32)
    changes = {}
    for positions in ("none", "rope3d"):
        tower = tiny(frames=8, size_px=32, positions=positions).eval()
        make_filters_identities(tower)
        tokens = tower.pos_encoding(tower.conv_proj(video))
        order = torch.arange(4).flip(0)
        patches = rearrange(tokens[:, 1:], "b (t l) c -> b t l c", t=4)[:, order]
        flipped = torch.cat((tokens[:, :1], rearrange(patches, "b t l c -> b (t l) c")), dim=1)
        for block in tower.blocks:
            tokens, flipped = block(tokens), block(flipped)
        changes[positions] = (tokens[:, 0] - flipped[:, 0]).norm() / tokens[:, 0].norm()
    assert changes["none"] < 1e-5
    assert changes["rope3d"] > 1e-4


def test_compiled_blocks_keep_their_names_and_the_limit_of_versions_fits_all_blocks():
    with torch._dynamo.config.patch(
        recompile_limit=8
    ):  # monkeypatch would delete the key where it puts back the value
        compiled = tiny(compile=True)
        assert torch._dynamo.config.recompile_limit == 8 * 3
    assert all(block._compiled_call_impl is not None for block in compiled.blocks)
    assert list(compiled.state_dict()) == list(tiny().state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"activation_checkpointing": "blocks", "residual": "bf16"}])
def test_compiled_blocks_have_the_values_and_gradients_of_the_others(settings):
    """Minutes: torch.compile writes and compiles C++."""
    gradients = []
    for compile_it in (False, True):
        tower = tiny(compile=compile_it, **settings).train()
        with torch.autocast("cpu", torch.bfloat16, enabled="residual" in settings):
            tokens = tower.encode(film(2, 1, 4, 32, 32))
        tokens.float().sin().sum().backward()
        gradients.append([tokens.detach(), *(parameter.grad for parameter in tower.parameters())])
    allowed = 0.05 if "residual" in settings else 1e-4
    for plain, compiled in zip(*gradients, strict=True):
        assert (plain - compiled).norm() <= allowed * plain.norm().clamp(min=1.0)
