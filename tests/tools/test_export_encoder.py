"""tools/export_encoder.py: a trained run and public weights become folders that start the next run."""

import json
from pathlib import Path

import pytest
import torch

from deepcoro import checkpoint
from deepcoro.towers.video_mvit import Config, VideoMViT
from tests.launch import SILENT, STEADY, main_on_this_rank, tiny
from tests.tools.command import call_tool


def test_a_run_is_exported_and_starts_another_run_with_its_weights_and_grey_levels(
    tiny_shards: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    run_dir, encoder = tmp_path / "run", tmp_path / "encoder"
    grey = ("normalisation={pixel_mean: 91.0, pixel_std: 40.0}",)
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *STEADY, *SILENT, *grey, "max_steps=2")) == 0
    code, out, _ = call_tool(
        "export_encoder", (run_dir, encoder, "--checkpoint", "last"), monkeypatch, capsys
    )
    assert code == 0
    assert f"towers.video.weights={encoder}" in out
    card = json.loads((encoder / "config.json").read_text())
    saved = checkpoint.Checkpoint(run_dir / "checkpoints" / "step_2")
    assert (card["pixel_mean"], card["pixel_std"]) == (91.0, 40.0)
    assert card["provenance"]["step"] == 2
    assert card["provenance"]["digest"] == saved.digest()
    assert card["encoder"]["frames"] == 4
    assert str(tmp_path) not in (encoder / "config.json").read_text()

    second = tiny(tiny_shards, tmp_path / "second", *STEADY, *SILENT, "max_steps=1", "optim.lr=1e-12")
    assert main_on_this_rank("ddp", *second, f"towers.video.weights={encoder}") == 0
    started = checkpoint.Checkpoint(tmp_path / "second" / "checkpoints" / "step_1").weights()
    assert started["normalisation.mean"].item() == 91.0
    for name, value in saved.weights().items():
        if name.startswith("towers.video."):
            torch.testing.assert_close(started[name], value, rtol=0, atol=1e-6)


def test_public_weights_become_a_folder_that_knows_its_variant(tmp_path: Path, monkeypatch, capsys) -> None:
    torch.manual_seed(0)
    source = VideoMViT.from_variant("tiny", num_classes=5, frames=4, size_px=32)
    torch.save({"model_state": source.state_dict()}, tmp_path / "public.pyth")
    words = ("--variant", "tiny", "--frames", "4", "--size_px", "32")
    code, _, _ = call_tool(
        "export_encoder", (tmp_path / "public.pyth", tmp_path / "encoder", *words), monkeypatch, capsys
    )
    assert code == 0
    tower = Config(variant="tiny", weights=str(tmp_path / "encoder")).build(4, 32)
    assert torch.equal(tower.conv_proj.weight, source.conv_proj.weight)
    card = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert card["provenance"]["file"] == "public.pyth"


@pytest.mark.slow
def test_a_graph_is_written_beside_them_where_one_is_asked_for(tmp_path: Path, monkeypatch, capsys) -> None:
    source = VideoMViT.from_variant("tiny", num_classes=5, frames=4, size_px=32)
    torch.save({"model_state": source.state_dict()}, tmp_path / "public.pyth")
    words = ("--variant", "tiny", "--frames", "4", "--size_px", "32", "--graph", "torch")
    code, _, _ = call_tool(
        "export_encoder", (tmp_path / "public.pyth", tmp_path / "encoder", *words), monkeypatch, capsys
    )
    assert code == 0
    card = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert card["graphs"]["input"].endswith("grey levels, normalised")
    assert {each.name for each in (tmp_path / "encoder").iterdir()} == {
        *("config.json", "model.safetensors", "encoder.pt2")
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("public.pt", "encoder"), "say which encoder it holds: --variant"),
        (("nowhere", "encoder"), "holds no checkpoint"),
        (("nowhere", "encoder", "--variant", "tiny"), "a run folder knows its own"),
        (("public.pt", "public.pt", "--variant", "tiny", "--frames", "4", "--size_px", "32"), "exists"),
    ],
)
def test_faults_of_the_command_are_one_line(tmp_path: Path, monkeypatch, capsys, words, told) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Config(variant="tiny").build(4, 32).state_dict(), "public.pt")
    code, _, err = call_tool("export_encoder", words, monkeypatch, capsys)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
