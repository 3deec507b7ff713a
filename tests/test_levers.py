"""Every lever of the video tower trains demo/tiny: what changes how it runs gives the same curve, what changes what it is another."""

from pathlib import Path

import pytest

from deepcoro.config import ConfigError, find_config
from deepcoro.engine import _refuse_compiled_pieces
from deepcoro.mvit import compilation
from deepcoro.run_config import load_run_config
from tests.launch import SILENT, STEADY, losses, main_on_this_rank, tiny

# What each lever may do to the training curve of three steps.
SAME = {
    "activation_checkpointing": "selective",
    "attention": "plain",
}
OTHER = {
    "drop_path_rate": "0.9",
    "kv_grid": "fast",
    "positions": "rope3d",
    "class_token": "false",
    "patch_dropout": "0.5",
}


def curve(shards: Path, run_dir: Path, *words: str) -> dict[int, float]:
    run = tiny(shards, run_dir, *STEADY, *SILENT, "max_steps=3", *words)
    assert main_on_this_rank("ddp", *run) == 0
    return losses(run_dir)


@pytest.fixture(scope="module")
def plain(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    return curve(tiny_shards, tmp_path_factory.mktemp("levers") / "plain")


@pytest.mark.parametrize(("key", "value"), SAME.items())
def test_a_lever_of_speed_or_memory_leaves_the_curve(
    tiny_shards: Path, tmp_path: Path, plain: dict[int, float], key: str, value: str
) -> None:
    got = curve(tiny_shards, tmp_path, f"towers.video.{key}={value}")
    assert got == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
def test_compiled_blocks_leave_the_curve(
    tiny_shards: Path, tmp_path: Path, plain: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the C++ of torch.compile takes minutes on a CPU: here its graphs run as they are
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    got = curve(tiny_shards, tmp_path, "towers.video.compile=true")
    assert got == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(("key", "value"), OTHER.items())
def test_a_lever_of_the_model_changes_the_curve(
    tiny_shards: Path, tmp_path: Path, plain: dict[int, float], key: str, value: str
) -> None:
    got = curve(tiny_shards, tmp_path, f"towers.video.{key}={value}")
    assert all(0 < loss < 10 for loss in got.values())
    assert got != pytest.approx(plain, rel=1e-5)


def test_a_bf16_stream_stays_near_the_fp32_one(tiny_shards: Path, tmp_path: Path) -> None:
    exact = curve(tiny_shards, tmp_path / "fp32", "precision=bf16")
    rounded = curve(tiny_shards, tmp_path / "bf16", "precision=bf16", "towers.video.residual=bf16")
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)


def test_compiled_blocks_under_zero_3_are_refused() -> None:
    config = load_run_config(find_config("demo/tiny"), ["towers.video.compile=true"])
    for stage in (0, 1, 2):
        _refuse_compiled_pieces(config, stage)
    with pytest.raises(ConfigError, match="towers.video.compile=true is not for ZeRO-3.*ZeRO-2"):
        _refuse_compiled_pieces(config, 3)
