import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from deepcoro.config import ConfigError
from deepcoro.mvit.shapes import VARIANTS
from deepcoro.mvit.state_dicts import interpolate_positions
from deepcoro.towers.video_mvit import Config, EncoderSettings, VideoMViT
from deepcoro.video_benchmark import make_torchvision_model


def perturb(model):
    """Weights at their initial values hide mistakes: norms are 1 and 0 there, biases 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "rel_pos" in name or "bias" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny(frames=4, size_px=32, **settings):
    torch.manual_seed(0)
    return VideoMViT.from_variant(
        "tiny", frames=frames, size_px=size_px, settings=EncoderSettings(**settings)
    )


def film(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_kinetics_weights_give_the_logits_of_torchvision_at_full_size():
    from torchvision.models.video import mvit_v2_s

    theirs = perturb(mvit_v2_s())
    ours = VideoMViT.from_variant("mvit_v2_s", num_classes=400).eval()
    ours.load_kinetics_state_dict(theirs.state_dict())
    video = film(1, 3, 16, 224, 224)
    with torch.no_grad():
        got, expected = ours(video), theirs(video)
    assert got.shape == (1, 400)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ["fused", "plain"])
def test_kinetics_weights_give_the_logits_and_gradients_of_torchvision(attention):
    theirs = perturb(make_torchvision_model(frames=4, size_px=64))
    settings = EncoderSettings(attention=attention)
    ours = VideoMViT.from_variant("mvit_v2_s", 400, frames=4, size_px=64, settings=settings).eval()
    ours.load_kinetics_state_dict(theirs.state_dict())
    gradients = {}
    for name, model in (("theirs", theirs), ("ours", ours)):
        video = film(2, 3, 4, 64, 64).requires_grad_()
        logits = model(video)
        logits.sin().sum().backward()
        gradients[name] = {"logits": logits.detach(), "video": video.grad} | {
            key: value.grad for key, value in model.named_parameters()
        }
    assert gradients["ours"].keys() == gradients["theirs"].keys()
    for key, expected in gradients["theirs"].items():
        scale = max(expected.norm().item(), 1.0)
        torch.testing.assert_close(
            gradients["ours"][key] / scale, expected / scale, rtol=0, atol=1e-4, msg=key
        )


def test_weights_made_for_another_grid_are_interpolated_as_torchvision_does_in_its_forward():
    small = perturb(make_torchvision_model(frames=4, size_px=64))
    large = perturb(make_torchvision_model(frames=8, size_px=96))
    large.load_state_dict({k: v for k, v in small.state_dict().items() if "rel_pos" not in k}, strict=False)
    for block, other in zip(large.blocks, small.blocks, strict=True):
        for name in ("rel_pos_t", "rel_pos_h", "rel_pos_w"):
            setattr(block.attn, name, getattr(other.attn, name))
    ours = VideoMViT.from_variant("mvit_v2_s", 400, frames=8, size_px=96).eval()
    ours.load_kinetics_state_dict(small.state_dict())
    video = film(1, 3, 8, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(video), large(video), rtol=0, atol=1e-4)


def test_interpolation_keeps_a_table_of_the_right_length_and_the_ends_of_a_line():
    line = torch.arange(5.0)[:, None]
    assert torch.equal(interpolate_positions(line, 5), line)
    stretched = interpolate_positions(line, 10)
    assert stretched[0] == 0
    assert stretched[-1] == 4


@pytest.mark.parametrize(
    ("aggregate", "per_video_pool", "shape"),
    [(True, False, (2, 64)), (False, True, (2, 3, 64)), (False, False, (2, 15, 64))],
)
def test_the_views_of_a_study(aggregate, per_video_pool, shape):
    tower = VideoMViT.from_variant(
        "tiny", aggregate=aggregate, per_video_pool=per_video_pool, frames=4, size_px=32
    )
    video = film(2, 3, 3, 4, 32, 32)
    num_tokens = 1 + 2 * 2 * 2
    expected = shape if per_video_pool or aggregate else (2, 3 * num_tokens, 64)
    assert tower(video).shape == expected


def test_a_five_dimensional_video_is_one_clip_a_study():
    tower = tiny().eval()
    video = film(2, 3, 4, 32, 32)
    torch.testing.assert_close(tower(video), tower(video[:, None]))
    torch.testing.assert_close(tower(video), tower.encode(video)[:, 0])


def test_what_stands_in_a_padded_clip_changes_nothing():
    tower = tiny().eval()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean, dirty = film(2, 3, 3, 4, 32, 32), film(2, 3, 3, 4, 32, 32)
    dirty[~mask] = 1e6
    assert torch.equal(tower(clean, mask), tower(dirty, mask))
    alone = tower(clean[1:, :1])
    torch.testing.assert_close(tower(clean, mask)[1:], alone)
    assert not tower(clean, torch.zeros_like(mask)).any()


def test_features_of_the_flat_axis_are_the_encoded_clips_in_their_cells():
    tower = tiny().eval()
    mask = torch.tensor([[True, False], [True, True]])
    video = film(3, 3, 4, 32, 32)
    features = tower.features(video, mask, clips_per_chunk=2)
    torch.testing.assert_close(features.tokens[mask], tower.encode(video))
    assert not features.tokens[~mask].any()
    assert features.has_class_token


def test_a_grey_film_equals_its_colour_copy():
    tower = tiny().eval()
    grey = film(2, 1, 4, 32, 32)
    torch.testing.assert_close(
        tower.encode(grey), tower.encode(grey.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_any_number_of_frames_and_size_is_encoded(frames):
    tower = tiny(frames=frames, size_px=52)
    assert tower.encode(film(1, 3, frames, 52, 52)).isfinite().all()


def test_a_clip_of_another_size_than_the_tower_was_built_for_is_refused():
    with pytest.raises(ValueError, match="4 frames, 64x64 px.*built for"):
        tiny(size_px=32).encode(film(1, 3, 4, 64, 64))


@pytest.mark.parametrize("residual", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", ["selective", "blocks"])
def test_recomputed_activations_give_the_same_gradients_under_drop_path(checkpointing, residual):
    gradients = []
    for mode in ("none", checkpointing):
        tower = tiny(drop_path_rate=0.5, activation_checkpointing=mode, residual=residual).train()
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=residual == "bf16"):
            loss = tower(film(4, 3, 4, 32, 32)).float().sin().sum()
        loss.backward()
        gradients.append([loss, *(parameter.grad for parameter in tower.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize(
    ("ratio", "num_frozen"), [(0.0, 0), (0.2, 0), (0.25, 1), (0.5, 2), (0.99, 3), (1.0, 4)]
)
def test_the_freeze_ratio_is_the_fraction_frozen_from_the_bottom(ratio, num_frozen):
    tower = tiny(video_freeze_ratio=ratio, drop_path_rate=0.3).train()
    parts = [[tower.conv_proj, tower.pos_encoding], *([block] for block in tower.blocks)]
    tower(film(2, 3, 4, 32, 32).requires_grad_()).sum().backward()
    for number, part in enumerate(parts):
        for module in part:
            is_frozen = number < num_frozen
            assert module.training is not is_frozen
            for parameter in module.parameters():
                assert (parameter.grad is None) is is_frozen
    assert any(parameter.requires_grad for parameter in tower.parameters()) is (ratio < 1)


def test_a_tower_frozen_otherwise_is_as_one_built_so():
    tower = tiny(drop_path_rate=0.3).train()
    for ratio in (1.0, 0.5, 0.0, 0.5):
        tower.freeze(ratio)
        built = tiny(video_freeze_ratio=ratio, drop_path_rate=0.3).train()
        states = [[module.training for module in each.modules()] for each in (tower, built)]
        assert states[0] == states[1]
        flags = [[parameter.requires_grad for parameter in each.parameters()] for each in (tower, built)]
        assert flags[0] == flags[1]


def test_a_freeze_ratio_outside_zero_to_one_is_refused():
    with pytest.raises(ConfigError, match="video_freeze_ratio is 80"):
        tiny(video_freeze_ratio=80.0)


def test_every_parameter_lives_in_a_module_that_is_reached_through_its_own_forward():
    """ZeRO-3 gathers the parameters of a module when its forward is called, and fails on parameters without dimensions."""
    tower = tiny()
    called = set()
    for name, module in tower.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: called.add(name))
    tower.features(film(1, 3, 4, 32, 32), torch.ones(1, 1, dtype=torch.bool))
    owners = {name.rpartition(".")[0] for name, _ in tower.named_parameters()}
    assert "" not in owners
    assert owners <= called
    assert all(parameter.ndim > 0 for parameter in tower.parameters())


def test_bfloat16_autocast_stays_near_fp32():
    tower = tiny().eval()
    video = film(2, 3, 4, 32, 32)
    exact = tower(video)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = tower(video)
    assert (rounded.float() - exact).norm() / exact.norm() < 0.03


def test_the_config_builds_every_variant_with_the_frames_and_size_of_the_field():
    for variant in VARIANTS:
        with torch.device("meta"):
            tower = Config(variant=variant).build(frames=4, size_px=32)
        assert tower.head is None
        assert tower.dim == VARIANTS[variant].dim * 2 ** len(VARIANTS[variant].stage_starts)


@pytest.mark.parametrize(
    ("variant", "frames", "size_px", "millions"),
    [("mvit_v2_s", 16, 224, 34.4), ("mvit_v2_b", 32, 224, 51.1), ("mvit_v2_l", 40, 312, 213.1)],
)
def test_the_variants_have_the_number_of_parameters_published_for_ssv2(variant, frames, size_px, millions):
    """SlowFast's projects/mvitv2. (Its 217.6 M for L on Kinetics are not those of its own config with 400 classes.)"""
    with torch.device("meta"):
        tower = VideoMViT.from_variant(variant, num_classes=174, frames=frames, size_px=size_px)
    num_parameters = sum(parameter.numel() for parameter in tower.parameters())
    assert round(num_parameters / 1e6, 1) == millions


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_read_and_what_was_used_is_logged(tmp_path, caplog, suffix):
    source = tiny().state_dict()
    extra = source | {"head.1.bias": torch.zeros(3)}
    path = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": extra}, path) if suffix == ".pt" else save_file(extra, path)
    with caplog.at_level(logging.INFO):
        tower = Config(variant="tiny", weights=str(path)).build(frames=4, size_px=32)
    for name, value in tower.state_dict().items():
        assert torch.equal(value, source[name])
    assert f"{len(source)} tensors used, 1 unused ['head.1.bias']" in caplog.text


def test_the_video_tower_of_a_whole_model_is_found(tmp_path):
    source = tiny().state_dict()
    torch.save({f"towers.video.{name}": value for name, value in source.items()}, tmp_path / "model.pt")
    tower = Config(variant="tiny", weights=str(tmp_path / "model.pt")).build(frames=4, size_px=32)
    assert torch.equal(tower.norm.weight, source["norm.weight"])


def test_absent_or_foreign_weights_are_named(tmp_path):
    with pytest.raises(ConfigError, match="weights 'nowhere.pt' is neither"):
        Config(variant="tiny", weights="nowhere.pt").build(frames=4, size_px=32)
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(ConfigError, match="lack .* the first 'blocks.0"):
        Config(variant="tiny", weights=str(tmp_path / "foreign.pt")).build(frames=4, size_px=32)
    with pytest.raises(ConfigError, match="'norm.weight' is .*this encoder has"):
        tiny().load_weights(tiny().state_dict() | {"norm.weight": torch.zeros(2)}, "x")


def test_weights_of_another_variant_are_told_by_depth_width_and_head():
    other = Config(variant="demo").build(4, 32).state_dict()
    with pytest.raises(
        ConfigError,
        match=r"weights x are of another encoder: depth 5, this encoder 3;.*width 32, this encoder 16.*variant",
    ):
        tiny().load_weights(other, "x")
    torch.manual_seed(0)
    two_heads = VideoMViT(replace(VARIANTS["tiny"], heads=2), (2, 8, 8), None, EncoderSettings()).state_dict()
    with pytest.raises(ConfigError, match="head_dim 8, this encoder 16"):
        tiny().load_weights(two_heads, "x")


def test_layers_are_counted_from_the_embedding_to_the_last_norm():
    layers = VideoMViT.from_variant("tiny", num_classes=2, frames=4, size_px=32).parameter_layers()
    assert layers["conv_proj.weight"] == layers["pos_encoding.class_token"] == 0
    assert layers["blocks.0.attn.rel_pos_t"] == 1
    assert layers["blocks.2.mlp.3.bias"] == 3
    assert layers["norm.weight"] == layers["head.1.weight"] == 4
    assert set(layers) == {
        name for name, _ in VideoMViT.from_variant("tiny", 2, frames=4, size_px=32).named_parameters()
    }


def test_an_unknown_variant_is_refused():
    with pytest.raises(ConfigError, match="'mvit_v3'.*mvit_v2_s"):
        VideoMViT.from_variant("mvit_v3")
