"""Evaluation sees every film once, on any number of ranks, and only where the result would be honest."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepcoro.data.shards import Shards
from deepcoro.evaluate import run_notes
from deepcoro.run_config import Checkpoint, RunConfig
from tests.launch import SILENT, STEADY, exit_code, main_on_rank, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks

NUM_TEST_FILMS = 18


@pytest.fixture(scope="module")
def trained(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one process; the older is the best."""
    run_dir = tmp_path_factory.mktemp("evaluate") / "run"
    words = (*STEADY, *SILENT, "max_steps=4", "checkpoint.every_steps=2")
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *words)) == 0
    (run_dir / "checkpoints" / "best").write_text("step_2")
    return run_dir


def evaluation(shards: Path, run_dir: Path, *words: str) -> list[str]:
    return tiny(shards, run_dir, *STEADY, "run_mode=test", *words)


def results(run_dir: Path, name: str = "shards_test") -> dict[str, Any]:
    return json.loads((run_dir / "results" / f"{name}.json").read_text())


def predictions(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "predictions" / "shards_test.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def evaluated(tiny_shards: Path, trained: Path) -> Path:
    run_dir = shutil.copytree(trained, trained.parent / "evaluated")
    assert main_on_this_rank("ddp", *evaluation(tiny_shards, run_dir)) == 0
    return run_dir


def test_a_run_folder_holds_results_predictions_and_report(evaluated: Path) -> None:
    record = results(evaluated)
    assert json.loads((evaluated / "results.json").read_text()) == record["metrics"]
    for key in ("retrieval/text_to_video/R@5", "retrieval/text_to_video/R@5_chance", "zero_shot/side/auroc"):
        assert np.isfinite(record["metrics"][key]), key
    assert record["checkpoint"].startswith("step 2 (") and record["patient_overlap"] == "none"
    assert (evaluated / "report.html").stat().st_size > 1000
    assert exit_code(evaluated) == 0


def test_a_checkpoint_older_than_a_key_is_evaluated_with_its_default(
    tiny_shards: Path, trained: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(trained, tmp_path / "run")
    folder = run_dir / "checkpoints" / "step_2"
    state = json.loads((folder / "state.json").read_text())
    del state["config"]["towers"]["video"]["positions"], state["config"]["schedules"]
    (folder / "state.json").write_text(json.dumps(state))
    digests = json.loads((folder / "digests.json").read_text())
    digests["state.json"] = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    (folder / "digests.json").write_text(json.dumps(digests))
    words = (*SILENT, "evaluate.num_examples=0")
    assert main_on_this_rank("ddp", *evaluation(tiny_shards, run_dir, *words)) == 0


def test_groups_are_measured_beside_the_whole(tiny_shards: Path, trained: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(trained, tmp_path / "run")
    words = evaluation(tiny_shards, run_dir, "evaluate.by=[side,hospital]", "evaluate.by_min_patients=2")
    assert main_on_this_rank("ddp", *words) == 0
    record = results(run_dir)
    found = record["metrics"]
    sizes = [found[f"by/side={side}/num_films"] for side in ("left", "right")]
    assert sum(sizes) == NUM_TEST_FILMS and found["by/side/num_not_assessed"] == 0
    assert found["by/side=left/retrieval/video_to_text/R@5_n"] == sizes[0]
    assert any("no label 'hospital'" in note for note in record["notes"])
    assert "By side" in (run_dir / "report.html").read_text()


def test_the_newest_checkpoint_in_place_of_the_best_is_a_note_of_the_results(tmp_path: Path) -> None:
    asked = RunConfig(run_dir=tmp_path)
    assert "this is the newest" in run_notes(asked, {})[0]
    assert run_notes(asked.model_copy(update={"checkpoint": Checkpoint(load="last")}), {}) == []
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best").write_text("step_2")
    assert run_notes(asked, {}) == []


def test_studies_whose_films_disagree_on_a_label_are_a_note_of_the_results() -> None:
    probe = {"type": "linear_probing", "head_structure": {"cto": 1}, "loss_structure": {"cto": "bce"}}
    fields = {"labels": {"conflict": "drop"}}
    asked = RunConfig(objectives={"probe": probe}, data={"fields": fields}, checkpoint={"load": "last"})
    (note,) = run_notes(asked, {}, {"cto": 3, "calcif": 1})
    assert note == "studies whose films disagree on a label, taken as not assessed: cto (3), calcif (1)"


def test_every_film_is_predicted_once(tiny_shards: Path, evaluated: Path) -> None:
    units = Shards.open(tiny_shards).units("test", False, 1)
    names = [row["clip"] for row in predictions(evaluated)]
    assert sorted(names) == sorted(units.name(unit) for unit in range(len(units)))
    assert len(names) == NUM_TEST_FILMS == results(evaluated)["metrics"]["retrieval/num_films"]


@pytest.mark.parametrize(("engine", "batch_size"), [("zero2", 4), ("ddp", 7)])
def test_two_ranks_measure_what_one_does(
    tiny_shards: Path,
    two_ranks: Ranks,
    trained: Path,
    evaluated: Path,
    tmp_path: Path,
    engine: str,
    batch_size: int,
) -> None:
    assert NUM_TEST_FILMS % (2 * batch_size), "some rows are padding"
    run_dir = shutil.copytree(trained, tmp_path / "run")
    words = evaluation(tiny_shards, run_dir, f"evaluate.batch_size={batch_size}")
    assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    assert results(run_dir)["metrics"] == pytest.approx(results(evaluated)["metrics"], abs=1e-6, nan_ok=True)
    for mine, theirs in zip(predictions(run_dir), predictions(evaluated), strict=True):
        assert mine["clip"] == theirs["clip"] and mine["text_id"] == theirs["text_id"]
        assert float(mine["sim_1"]) == pytest.approx(float(theirs["sim_1"]), abs=3e-6)


def test_zero_3_measures_on_the_way_what_ddp_does(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    lines = {}
    for engine in ("zero3_whole", "ddp"):
        words = tiny(tiny_shards, tmp_path / engine, *STEADY, "max_steps=2")
        assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
        lines[engine] = metrics(tmp_path / engine)[-1]
    assert "val/retrieval/text_to_video/R@5" in lines["ddp"]
    # ranks of near-ties turn on the last digit of the weights; embeddings are compared in test_engine
    expected = {
        name: pytest.approx(value, abs=1.0 if name.endswith("_rank") else 0.05, nan_ok=True)
        for name, value in lines["ddp"].items()
    }
    assert lines["zero3_whole"] == expected


def test_a_ledger_counts_how_often_a_split_was_looked_at(
    tiny_shards: Path, evaluated: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(evaluated, tmp_path / "run")
    assert results(run_dir)["times_computed"] == 1
    assert main_on_this_rank("ddp", *evaluation(tiny_shards, run_dir, "checkpoint=step_4")) == 0
    record = results(run_dir)
    assert record["times_computed"] == len(record["ledger"]) == 2
    assert [entry["checkpoint"].split(" (")[0] for entry in record["ledger"]] == ["step 2", "step 4"]
    assert record["metrics"] != results(evaluated)["metrics"]


def test_a_damaged_film_is_left_out_and_told(
    tiny_shards: Path, two_ranks: Ranks, trained: Path, evaluated: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(trained, tmp_path / "run")
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    opened = Shards.open(shards)
    units = opened.units("test", False, 1)
    place = opened._clips.place(int(opened.studies.first_clip[units.study_row[5]]) + int(units.clip[5]))
    tar = shards / opened.manifest.shards[place.shard].name
    content = bytearray(tar.read_bytes())
    content[place.offset + 20] ^= 255
    tar.write_bytes(content)
    assert two_ranks.run(main_on_rank, "ddp", *evaluation(shards, run_dir)) == [
        2,
        2,
    ], "1 of so few is too many"
    words = evaluation(shards, run_dir, "data.max_bad_fraction=0.2")
    assert two_ranks.run(main_on_rank, "ddp", *words) == [0, 0]
    assert list(results(run_dir)["unreadable"]) == [units.name(5)]
    assert results(run_dir)["unreadable"][units.name(5)].startswith(f"{tar.name}: clip ")
    assert any("1 samples of the split could not be read" in note for note in results(run_dir)["notes"])
    names = {row["clip"] for row in predictions(run_dir)}
    assert {row["clip"] for row in predictions(evaluated)} - names == {units.name(5)}


def refusal(capsys: pytest.CaptureFixture, words: list[str]) -> str:
    assert main_on_this_rank("ddp", *words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("ConfigE", "DataE"))]
    return line


def test_a_patient_of_the_training_is_refused(
    tiny_shards: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_dir = shutil.copytree(trained, tmp_path / "run")
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    table = (shards / "splits.csv").read_text()
    (shards / "splits.csv").write_text(table.replace(",train", ",test", 1))
    line = refusal(capsys, evaluation(shards, run_dir))
    assert line.startswith(
        "DataError: 1 of 5 patients of split 'test' were in this checkpoint's training data"
    )
    assert exit_code(run_dir) == 2 and not (run_dir / "results.json").exists()


@pytest.mark.parametrize("key", ["towers.text.from_scratch.hidden_size=64", "data.fields.video.frames=8"])
def test_another_model_is_refused(
    tiny_shards: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, key: str
) -> None:
    run_dir = shutil.copytree(trained, tmp_path / "run")
    line = refusal(capsys, evaluation(tiny_shards, run_dir, key))
    assert key.split("=")[0] in line and "config.yaml" in line


def test_a_model_may_be_shown_other_frames_than_in_training(
    tiny_shards: Path, trained: Path, evaluated: Path, tmp_path: Path
) -> None:
    """Trained on one clip a film, evaluated on three windows of it."""
    run_dir = shutil.copytree(trained, tmp_path / "run")
    keys = ("sampling=multi_window", "stride_s=0.2", "windows=3")
    words = [*(f"data.fields.video.{key}" for key in keys), "data.fields.report.length_buckets=2"]
    assert main_on_this_rank("ddp", *evaluation(tiny_shards, run_dir, *words)) == 0
    windows, whole = results(run_dir)["metrics"], results(evaluated)["metrics"]
    assert windows["retrieval/num_films"] == whole["retrieval/num_films"]
    assert windows != pytest.approx(whole, nan_ok=True)


def test_a_missing_checkpoint_is_one_clear_line(
    tiny_shards: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert "train first" in refusal(capsys, evaluation(tiny_shards, tmp_path / "empty"))
    run_dir = shutil.copytree(trained, tmp_path / "run")
    line = refusal(capsys, evaluation(tiny_shards, run_dir, "checkpoint=step_3"))
    assert "there are: best, last, step_4, step_2" in line
