"""Checkpoints of DeepCORO_CLIP in the layouts that were released: the encoder is the original's, every other tensor is named."""

import pytest
import torch
import yaml
from torch import nn

from deepcoro.config import ConfigError
from deepcoro.exported import read_card
from deepcoro.migration.old_checkpoint import import_encoder, read_old_checkpoint
from deepcoro.migration.old_config import pixel_constants_of
from deepcoro.towers import video_mvit

FRAMES, SIZE_PX, WIDTH = 4, 32, 16
TINY = video_mvit.Config(variant="tiny")


class OldEncoder(nn.Module):
    """The parameters that the predecessor's encoder has beside its backbone `model`, whose head is empty."""

    def __init__(self, model, dim):
        super().__init__()
        self.model = model
        self.proj = nn.Sequential(nn.Dropout(), nn.Linear(dim, WIDTH), nn.GELU(), nn.Dropout())
        self.aggregator = nn.ModuleDict({"final_ln": nn.LayerNorm(WIDTH)})
        self.attention_pool = nn.ModuleDict({"attn": nn.MultiheadAttention(WIDTH, 2)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return TINY.build(FRAMES, SIZE_PX)


def clip_layout(tower):
    """Both encoders wrapped for data-parallel training, as they were saved; the optimiser's numbers beside them."""
    video = OldEncoder(tower, tower.dim)
    text = nn.ModuleDict({"bert": nn.Linear(4, 4), "proj": nn.Sequential(nn.Dropout(), nn.Linear(4, WIDTH))})
    states = {"video_encoder": video, "text_encoder": text}
    saved = {
        name: {f"module.{key}": value for key, value in each.state_dict().items()}
        for name, each in states.items()
    }
    return saved | {"optimizer": {"state": {}}, "epoch": 9, "train/temperature": 0.059}


def probe_layout(tower):
    """Encoder bare, multi-instance model wrapped."""
    mil = nn.ModuleDict({name: nn.Linear(WIDTH, 8) for name in ("attention_V", "attention_U")})
    mil["heads"] = nn.ModuleDict({"cto": nn.Linear(WIDTH, 1)})
    encoder = {
        f"video_encoder.{key}": value for key, value in OldEncoder(tower, tower.dim).state_dict().items()
    }
    return {
        "linear_probing": encoder
        | {f"mil_model.module.{key}": value for key, value in mil.state_dict().items()}
    }


def saved(layout, tmp_path):
    torch.save(layout, tmp_path / "old.pt")
    return tmp_path / "old.pt"


def imported(path, folder, constants=None):
    return import_encoder(path, folder, constants, TINY, (FRAMES, SIZE_PX))


@pytest.mark.parametrize("layout", [clip_layout, probe_layout])
def test_the_encoder_of_each_layout_is_the_original(tmp_path, tower, layout):
    report = imported(saved(layout(tower), tmp_path), tmp_path / "ours", (122.09, 28.79))
    again = TINY.model_copy(update={"weights": str(tmp_path / "ours")}).build(FRAMES, SIZE_PX)
    film = torch.randn(2, 3, FRAMES, SIZE_PX, SIZE_PX)
    with torch.no_grad():
        assert torch.equal(again.eval().encode(film), tower.eval().encode(film))
    assert "missing: 0" in report and "mean 122.0900, std 28.7900" in report
    card = read_card(tmp_path / "ours")
    assert (card["pixel_mean"], card["pixel_std"]) == (122.09, 28.79)


@pytest.mark.parametrize("layout", [clip_layout, probe_layout])
def test_every_tensor_is_used_or_named(tmp_path, tower, layout):
    old = read_old_checkpoint(saved(layout(tower), tmp_path))
    named = [name for names in old.left_out().values() for name in names]
    assert len(old.encoder) + len(named) == len(old.tensors)
    assert not any("module" in name for name in old.tensors)
    assert "no part of a model of the predecessor" not in old.left_out()
    assert sorted(old.encoder) == sorted(tower.state_dict())


def test_the_report_says_what_was_left_out(tmp_path, tower):
    report = imported(saved(probe_layout(tower), tmp_path), tmp_path / "ours")
    for word in ("never trained", "mil_model.heads.cto (2)", "mil_model.attention_V", "grey levels: unknown"):
        assert word in report


@pytest.mark.slow
def test_mvit_as_the_predecessor_ran_it_gives_the_same_tokens(tmp_path):
    from torchvision.models.video import mvit_v2_s

    torch.manual_seed(0)
    model = mvit_v2_s()  # made for 16 x 224 px; each attention stretches its positions to the film
    model.head = nn.Identity()
    path = saved({"video_encoder": OldEncoder(model, 768).state_dict()}, tmp_path)
    import_encoder(path, tmp_path / "ours", None, shape=(FRAMES, SIZE_PX))
    ours = video_mvit.Config(weights=str(tmp_path / "ours")).build(FRAMES, SIZE_PX).eval()
    film = torch.randn(1, 3, FRAMES, SIZE_PX, SIZE_PX)
    model.eval()
    with torch.no_grad():
        patches = model.conv_proj(film)  # every token after the last norm, none of them chosen
        tokens, grid = model.pos_encoding(patches.flatten(2).transpose(1, 2)), tuple(patches.shape[2:])
        for block in model.blocks:
            tokens, grid = block(tokens, grid)
        assert torch.allclose(ours.encode(film), model.norm(tokens), atol=2e-4)


def test_what_cannot_be_taken_is_refused(tmp_path, tower):
    with pytest.raises(ConfigError, match="neither 'video_encoder' nor 'linear_probing'"):
        imported(saved({"weights": torch.zeros(1)}, tmp_path), tmp_path / "ours")
    with pytest.raises(ConfigError, match="r3d and x3d"):
        imported(
            saved({"video_encoder": {"model.stem.0.weight": torch.zeros(1)}}, tmp_path), tmp_path / "ours"
        )
    layout = clip_layout(tower)
    del layout["video_encoder"]["module.model.norm.weight"]
    with pytest.raises(ConfigError, match=r"lacks 1 of .* 'norm\.weight'"):
        imported(saved(layout, tmp_path), tmp_path / "ours")
    with pytest.raises(ConfigError, match="objects besides tensors"):
        imported(saved({"video_encoder": Opaque()}, tmp_path), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


class Opaque:
    """What an unpickler would have to run code for."""


def test_grey_levels_come_from_the_old_config_and_rotary_positions_are_refused(tmp_path):
    path = tmp_path / "old.yaml"
    old = {
        "pipeline_project": "DeepCORO_clip",
        "model_name": "mvit",
        "dataset_mean": 110.5,
        "dataset_std": 37.81,
    }
    path.write_text(yaml.safe_dump(old))
    assert pixel_constants_of(path) == (110.5, 37.81)
    path.write_text(yaml.safe_dump({"pipeline_project": "DeepCORO_clip"}))
    assert pixel_constants_of(path) is None
    path.write_text(yaml.safe_dump(old | {"use_rope": True}))
    with pytest.raises(ConfigError, match="W19"):
        pixel_constants_of(path)


def test_the_tool_says_in_one_line_what_is_wrong(tmp_path, monkeypatch, capsys):
    from tests.tools.command import call_tool

    words = (tmp_path / "none.pt", "--output", tmp_path / "ours")
    code, _, error = call_tool("import_checkpoint", words, monkeypatch, capsys)
    assert code == 2 and "is no file" in error
