"""Answers straight from films equal those of an evaluation over shards of the same films."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from deepcoro.calibrated import Calibration, Fixed, FixedInterval, write_calibration
from deepcoro.checkpoint import find
from deepcoro.data.shards import Shards
from tests.inference.conftest import Predict, trained
from tests.ingest.films import JPEG_BASELINE, moving_bar, of_film, write_dicom
from tests.launch import main_on_this_rank


def table_of(data: Path, split: str, path: Path) -> Path:
    """The films of one split, without what an answer must not need."""
    rows = [row for row in csv.DictReader((data / "dataset.csv").open()) if row["Split"] == split]
    kept = ("FileName", "PatientID", "StudyInstanceUID", "side", "view")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"FileName": str(data / row["FileName"])})
    return path


def answers_in(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_films_shards_and_evaluation_give_the_same_scores(
    predict: Predict, run_dir: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    data = tiny_shards.parent / "data"
    code, _, complained = predict(
        table_of(data, "test", tmp_path / "films.csv"), "--key_file", data / "demo.key"
    )
    assert code == 0, complained
    of_films = answers_in(tmp_path / "answers")
    code, _, complained = predict(tiny_shards, "--split", "test")
    assert code == 0, complained
    of_shards = answers_in(tmp_path / "answers")
    assert of_films.keys() == of_shards.keys() and of_films
    of_evaluation = evaluated_scores(run_dir, tiny_shards)
    place = [film for answer in of_films.values() for film in answer["films"]]
    assert len(place) == len(of_evaluation)
    for study, answer in of_films.items():
        assert answer["patient_in_training"] == of_shards[study]["patient_in_training"] == "no"
        for number, film in enumerate(answer["films"]):
            other = of_shards[study]["films"][number]
            assert film["scores"] == pytest.approx(other["scores"], abs=2e-6)
            assert film["caption"] == other["caption"]
            expected = of_evaluation[f"{study}.{number:03d}"]
            assert film["scores"]["zero_shot/cto"] == pytest.approx(
                float(expected["zero_shot_cto_score"]), abs=2e-6
            )
            assert film["caption"] == expected["caption"]


def evaluated_scores(run_dir: Path, shards: Path) -> dict[str, dict]:
    """The predictions table of run_mode=test, by film."""
    config = str(run_dir / "config.yaml")
    assert main_on_this_rank("ddp", config, f"run_dir={run_dir}", f"data.shards={shards}", "run_mode=test") == 0  # fmt: skip
    (path,) = (run_dir / "predictions").glob("*_test.csv")
    return {row["clip"]: row for row in csv.DictReader(path.open())}


def test_a_patient_of_the_training_split_is_told(predict: Predict, tiny_shards: Path, tmp_path: Path) -> None:
    data = tiny_shards.parent / "data"
    table = table_of(data, "train", tmp_path / "films.csv")
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:3]) + "\n")
    code, _, complained = predict(table, "--key_file", data / "demo.key")
    assert code == 0 and "THE MODEL WAS TRAINED ON THIS PATIENT" in complained
    assert {answer["patient_in_training"] for answer in answers_in(tmp_path / "answers").values()} == {"yes"}
    code, _, _ = predict(table)  # under another key nobody can tell
    assert code == 0
    found = answers_in(tmp_path / "answers").values()
    assert {answer["patient_in_training"] for answer in found} == {"yes", "unknown"}


def test_a_model_of_studies_answers_for_the_study_and_says_which_films_it_saw(
    predict: Predict, tiny_shards: Path, tmp_path: Path
) -> None:
    words = ("data.multi_video=true", "data.num_videos=2", "pooler={type: attention}", "max_steps=1")
    run = trained(tiny_shards, tmp_path / "run", *words)
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(3):
        bar = np.roll(moving_bar(), 5 * number, axis=2)
        write_dicom(folder / f"{number}.dcm", bar, JPEG_BASELINE, InstanceNumber=number, **of_film(number))
    code, _, complained = predict(folder, checkpoint=run)
    assert code == 0, complained
    (answer,) = answers_in(tmp_path / "answers").values()
    assert [film["shown"] for film in answer["films"]] == [True, False, True]
    assert answer["caption"] is not None and all(film["caption"] is None for film in answer["films"])
    assert all(film["scores"] == {} for film in answer["films"])
    assert {finding["num_films"] for finding in answer["findings"]} == {2}
    ends = [answer["films"][place]["clip"] for place in (0, 2)]
    assert answer["findings"] and all(list(each["without_one_film"]["scores"]) == ends for each in answer["findings"])  # fmt: skip
    first, unseen, last = (film["weight"] for film in answer["films"])
    assert unseen is None and first + last == pytest.approx(1)


def test_a_film_that_the_model_cannot_be_shown_is_skipped_and_the_others_are_answered(
    predict: Predict, tiny_shards: Path, tmp_path: Path
) -> None:
    """A model of frames so many seconds apart, and a film that tells no frame rate."""
    windows = ("data.fields.video.sampling=window", "data.fields.video.stride_s=0.1", "max_steps=1")
    run = trained(tiny_shards, tmp_path / "run", *windows)
    folder = tmp_path / "films"
    folder.mkdir()
    write_dicom(folder / "a.dcm", moving_bar())
    write_dicom(folder / "b.dcm", moving_bar(), FrameTime=None, FrameIncrementPointer=None, **of_film(2))
    code, _, complained = predict(folder, checkpoint=run)
    assert code == 0, complained
    (answer,) = answers_in(tmp_path / "answers").values()
    assert [film["number"] for film in answer["films"]] == [1]
    assert answer["skipped"][0]["reason"].startswith("unusable: frame rate unknown")


def test_a_checkpoint_that_is_not_there_is_one_line(predict: Predict, tmp_path: Path) -> None:
    code, _, complained = predict(tmp_path, checkpoint=tmp_path / "no_run")
    assert code == 2 and "no_run' is no folder; a run folder is the run_dir" in complained


def test_every_film_of_the_shards_is_answered_once(
    predict: Predict, tiny_shards: Path, tmp_path: Path
) -> None:
    code, _, complained = predict(tiny_shards, "--split", "val")
    assert code == 0, complained
    shards = Shards.open(tiny_shards)
    wanted = [shards.study(int(row)) for row in shards.units("val", True, 1).study_row]
    found = answers_in(tmp_path / "answers")
    assert {study.study: [clip.clip for clip in study.clips] for study in wanted} == {
        key: [film["clip"] for film in answer["films"]] for key, answer in found.items()
    }


def test_a_probe_answers_with_its_heads_and_calls_at_the_threshold_of_val(
    predict: Predict, tiny_shards: Path, tmp_path: Path
) -> None:
    """A run without a text tower, with views of the films, and a calibration as run_mode=val writes it."""
    run = tmp_path / "run"
    words = ("demo/tiny_probe", f"data.shards={tiny_shards}", f"run_dir={run}", "max_steps=1")
    assert main_on_this_rank("ddp", *words) == 0
    digest = find(run / "checkpoints", "last").digest()
    fixed = Fixed(threshold=0.0, rule="youden", num=10, num_positive=5)
    sure = fixed.model_copy(update={"selective_error": 0.1, "certainty": 1.0})
    heads = {"linear_probing/cto": fixed, "linear_probing/film_cto": sure}
    about = {"split": "val", "data": "shards", "data_fingerprint": "f", "created": "now"}
    numbers = {"linear_probing/lvef": FixedInterval(half_width=11, level=0.9, num_patients=40)}
    write_calibration(run, Calibration(checkpoint=digest, heads=heads, numbers=numbers, **about))
    folder = tmp_path / "films"
    folder.mkdir()
    write_dicom(folder / "a.dcm", moving_bar(), PositionerPrimaryAngle="-30", PositionerSecondaryAngle="20")
    write_dicom(folder / "b.dcm", moving_bar(), **of_film(2))
    code, _, complained = predict(folder, "--load", "last", "--html", checkpoint=run)
    assert code == 0, complained
    (answer,) = answers_in(tmp_path / "answers").values()
    findings = {each["name"]: each for each in answer["findings"]}
    kinds = {name.removeprefix("linear_probing/"): each["kind"] for name, each in findings.items()}
    assert kinds == {
        "cto": "probability",
        "film_cto": "probability",
        "dominance": "class",
        "max_stenosis": "value",
        "lvef": "value",
    }
    assert findings["linear_probing/cto"]["call"] == "positive"  # any score is above 0
    assert findings["linear_probing/film_cto"]["call"] == "abstained"  # nothing is as sure as val asks
    assert findings["linear_probing/max_stenosis"]["call"] is None
    dominance = findings["linear_probing/dominance"]
    assert list(dominance["class_probabilities"]) == ["right", "left", "co"]
    assert dominance["class_probabilities"][dominance["word"]] == pytest.approx(dominance["score"])
    assert sum(dominance["class_probabilities"].values()) == pytest.approx(1)
    assert sum(film["weight"] for film in answer["films"]) == pytest.approx(1)
    (row,) = csv.DictReader((tmp_path / "answers" / "studies.csv").open())
    assert row["linear_probing_cto_call"] == "positive" and row["linear_probing_lvef_score"]
    score, (low, high) = (findings["linear_probing/lvef"][key] for key in ("score", "interval"))
    assert (low, high) == pytest.approx((score - 11, score + 11))
    assert float(row["linear_probing_lvef_interval_high"]) == pytest.approx(high, abs=1e-5)
    assert findings["linear_probing/max_stenosis"]["interval"] is None
    page = (tmp_path / "answers" / f"{answer['study']}.html").read_text()
    assert page.count("(90 %: ") == 1 and "exchangeable" in page
