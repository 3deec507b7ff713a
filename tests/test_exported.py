"""Encoders as folders: written whole or not at all, read back with what they say of themselves, from a path or a hub."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from deepcoro import exported
from deepcoro.config import ConfigError
from deepcoro.exported import export_encoder, locate, read_card
from deepcoro.towers import video_mvit, video_timm
from deepcoro.weights import read_pixel_constants


def tower(frames: int = 4, size_px: int = 32, **keys: Any) -> nn.Module:
    torch.manual_seed(0)
    return video_mvit.Config(**{"variant": "tiny"} | keys).build(frames, size_px).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export_encoder(tower(), tmp_path / "encoder", (101.5, 47.25), {"step": 7})
    return tmp_path / "encoder"


def test_an_exported_encoder_loads_as_the_same_function_with_its_grey_levels(folder: Path) -> None:
    video = torch.randn(2, 1, 4, 32, 32)
    torch.testing.assert_close(tower(weights=str(folder)).encode(video), tower().encode(video))
    assert read_pixel_constants(str(folder)) == (101.5, 47.25)
    card = read_card(folder)
    assert card["encoder"] == tower().built_as
    assert card["provenance"]["step"] == 7
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_an_image_model_is_exported_with_its_attention_over_time(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = video_timm.Config(model="test_vit").build(3, 32).eval()
    export_encoder(source, tmp_path / "encoder")
    loaded = video_timm.Config(model="test_vit", weights=str(tmp_path / "encoder")).build(3, 32).eval()
    video = torch.randn(2, 1, 3, 32, 32)
    torch.testing.assert_close(loaded(video), source(video))
    longer = video_timm.Config(model="test_vit", weights=str(tmp_path / "encoder")).build(5, 32)
    assert torch.equal(longer.pool.positions[[0, -1]], source.pool.positions[[0, -1]])


def test_a_classifier_is_left_out_and_unknown_grey_levels_stay_unknown(tmp_path: Path) -> None:
    with_head = video_mvit.VideoMViT.from_variant("tiny", num_classes=3, frames=4, size_px=32)
    export_encoder(with_head, tmp_path / "encoder")
    assert read_pixel_constants(str(tmp_path / "encoder")) is None
    tower(weights=str(tmp_path / "encoder"))


def test_what_differs_from_the_run_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tower(frames=8, kv_grid="fast", weights=str(folder))
    assert "frames was 4 and is 8; kv_grid was 'full' and is 'fast'" in caplog.text
    caplog.clear()
    tower(weights=str(folder))
    assert "another" not in caplog.text
    with pytest.raises(ConfigError, match="variant 'tiny'.*video_mvit with variant 'demo'.*variant=tiny"):
        tower(variant="demo", weights=str(folder))
    with pytest.raises(ConfigError, match="are a video_mvit encoder.*video_timm"):
        video_timm.Config(model="test_vit", weights=str(folder)).build(4, 32)


def test_an_encoder_is_never_overwritten_and_a_failed_export_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="exists"):
        export_encoder(tower(), folder)

    def full_disk(path: Path, payload: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(exported, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_encoder(tower(), folder.parent / "second")
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]


def test_a_format_of_another_version_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"format": "deepcoro-video-encoder/9"}))
    with pytest.raises(
        ConfigError, match="format 'deepcoro-video-encoder/9'; this version of deepcoro reads"
    ):
        tower(weights=str(folder))


def test_the_hub_is_asked_for_the_revision_after_this_machines_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(repo_id: str, revision: str | None, local_files_only: bool, **_: Any) -> str:
        asked.append((repo_id, revision, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert locate("hf://heart/encoder@v2") == folder
    assert asked == [("heart/encoder", "v2", True), ("heart/encoder", "v2", False)]
    loaded = tower(weights="hf://heart/encoder")
    assert torch.equal(loaded.norm.weight, tower().norm.weight)
    assert asked[-1] == ("heart/encoder", None, False)
    assert read_pixel_constants("hf://heart/encoder") == (101.5, 47.25)


def test_a_hub_that_cannot_be_had_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: Any) -> str:
        raise LocalEntryNotFoundError("Cannot reach the hub. Check your connection.\nMore lines.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        ConfigError, match=r"'hf://a/b' cannot be had \(Cannot reach the hub\); .*hf download a/b"
    ) as told:
        tower(weights="hf://a/b")
    assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match="hf://ORGANISATION/NAME"):
        locate("hf://alone")


def test_a_repository_without_an_encoder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **_: str(tmp_path))
    with pytest.raises(ConfigError, match="it holds no model.safetensors"):
        locate("hf://a/b")
