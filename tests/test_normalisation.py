"""Whose mean and deviation the grey levels get: the config's, the checkpoint's, the starting weights', the training films'."""

import json
import logging
import shutil
from pathlib import Path

import pydantic
import pytest
import torch
from safetensors.torch import save_file

from deepcoro.build import build_model, build_parts
from deepcoro.config import ConfigError, find_config
from deepcoro.evaluate import load_model, open_checkpoint
from deepcoro.normalisation import Config, PixelNormalisation, constants
from deepcoro.run_config import RunConfig, load_run_config
from tests.launch import SILENT, main_on_this_rank, tiny

OTHER = ("normalisation.pixel_mean=90.0", "normalisation.pixel_std=20.0")


def test_grey_films_are_normalised_and_stay_one_channel() -> None:
    video = torch.tensor([0, 100, 200], dtype=torch.uint8).reshape(1, 1, 3, 1, 1)
    normalised = PixelNormalisation(mean=100.0, std=50.0)(video)
    assert torch.equal(normalised, torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 1, 3, 1, 1))


def test_mean_and_deviation_come_together() -> None:
    with pytest.raises(pydantic.ValidationError, match="give both"):
        Config(pixel_mean=100)


def test_config_then_starting_weights_then_training_films() -> None:
    given = Config(pixel_mean=90, pixel_std=20)
    assert constants(given, (1.0, 2.0), (3.0, 4.0)) == (90, 20)
    assert constants(Config(), (1.0, 2.0), (3.0, 4.0)) == (1.0, 2.0)
    assert constants(Config(), None, (3.0, 4.0)) == (3.0, 4.0)
    with pytest.raises(ConfigError, match="normalisation.pixel_mean"):
        constants(Config(), None, (None, None))


def config_of(shards: Path, run_dir: Path, *words: str) -> RunConfig:
    name, *overrides = tiny(shards, run_dir, *words)
    return load_run_config(find_config(name), overrides)


def constants_of(model: torch.nn.Module) -> tuple[float, float]:
    return model.normalisation.mean.item(), model.normalisation.std.item()


@pytest.fixture(scope="module")
def own(tiny_shards: Path) -> tuple[float, float]:
    """Those of the training films."""
    manifest = json.loads((tiny_shards / "manifest.json").read_text())
    return pytest.approx((manifest["pixel_mean"], manifest["pixel_std"]), rel=1e-6)


@pytest.fixture(scope="module")
def run_dir(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("normalisation") / "run"
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *SILENT, "max_steps=1")) == 0
    return run_dir


@pytest.fixture(params=[(60.0, 10.0), (None, None)], ids=["other films", "no training films"])
def foreign(request: pytest.FixtureRequest, tiny_shards: Path, tmp_path: Path) -> Path:
    """The same films, whose manifest tells other constants, or none."""
    folder = shutil.copytree(tiny_shards, tmp_path / "foreign")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["pixel_mean"], manifest["pixel_std"] = request.param
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("mode", ["val", "test", "inference"])
def test_a_checkpoint_keeps_its_own_constants_on_foreign_films(
    foreign: Path, run_dir: Path, own: tuple[float, float], mode: str
) -> None:
    config = config_of(foreign, run_dir, f"run_mode={mode}")
    saved, parts = open_checkpoint(config)
    assert constants_of(load_model(config, parts, saved)) == own


def test_the_config_overrides_a_checkpoint_and_says_so(
    foreign: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(foreign, run_dir, "run_mode=test", *OTHER)
    saved, parts = open_checkpoint(config)
    with caplog.at_level(logging.WARNING):
        assert constants_of(load_model(config, parts, saved)) == (90.0, 20.0)
    assert "the config sets 90.00 and 20.00" in caplog.text


def test_a_warm_start_takes_the_constants_of_the_run_it_starts_from(
    foreign: Path, run_dir: Path, own: tuple[float, float], tmp_path: Path
) -> None:
    words = (f"towers.video.weights={run_dir}",)
    for more, expected in ((words, own), ((*words, *OTHER), (90.0, 20.0))):
        config = config_of(foreign, tmp_path / "new", *more)
        assert constants_of(build_model(config, build_parts(config, make_tokenizer=True))) == expected


def test_weights_of_a_tower_alone_leave_the_training_films_constants(
    tiny_shards: Path, own: tuple[float, float], tmp_path: Path
) -> None:
    config = config_of(tiny_shards, tmp_path / "run")
    parts = build_parts(config, make_tokenizer=True)
    model = build_model(config, parts)
    assert constants_of(model) == own
    save_file(model.towers["video"].state_dict(), tmp_path / "tower.safetensors")
    config = config_of(tiny_shards, tmp_path / "run", f"towers.video.weights={tmp_path}/tower.safetensors")
    assert constants_of(build_model(config, parts)) == own


def test_training_on_films_that_tell_no_constants_asks_for_them(
    foreign: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = config_of(foreign, tmp_path / "run")
    parts = build_parts(config, make_tokenizer=True)
    if parts.shards.pixel_statistics() == (None, None):
        with pytest.raises(ConfigError, match="normalisation.pixel_mean"):
            build_model(config, parts)
    else:
        assert constants_of(build_model(config, parts)) == (60.0, 10.0)
