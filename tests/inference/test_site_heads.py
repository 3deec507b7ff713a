"""Heads measured at another site from its table of labels: the numbers of an evaluation, thresholds of val, and no head of few."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepcoro.aggregates import told_and_withheld
from deepcoro.config import DataError
from deepcoro.evaluated import Head
from deepcoro.fields.labels import Config as LabelsConfig
from deepcoro.inference import site
from deepcoro.inference.model import Answerer, Said
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.site_labels import conflicts
from deepcoro.inference.suppression import OfEnough, heads_of_few
from deepcoro.metrics import classification
from deepcoro.run_config import run_config_from_dump
from tests.data.folder import moving_film, study_with
from tests.inference.test_site import table_of
from tests.launch import main_on_this_rank
from tests.metrics.heads import BINARY, MULTICLASS, REGRESSION, evaluated
from tests.tools.command import call_tool

FEW = ", ".join(
    f"{name}: {{bootstrap_samples: 20}}" for name in ("classification", "regression", "calibration")
)
SURVIVAL = "survival: {bootstrap_samples: 0, outcomes: {late: {head: linear_probing/max_stenosis, event: cto, time: lvef, horizons: [50]}}}"


@pytest.fixture(scope="module")
def probe(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads on whole studies whose films disagree (the highest counts), two steps long, with the thresholds of val."""
    run_dir = tmp_path_factory.mktemp("probe") / "run"
    words = ("demo/tiny_probe", f"data.shards={tiny_shards}", f"run_dir={run_dir}", f"evaluate.metrics={{{FEW}, {SURVIVAL}}}")  # fmt: skip
    for more in (("max_steps=2",), ("run_mode=val",)):
        assert main_on_this_rank("ddp", *words, *more) == 0
    return run_dir


@pytest.mark.slow
def test_a_site_measures_heads_as_an_evaluation_does_at_the_thresholds_of_val(
    probe: Path, tiny_shards: Path, tmp_path: Path, monkeypatch, capfd
) -> None:
    data = tiny_shards.parent / "data"
    monkeypatch.setattr(site, "LEAST", 1)
    fixed = ("--checkpoint", probe, "--output", tmp_path / "site.json", "--device", "cpu", "--workers", 1)
    words = (table_of(data, tmp_path / "films.csv", ("test",)), *fixed, "--key_file", data / "demo.key")
    code, _, complained = call_tool("validate_site", words, monkeypatch, capfd)
    assert code == 0, complained
    record = json.loads((tmp_path / "site.json").read_text())
    measured = {name: value for name, value in record["metrics"].items() if not name.startswith("by/")}
    words = (str(probe / "config.yaml"), f"run_dir={probe}", f"data.shards={tiny_shards}", "run_mode=test")
    assert main_on_this_rank("ddp", *words) == 0
    expected = json.loads((probe / "results.json").read_text())
    heads = {name for name in expected if name.startswith(("linear_probing/", "survival/"))}
    left_out = {name for name in heads if name.startswith(tuple(f"{each}/" for each in record["suppressed"]))}
    assert heads - left_out == measured.keys()
    assert {
        "linear_probing/cto/sensitivity",
        "linear_probing/lvef/mae",
        "survival/late/c_index",
    } <= measured.keys()
    (chosen,) = (json.loads(path.read_text()) for path in (probe / "calibration").glob("*.json"))
    assert measured["linear_probing/cto/threshold"] == chosen["heads"]["linear_probing/cto"]["threshold"]
    assert record["thresholds"]["split"] == "val"
    for name, value in measured.items():
        # resamples are drawn in the order of the studies, which is the table's here and the shards' there
        assert "_ci_" in name or value == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_a_table_without_the_column_of_a_head_says_so_and_measures_the_others(
    probe: Path, tiny_shards: Path, tmp_path: Path, monkeypatch, capfd
) -> None:
    data = tiny_shards.parent / "data"
    monkeypatch.setattr(site, "LEAST", 1)
    whole = table_of(data, tmp_path / "films.csv", ("test",))
    rows = [{**row, "lvef": None} for row in csv.DictReader(whole.open())]
    kept = [name for name in rows[0] if name != "lvef"]
    with whole.open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    fixed = ("--checkpoint", probe, "--output", tmp_path / "site.json", "--device", "cpu", "--workers", 1)
    code, _, complained = call_tool("validate_site", (whole, *fixed, "--key_file", data / "demo.key"), monkeypatch, capfd)  # fmt: skip
    assert code == 0, complained
    record = json.loads((tmp_path / "site.json").read_text())
    assert "no film has the label 'lvef'" in record["not_measured"]
    assert "linear_probing/cto/auroc" in record["metrics"]
    assert "linear_probing/lvef/mae" not in record["metrics"]


NUM = 60
HEADS = {
    "cto": Head(BINARY, "cto", 2),
    "rare": Head(BINARY, "rare", 2),
    "none": Head(BINARY, "none", 2),
    "grade": Head(MULTICLASS, "grade", 3),
    "absent_class": Head(MULTICLASS, "absent_class", 3),
    "unknown": Head(REGRESSION, "unknown", 0),
    "lvef": Head(REGRESSION, "lvef", 0),
}


def labelled():
    """Of 60 patients; `rare` has nine with it, `grade` nine of its last class."""
    number = np.arange(NUM)
    labels = {
        "cto": (number % 2).astype(float).tolist(),
        "rare": (number < 9).astype(float).tolist(),
        "none": [0.0] * NUM,
        "grade": np.where(number < 9, 2, number % 2).astype(float).tolist(),
        "absent_class": (number % 2).astype(float).tolist(),
        "unknown": [None] * NUM,
        "lvef": [55.0] * 9 + [None] * (NUM - 9),
    }
    generator = np.random.default_rng(0)
    said = {
        name: generator.dirichlet(np.ones(3), NUM) if head.num_classes == 3 else generator.random(NUM)
        for name, head in HEADS.items()
    }
    return evaluated(HEADS, said, labels, patients=[f"p{row}" for row in range(NUM)])


def test_heads_with_fewer_than_ten_patients_of_a_class_are_not_told_of_nor_are_means_over_them() -> None:
    data = labelled()
    assert sorted(heads_of_few(data, 10)) == ["probe/grade", "probe/lvef", "probe/none", "probe/rare"]
    assert sorted(heads_of_few(data, 9)) == ["probe/none"]
    metric = classification.Config(bootstrap_samples=0).build()
    told, _ = OfEnough(metric, 10).measure(data)
    assert {name.split("/")[1] for name in told} == {"cto", "absent_class"}
    everything, _ = metric.measure(data)
    assert "probe/macro/auroc" in everything  # it rests on `rare`
    assert told["probe/cto/auroc"] == everything["probe/cto/auroc"]


def test_ten_films_of_one_patient_are_one_patient() -> None:
    heads = {"cto": HEADS["cto"]}
    labels = {"cto": ([1.0] * 30) + [0.0] * 30}
    patients = ["a"] * 30 + [f"b{number}" for number in range(30)]
    data = evaluated(heads, {"cto": np.linspace(0, 1, NUM)}, labels, patients=patients)
    assert heads_of_few(data, 10) == ["probe/cto"]


def test_an_outcome_with_few_events_or_few_without_is_left_out() -> None:
    numbers = {"survival/mace/num": 40.0, "survival/mace/num_events": 31.0, "survival/mace/c_index": 0.7}
    assert told_and_withheld(numbers, 10) == ({}, ["survival/mace"])
    enough = numbers | {"survival/mace/num_events": 20.0}
    assert told_and_withheld(enough, 10)[1] == []
    assert told_and_withheld(enough | {"survival/mace/num_event_free_patients": 3.0}, 10)[0] == {}


def study_of(*labels: dict):
    from deepcoro.data.manifest import Encoding

    record, _ = study_with("study", [moving_film(n, 2) for n, _ in enumerate(labels)], Encoding(), "p")
    clips = [
        clip.model_copy(update={"labels": each}) for clip, each in zip(record.clips, labels, strict=True)
    ]
    return record.model_copy(update={"clips": clips}), tuple(range(len(labels)))


def test_films_of_a_study_that_names_no_patient_are_of_one() -> None:
    """Each would count as a patient of its own, and ten films of one study as enough."""
    answerer = object.__new__(Answerer)
    answerer.config = run_config_from_dump({}, "test")
    answerer.labels, answerer.calibration, answerer.shares_space = None, None, False
    answerer.questions = SimpleNamespace(prompts={})
    record, rows = study_of({"cto": 1.0}, {"cto": 1.0})
    study = OpenedStudy(record.model_copy(update={"patient": None}), [])
    said = Said(study, [(row,) for row in rows], np.zeros((2, 0)), {}, [])
    assert site.Gathered(answerer, [said]).evaluated().patients == ["study", "study"]


def test_labels_that_disagree_or_that_no_map_knows_are_judged_as_in_an_evaluation() -> None:
    agreeing, disagreeing = study_of({"cto": 1.0}, {"cto": None}), study_of({"cto": 1.0}, {"cto": 0.0})
    told: list[str] = []
    field = LabelsConfig(columns=["cto"], conflict="max").build()
    assert conflicts(field, [agreeing, disagreeing], told.append) == {"cto": 1}
    assert told == ["label 'cto': the films of 1 of 2 studies disagree; the highest counts"]
    assert conflicts(None, [disagreeing], told.append) == {}
    with pytest.raises(DataError, match="films of 1 of 2 studies disagree, and"):
        conflicts(LabelsConfig(columns=["cto"]).build(), [agreeing, disagreeing], told.append)
    words = LabelsConfig(columns=["cto"], values={"cto": {"yes": 1, "no": 0}}).build()
    with pytest.raises(DataError, match="label 'cto': 'perhaps' is not among"):
        conflicts(words, [study_of({"cto": "perhaps"})], told.append)
