import sys

import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.optim import build_optimizer
from deepcoro.run_config import Optim
from deepcoro.towers.video_timm import Config, create_backbone

MODEL = "vit_tiny_patch16_224"
MASK = torch.tensor([[True, False], [True, True]])


def film(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", ["resnet10t", MODEL])
def test_a_timm_model_gives_a_pooled_token_and_one_a_frame_for_every_real_clip(model):
    tower = Config(model=model).build(frames=3, size_px=32).eval()
    features = tower.features(film(3, 1, 3, 32, 32), MASK, clips_per_chunk=2)
    assert features.tokens.shape == (2, 2, 4, tower.dim)
    assert not features.tokens[0, 1].any()
    torch.testing.assert_close(features.tokens[MASK], tower(film(3, 1, 3, 32, 32)))


def test_the_order_of_frames_matters():
    tower = Config(model="resnet10t").build(frames=3, size_px=32).eval()
    video = film(1, 3, 3, 32, 32)
    assert not torch.allclose(tower(video)[:, 0], tower(video.flip(2))[:, 0], atol=1e-6)


def test_frozen_layers_get_no_gradient_and_keep_their_statistics():
    tower = Config(model="resnet10t", video_freeze_ratio=0.5).build(frames=2, size_px=32).train()
    statistics = {name: value.clone() for name, value in tower.named_buffers() if "running_mean" in name}
    tower(film(2, 3, 2, 32, 32)).sum().backward()
    frozen = {name for name, parameter in tower.named_parameters() if not parameter.requires_grad}
    assert "backbone.conv1.0.weight" in frozen
    assert not any(name.startswith("pool.") for name in frozen)
    trained = [
        parameter.grad is not None for name, parameter in tower.named_parameters() if name not in frozen
    ]
    assert trained
    assert all(trained)
    buffers = dict(tower.named_buffers())
    changed = {name for name, value in statistics.items() if not torch.equal(value, buffers[name])}
    assert changed
    assert not {name.rpartition(".")[0] for name in changed} & {name.rpartition(".")[0] for name in frozen}


def test_a_frozen_image_model_still_trains_the_attention_over_time():
    tower = Config(model="resnet10t", video_freeze_ratio=1.0).build(frames=2, size_px=32)
    assert not any(parameter.requires_grad for parameter in tower.backbone.parameters())
    assert all(parameter.requires_grad for parameter in tower.pool.parameters())


@pytest.mark.parametrize(
    ("model", "bottom", "higher"),
    [
        (MODEL, "backbone.patch_embed.proj.weight", "backbone.blocks.11.attn.qkv.weight"),
        ("convnext_atto", "backbone.stem.0.weight", "backbone.stages.3.blocks.1.mlp.fc2.weight"),
        ("mvitv2_tiny", "backbone.patch_embed.proj.weight", "backbone.stages.3.blocks.1.mlp.fc2.weight"),
    ],
)
def test_transformers_convolutions_and_mvit_as_image_models_train_with_layer_decay(model, bottom, higher):
    """The order of layers is timm's; the attention over time lies above it."""
    torch.manual_seed(0)
    tower = Config(model=model).build(frames=2, size_px=64).train()
    layers = tower.parameter_layers()
    assert set(layers) == {name for name, _ in tower.named_parameters()}
    assert layers[bottom] == 0 < layers[higher] < layers["pool.query"] == max(layers.values())
    root = torch.nn.ModuleDict({"towers": torch.nn.ModuleDict({"video": tower})})
    optimizer = build_optimizer(root, Optim(lr=1e-3, layer_decay=0.5))
    lr_of = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    for name, parameter in tower.named_parameters():
        assert lr_of[id(parameter)] == pytest.approx(1e-3 * 0.5 ** (max(layers.values()) - layers[name]))
    before = {name: each.detach().clone() for name, each in tower.named_parameters()}
    tower(film(2, 1, 2, 64, 64))[:, 0].sin().sum().backward()
    optimizer.step()
    moved = {name: (each - before[name]).abs().max().item() for name, each in tower.named_parameters()}
    assert 0 < moved[bottom] < moved[higher] < 1.1e-3


def test_recomputing_the_image_model_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        tower = (
            Config(model=MODEL, activation_checkpointing=checkpointing).build(frames=2, size_px=32).train()
        )
        tower(film(1, 3, 2, 32, 32)).sin().sum().backward()
        gradients.append(tower.backbone.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_weights_of_the_image_model_are_loaded_and_a_missing_file_is_named(tmp_path):
    state = create_backbone("resnet10t", 32).state_dict() | {"fc.weight": torch.zeros(2)}
    torch.save(state, tmp_path / "image.pth")
    tower = Config(model="resnet10t", weights=str(tmp_path / "image.pth")).build(frames=2, size_px=32)
    assert torch.equal(tower.backbone.conv1[0].weight, state["conv1.0.weight"])
    with pytest.raises(ConfigError, match="weights 'nowhere.pth' is neither"):
        Config(model="resnet10t", weights="nowhere.pth").build(frames=2, size_px=32)


def test_faults_of_the_config_are_one_line():
    with pytest.raises(ConfigError, match="'resnet_1000'"):
        Config(model="resnet_1000").build(frames=2, size_px=32)
    with pytest.raises(ConfigError, match="heads is 5"):
        Config(model="resnet10t", heads=5).build(frames=2, size_px=32)
    with pytest.raises(ConfigError, match="video_freeze_ratio is 2"):
        Config(model="resnet10t", video_freeze_ratio=2).build(frames=2, size_px=32)
    with pytest.raises(ValueError, match="4 frames; this tower was built for 2"):
        Config(model="resnet10t").build(frames=2, size_px=32)(film(1, 3, 4, 32, 32))


def test_a_timm_that_does_not_import_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="timm, which does not import here .*video_mvit"):
        Config(model="resnet10t").build(frames=2, size_px=32)
