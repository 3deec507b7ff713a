"""A linear probe from labels in shards to predictions: one process and two, cached and not, and films without any label."""

import csv
import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from deepcoro import command_line
from deepcoro.data.manifest import Encoding
from tests.data.folder import moving_film, study_with, write_folder
from tests.launch import CONSTANT_LR, losses, main_on_rank, metrics
from tests.ranks import Ranks

HEADS = """objectives={linear_probing: {
    head_structure: {cto: 1, dominance: 3, lvef: 1}, loss_structure: {cto: bce, dominance: ce, lvef: mae},
    head_weights: {lvef: 0.02}, head_lr: {lvef: 2.0e-3}, head_weight_decay: {cto: 0.0},
    labels_map: {dominance: {right: 0, left: 1, co: 2}}}}"""


def labels_of(number: int) -> list[dict]:
    """Of two films; the second knows less. Every third study has no LVEF."""
    lvef = None if number % 3 == 2 else 40.0 + number
    first = {"cto": float(number % 2), "dominance": ("right", "left", "co")[number % 3], "lvef": lvef}
    return [first, {"cto": None, "dominance": first["dominance"], "lvef": lvef}]


def folder_of(path: Path, splits: list[str], has_labels: bool) -> Path:
    studies = []
    for number, _ in enumerate(splits):
        films = [moving_film(number + clip, 6) for clip in (0, 1)]
        record, payloads = study_with(f"study{number}", films, Encoding(), f"p{splits[number]}{number}")
        if has_labels:
            clips = [
                clip.model_copy(update={"labels": labels})
                for clip, labels in zip(record.clips, labels_of(number), strict=True)
            ]
            record = record.model_copy(update={"clips": clips})
        studies.append((record, payloads))
    return write_folder(path, studies, splits={f"study{n}": split for n, split in enumerate(splits)})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("probe") / "shards", ["train"] * 8 + ["val"] * 4, True)


def words(shards: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        *("demo/tiny_probe", f"data.shards={shards}", f"run_dir={run_dir}", "max_steps=3", *CONSTANT_LR),
        *(HEADS.replace("\n", " "), "pooler={type: attention, hidden_dim: 8}"),
        *("towers.video.video_freeze_ratio=1", "data.fields.video.jitter=false", *more),
    ]


CACHED = "towers.video.cache_features=true"


@pytest.fixture(scope="module")
def run_dir(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training on one process, from remembered features."""
    folder = tmp_path_factory.mktemp("probe_run") / "run"
    assert command_line.main(words(shards, folder, CACHED)) == 0
    return folder


def test_a_probe_trains_its_heads_at_their_own_rates_and_leaves_the_tower_as_it_was(run_dir: Path) -> None:
    moments = load_file(run_dir / "checkpoints" / "step_3" / "moments.safetensors")
    assert {name.split(".")[0] for name in moments} == {"objectives", "pooler"}
    assert any(name.startswith("objectives.linear_probing.heads.lvef.") for name in moments)
    line = next(line for line in metrics(run_dir) if "train/loss" in line)
    assert line["lr/linear_probing/lvef"] == 2.0e-3
    assert line["lr/linear_probing/cto"] == 1.0e-3


def test_remembered_features_give_the_curve_of_the_films(run_dir: Path, shards: Path, tmp_path: Path) -> None:
    assert command_line.main(words(shards, tmp_path)) == 0
    assert losses(tmp_path) == pytest.approx(losses(run_dir), rel=1e-6)


@pytest.mark.parametrize("engine", ["zero2", "zero3_whole"])
def test_two_ranks_have_the_curve_of_one(
    run_dir: Path, shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    given = words(shards, tmp_path, CACHED, "batch_size=2")
    assert two_ranks.run(main_on_rank, engine, *given) == [0, 0]
    assert losses(tmp_path) == pytest.approx(losses(run_dir), rel=1e-5)


def test_films_without_any_label_are_predicted(run_dir: Path, tmp_path: Path) -> None:
    unlabelled = folder_of(tmp_path / "new", ["inference"] * 3, False)
    assert command_line.main(words(unlabelled, run_dir, "run_mode=inference")) == 0
    table = next((run_dir / "predictions").glob("new_inference.csv"))
    with table.open() as file:
        assert len(list(csv.DictReader(file))) == 3


def test_films_that_disagree_stop_the_run_in_one_line(shards: Path, tmp_path: Path, capsys) -> None:
    rows = "clip,lvef\nstudy0-film0,30\nstudy0-film1,60\n"
    (tmp_path / "newer.csv").write_text(rows)
    given = words(shards, tmp_path / "run", f"data.tables=[{tmp_path / 'newer.csv'}]", "data.fields.labels.conflict=error")  # fmt: skip
    assert command_line.main(given) == 2
    assert "the films of 1 of 8 studies of split train disagree (study0)" in capsys.readouterr().err


def test_films_that_heads_are_most_wrong_about_are_logged_when_asked(shards: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = ("tracking.log_films=true", "tracking.use_tensorboard=true", "evaluate.num_examples=2")
    assert command_line.main(words(shards, tmp_path, CACHED, *asked)) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    told = [
        events.Tensors(f"films/{number}/text_summary")[0].tensor_proto.string_val[0].decode()
        for number in range(2)
    ]
    assert all(
        re.match(r"study\d+ *\nlinear_probing/(cto|dominance|lvef): \S.*\nlabel: \S", each) for each in told
    )
    assert len(set(told)) == 2
    assert events.Images("films/1")[0].width > 32, "frames in a row"


def test_a_run_of_numbers_alone_keeps_the_interval_that_val_chose(tmp_path: Path) -> None:
    shards = folder_of(tmp_path / "shards", ["train"] * 4 + ["val"] * 9 + ["test"] * 3, True)
    head = "objectives={linear_probing: {head_structure: {lvef: 1}, loss_structure: {lvef: mae}}}"
    asked = (head, "evaluate.metrics={regression: {coverage: 0.8, bootstrap_samples: 20}}", "checkpoint=last")
    for mode in ("train", "val", "test"):
        assert command_line.main(words(shards, tmp_path / "run", *asked, f"run_mode={mode}")) == 0
    (path,) = (tmp_path / "run" / "calibration").glob("*.json")
    fixed = json.loads(path.read_text())
    assert fixed["heads"] == {} and fixed["numbers"].keys() == {"linear_probing/lvef"}
    found = json.loads((tmp_path / "run" / "results" / "shards_test.json").read_text())["metrics"]
    kept = fixed["numbers"]["linear_probing/lvef"]
    assert found["linear_probing/lvef/interval_half_width"] == kept["half_width"] > 0
    assert kept["num_patients"] == 6, "of nine patients on val, six with an LVEF"
    assert 0 <= found["linear_probing/lvef/interval_coverage"] <= 1


def test_val_of_another_site_is_measured_with_the_thresholds_of_the_trainings_val(tmp_path: Path) -> None:
    home = folder_of(tmp_path / "home", ["train"] * 4 + ["val"] * 6, True)
    away = folder_of(tmp_path / "away", ["val"] * 5, True)
    asked = ("evaluate.metrics={classification: {bootstrap_samples: 0}}", "checkpoint=last")

    def val(shards: Path, *more: str) -> tuple[dict, dict]:
        """What the run has fixed and what it found."""
        assert command_line.main(words(shards, tmp_path / "run", *asked, "run_mode=val", *more)) == 0
        (path,) = (tmp_path / "run" / "calibration").glob("*.json")
        found = (tmp_path / "run" / "results" / f"{shards.name}_val.json").read_text()
        return json.loads(path.read_text()), json.loads(found)

    assert command_line.main(words(home, tmp_path / "run", *asked)) == 0
    fixed, found = val(away)
    assert fixed["data"] == "away", "none was there, and this val has to do"
    fixed, _ = val(home)
    assert fixed["data"] == "home", "the training's own val goes before any other"
    (path,) = (tmp_path / "run" / "calibration").glob("*.json")
    fixed["heads"]["linear_probing/cto"]["threshold"] = 0.123  # no other val would choose it
    path.write_text(json.dumps(fixed))
    for shards, more in ((away, ()), (home, ("data.where=cto == 0 or lvef > 0",))):
        kept, found = val(shards, *more)
        assert kept == fixed
        assert found["metrics"]["linear_probing/cto/threshold"] == 0.123
        assert any("fixed on home" in note and "used unchanged" in note for note in found["notes"])
        assert not any("too good here" in note for note in found["notes"])
    kept, found = val(home)
    assert kept["heads"]["linear_probing/cto"]["threshold"] != 0.123
    assert any("too good here" in note for note in found["notes"])


def test_patience_without_a_val_split_is_refused_before_the_first_step(tmp_path: Path, capsys) -> None:
    shards = folder_of(tmp_path / "shards", ["train"] * 4, True)
    asked = ("evaluate.early_stop_patience=2", "evaluate.every_steps=1")
    assert command_line.main(words(shards, tmp_path / "run", *asked)) == 2
    assert "counts evaluations on the val split, and shards has none" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_follow_up_below_zero_stops_a_run_before_its_first_step(
    shards: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "newer.csv").write_text("clip,days\nstudy8-film0,-30\n")
    outcome = "evaluate.metrics.survival.outcomes={mace: {head: linear_probing/cto, event: cto, time: days}}"
    given = words(shards, tmp_path / "run", f"data.tables=[{tmp_path / 'newer.csv'}]", outcome)
    assert command_line.main(given) == 2
    assert "DataError: label 'days' of split val holds -30.0" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
