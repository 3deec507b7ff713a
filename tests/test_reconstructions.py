"""From a trained run to pictures and numbers of hidden parts, in the report and on arteries."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcoro.angiography.folder import Recipe
from deepcoro.build import build_model, build_parts
from deepcoro.config import find_config
from deepcoro.data.plan import Row
from deepcoro.data.stream import Fetch
from deepcoro.report_reconstructions import FILE, choose_films, read_pictures, reconstruction_rows
from deepcoro.run_config import load_run_config
from deepcoro.vessel_error import injections_of, shown_film, vessel_error
from tests.launch import main_on_this_rank, tiny
from tests.tools.command import call_tool

MASKED = (
    "objectives={contrastive: {embed_dim: 32}, masked_modeling: {decoder_layers: 1, decoder_dim: 24, decoder_heads: 2}}",
    "evaluate.metrics={retrieval: {bootstrap_samples: 9}, zero_shot: false, reconstruction: {bootstrap_samples: 9}}",
    "evaluate.num_examples=2",
)


@pytest.fixture(scope="module")
def run_dir(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for two steps and tested."""
    folder = tmp_path_factory.mktemp("masked") / "run"
    words = tiny(tiny_shards, folder, *MASKED, "max_steps=2")
    assert main_on_this_rank("ddp", *words) == 0
    assert main_on_this_rank("ddp", *words, "run_mode=test") == 0
    return folder


def test_an_evaluation_measures_hidden_parts_beside_guesses_without_a_model(run_dir: Path) -> None:
    numbers = json.loads((run_dir / "results.json").read_text())
    assert numbers["masked_modeling/error_of_unit_mean"] == pytest.approx(1, rel=1e-4)
    low, high = (numbers[f"masked_modeling/error_ci_{end}"] for end in ("low", "high"))
    assert low <= numbers["masked_modeling/error"] <= high
    assert [row.label for row in reconstruction_rows(numbers)][0] == "This model"


def test_pictures_of_held_out_films_stand_in_the_report(run_dir: Path) -> None:
    pictures = read_pictures(run_dir)
    assert len(pictures) == 2
    assert pictures[0].error <= pictures[1].error
    films = [
        Image.open(io.BytesIO(base64.b64decode(getattr(pictures[0], name))))
        for name in ("original", "masked")
    ]
    assert films[0].size == films[1].size
    difference = np.abs(np.subtract(*(np.asarray(film, dtype=int) for film in films))) > 12
    assert 0.3 < difference.mean() < 0.9, "about three quarters are hidden"
    page = (run_dir / "report.html").read_text()
    assert "Hidden parts, guessed" in page
    assert pictures[1].reconstruction in page


def test_films_are_chosen_from_best_to_worst_and_none_without_an_error() -> None:
    error = np.array([0.5, np.nan, 0.1, 0.9, 0.7])
    assert choose_films(error, 3) == [2, 0, 3] or choose_films(error, 3) == [2, 4, 3]
    assert choose_films(error, 9) == [2, 0, 4, 3]
    assert choose_films(np.array([np.nan]), 3) == []


def test_the_report_of_a_run_without_hidden_parts_says_nothing_of_them(run_dir: Path, tmp_path: Path) -> None:
    from deepcoro.report import write_report

    assert not (tmp_path / FILE).exists()
    (tmp_path / "results.json").write_text("{}")
    assert "Hidden parts" not in write_report(tmp_path).read_text()


def test_rendered_films_are_those_of_the_shards_and_arteries_are_dark_in_them(
    tiny_shards: Path, tmp_path: Path
) -> None:
    name, *overrides = tiny(tiny_shards, tmp_path)
    config = load_run_config(find_config(name), overrides)
    parts = build_parts(config, make_tokenizer=True)
    units = parts.shards.units("test", False, 1)
    fetch = Fetch(parts.shards, units, {"video": parts.fields["video"]}, None)
    stored = [
        fetch[[Row(unit, 0, unit)]].batch["video"][0, 0].numpy().astype(int) for unit in range(len(units))
    ]
    recipe = Recipe(**{key: value for key, value in _recipe(tiny_shards).items() if key != "generation"})
    shown = [shown_film(each, config.data.fields["video"]) for each, _ in injections_of(recipe, "test")]
    assert len(shown) == len(stored)
    for pixels, vessels in shown:
        distance = [np.abs(pixels.numpy().astype(int) - film).mean() for film in stored]
        assert min(distance) < 6, "coded and scaled, it is the same film"
        assert vessels.shape == pixels.shape
    dark = [
        pixels[vessels].float().mean() - pixels[~vessels & (pixels > 0)].float().mean()
        for pixels, vessels in shown
        if vessels.any()
    ]
    assert np.mean(dark) < -10


def _recipe(shards: Path) -> dict:
    return json.loads((shards.parent / "data" / "recipe.json").read_text())


def test_errors_on_arteries_come_beside_those_of_all_hidden_pixels(tiny_shards: Path, tmp_path: Path) -> None:
    with_captions = MASKED[0].replace(
        "masked_modeling", "captioning: {decoder_layers: 1, decoder_heads: 2}, masked_modeling"
    )
    name, *overrides = tiny(tiny_shards, tmp_path, with_captions, *MASKED[1:])
    config = load_run_config(find_config(name), overrides)
    model = build_model(config, build_parts(config, make_tokenizer=True))
    recipe = Recipe("tiny", 0, 6, "mixed")
    splits = [
        vessel_error(model, config.data.fields["video"], recipe, split) for split in ("train", "elsewhere")
    ]
    numbers, notes = splits[0]
    assert notes == []
    assert numbers["masked_modeling/num"] >= numbers["masked_modeling/num_on_vessels"] > 0
    assert numbers["masked_modeling/error_of_unit_mean"] == pytest.approx(1, rel=1e-4)
    assert (
        abs(numbers["masked_modeling/error_of_unit_mean_on_vessels"] - 1) > 0.1
    ), "other pixels, other numbers"
    assert splits[1] == ({}, ["no film of the generator's split 'elsewhere'"])


def test_the_tool_adds_arteries_to_the_results_and_the_report(
    tiny_shards: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = json.loads((run_dir / "results.json").read_text())
    words = (tiny_shards.parent / "data", run_dir, "--checkpoint", "last")
    code, told, _ = call_tool("vessel_error", words, monkeypatch, capsys)
    assert code == 0
    assert "masked_modeling/error_on_vessels" in told
    after = json.loads((run_dir / "results.json").read_text())
    assert {key: after[key] for key in before} == before
    assert "masked_modeling/error_on_vessels_ci_low" in after
    assert "On arteries" in (run_dir / "report.html").read_text()
    code, _, error = call_tool("vessel_error", (run_dir, run_dir), monkeypatch, capsys)
    assert code == 2
    assert "recipe.json is not there" in error
