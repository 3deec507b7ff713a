"""Graphs of an encoder: what they answer is what the encoder answers, for any number of films."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepcoro.config import ConfigError, DataError
from deepcoro.exported import export_encoder
from deepcoro.sharing import portable
from deepcoro.sharing.portable import Portable, PortableEncoder
from deepcoro.towers.video_mvit import Config, VideoMViT

GREY = (91.0, 40.0)


def tower_of(frames: int = 4, size_px: int = 64, **keys) -> VideoMViT:
    torch.manual_seed(3)
    tower = Config(variant="tiny", **keys).build(frames, size_px).eval()
    with torch.no_grad():
        for each in tower.parameters():  # norms and positions away from where they start
            each.add_(0.05 * torch.randn_like(each))
    return tower


def films(clips: int) -> torch.Tensor:
    return torch.randint(0, 256, (clips, 1, 4, 64, 64)).float()


@pytest.mark.parametrize("kv_grid", ["full", "fast"])
def test_torchvisions_network_with_its_weights_is_the_same_function(kv_grid: str) -> None:
    tower = tower_of(kv_grid=kv_grid)
    shown = films(2)
    with torch.no_grad():
        wanted = tower.encode((shown - GREY[0]) / GREY[1])
        torch.testing.assert_close(PortableEncoder(tower, GREY)(shown), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"positions": "rope3d"}, r"positions=rope3d \(relative\)"),
        ({"class_token": False}, "class_token=false"),
        ({"frames": 5}, "5 frames of 64 px"),
        ({"size_px": 48}, "4 frames of 48 px"),
    ],
)
def test_what_torchvision_has_not_is_refused(keys: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        PortableEncoder(tower_of(**keys), GREY)


@pytest.mark.slow
def test_both_graphs_answer_for_any_number_of_films_and_the_card_says_how_well(tmp_path: Path) -> None:
    import onnxruntime

    tower, folder = tower_of(), tmp_path / "encoder"
    export_encoder(tower, folder, GREY, write_graphs=Portable(tower, GREY).write)
    card = json.loads((folder / "config.json").read_text())["graphs"]
    assert all(0 < each < 1e-4 for each in card["largest_difference"].values())
    program = torch.export.load(folder / portable.PROGRAM).module()
    session = onnxruntime.InferenceSession(folder / portable.ONNX, providers=["CPUExecutionProvider"])
    for clips in (1, 4):
        shown = films(clips)
        with torch.no_grad():
            wanted = tower.encode((shown - GREY[0]) / GREY[1])
        torch.testing.assert_close(program(shown), wanted, rtol=1e-4, atol=1e-4)
        (answered,) = session.run(None, {"video": shown.numpy()})
        np.testing.assert_allclose(answered, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_graph_that_differs_leaves_no_folder(tmp_path: Path, monkeypatch) -> None:
    tower = tower_of()
    monkeypatch.setattr(portable, "TOLERANCE", 1e-12)
    with pytest.raises(DataError, match="encoder.pt2 differs from the encoder"):
        export_encoder(tower, tmp_path / "encoder", write_graphs=Portable(tower, None, onnx=False).write)
    assert not list(tmp_path.iterdir())
