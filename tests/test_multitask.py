"""demo/tiny_multitask from end to end: three objectives, one of which starts late, under every engine, stopped and resumed, evaluated."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from deepcoro.checkpoint import Checkpoint
from deepcoro.data.manifest import Encoding
from deepcoro.embeddings import matrix
from tests.data.folder import moving_film, study_with, write_folder
from tests.launch import SILENT, STEADY, losses, main_on_rank, main_on_this_rank, metrics
from tests.ranks import Ranks

# Step 1 with half of the video tower frozen, steps 2 to 4 without masked modelling, step 5 with it.
WORDS = (*STEADY, *SILENT, "max_steps=5", "checkpoint.every_steps=1", "checkpoint.keep=9")
ENGINES = ("ddp", "zero2", "zero3_whole")


def multitask(shards: Path, run_dir: Path, *words: str) -> list[str]:
    return ["demo/tiny_multitask", f"data.shards={shards}", f"run_dir={run_dir}", *words]


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multitask")
    for engine in ENGINES:
        words = multitask(tiny_shards, folder / engine, *WORDS)
        assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    return folder


def weights_at(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return Checkpoint(run_dir / "checkpoints" / f"step_{step}").weights()


def test_two_ranks_train_three_objectives_as_one_process_does(
    runs: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    words = multitask(tiny_shards, tmp_path, *WORDS, "batch_size=8")
    assert main_on_this_rank("ddp", *words) == 0
    assert losses(tmp_path) == pytest.approx(losses(runs / "ddp"), rel=1e-5)
    torch.testing.assert_close(weights_at(tmp_path, 5), weights_at(runs / "ddp", 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_every_engine_trains_three_objectives_as_ddp_does(runs: Path, engine: str) -> None:
    assert losses(runs / engine) == pytest.approx(losses(runs / "ddp"), rel=1e-5)
    torch.testing.assert_close(
        weights_at(runs / engine, 5), weights_at(runs / "ddp", 5), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("engine", ["ddp", pytest.param("zero2", marks=pytest.mark.slow)])
def test_accumulation_gives_the_losses_of_the_whole_batch_on_both_sides_of_a_boundary(
    tiny_shards: Path, two_ranks: Ranks, runs: Path, tmp_path: Path, engine: str
) -> None:
    """By the gradient cache: half of the tower thaws after step 1, masked modelling and its teacher begin with step 5."""
    halves = ("batch_size=2", "gradient_accumulation_steps=2")
    words = multitask(tiny_shards, tmp_path, *WORDS, *halves)
    assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    assert losses(tmp_path) == pytest.approx(losses(runs / "ddp"), rel=1e-5)
    torch.testing.assert_close(weights_at(tmp_path, 5), weights_at(runs / "ddp", 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_masked_modelling_does_not_exist_before_its_start(runs: Path, engine: str) -> None:
    lines = [line for line in metrics(runs / engine) if "train/loss" in line]
    assert ["train/masked_modeling/loss" in line for line in lines] == [False] * 4 + [True]
    assert [line["loss_weight/masked_modeling"] for line in lines] == [0, 0, 0, 0, 0.25]
    own = "objectives.masked_modeling."
    before, at_start, after = (weights_at(runs / engine, step) for step in (1, 4, 5))
    students = {name for name in before if name.startswith(own) and not name.startswith(f"{own}teacher.")}
    assert all(torch.equal(before[name], at_start[name]) for name in students)
    assert any(not torch.equal(at_start[name], after[name]) for name in students)
    moments = Checkpoint(runs / engine / "checkpoints" / "step_4").moments()
    assert not [name for name in moments if name.startswith(own)]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_teacher_rests_until_it_starts_from_the_student_and_then_trails_it(
    runs: Path, engine: str
) -> None:
    prefix = "objectives.masked_modeling.teacher.encoder."
    first, start, end = (weights_at(runs / engine, step) for step in (1, 4, 5))
    names = [name for name in end if name.startswith(prefix)]
    assert len(names) > 10
    for name in names:
        assert torch.equal(start[name], first[name]), "nothing moved it"
        student = f"towers.video.{name.removeprefix(prefix)}"
        expected = 0.999 * start[student] + 0.001 * end[student]
        torch.testing.assert_close(end[name], expected, rtol=1e-6, atol=1e-7)
    assert any(
        not torch.equal(first[f"towers.video.{name.removeprefix(prefix)}"], first[name]) for name in names
    )


@pytest.mark.parametrize(
    ("engine", "step"), [("ddp", 4), pytest.param("zero3_whole", 2, marks=pytest.mark.slow)]
)
def test_a_multitask_run_goes_on_as_if_it_had_not_been_stopped(
    tiny_shards: Path, two_ranks: Ranks, runs: Path, tmp_path: Path, engine: str, step: int
) -> None:
    shutil.copytree(runs / engine, tmp_path / "run")
    for later in range(step + 1, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{later}")
    words = multitask(tiny_shards, tmp_path / "run", *WORDS)
    assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    assert losses(tmp_path / "run") == losses(runs / engine)
    torch.testing.assert_close(weights_at(tmp_path / "run", 5), weights_at(runs / engine, 5), rtol=0, atol=0)


def test_masked_modelling_may_come_first_and_what_it_does_not_read_waits(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    late = "schedules={contrastive: {start_step: 1}, captioning: {start_step: 1}}"
    words = multitask(tiny_shards, tmp_path, *WORDS, late, "freeze=[]", "max_steps=3")
    assert two_ranks.run(main_on_rank, "ddp", *words) == [0, 0]
    first = Checkpoint(tmp_path / "checkpoints" / "step_1")
    assert {name.split(".")[1] for name in first.moments()} == {"video", "masked_modeling"}
    first, second, third = (weights_at(tmp_path, step) for step in (1, 2, 3))
    text = [name for name in first if name.startswith("towers.text.")]
    assert text and any(not torch.equal(first[name], second[name]) for name in text)
    assert any(not torch.equal(second[name], third[name]) for name in text)


def test_films_without_reports_or_labels_are_predicted_once_each(runs: Path, tmp_path: Path) -> None:
    films = {f"new{number}": [moving_film(2 * number + clip, 6) for clip in (0, 1)] for number in range(3)}
    studies = [
        study_with(key, each, Encoding(), f"patient of {key}", reports=[]) for key, each in films.items()
    ]
    shards = write_folder(tmp_path / "new", studies, splits=dict.fromkeys(films, "inference"))
    run_dir = shutil.copytree(runs / "ddp", tmp_path / "run")
    # five films a batch: the second is one film and four that repeat others to fill it
    words = ("run_mode=inference", "checkpoint=last", "evaluate.batch_size=5")
    assert main_on_this_rank("ddp", *multitask(shards, run_dir, *STEADY, *words)) == 0
    with (run_dir / "predictions" / "new_inference.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    clips = [f"{key}.{number:03d}" for key in films for number in (0, 1)]
    assert sorted(row["clip"] for row in rows) == clips
    assert {row["split"] for row in rows} == {"inference"}
    assert not any(row["ground_truth_idx"] for row in rows)
    assert all(row["caption"] and row["zero_shot_side_score"] for row in rows)
    table = pyarrow.parquet.read_table(run_dir / "embeddings" / "new_inference_clips.parquet")
    assert table["clip"].to_pylist() == [row["clip"] for row in rows]
    np.testing.assert_allclose(np.linalg.norm(matrix(table["embedding"]), axis=1), 1, rtol=1e-5)


def test_its_checkpoint_is_evaluated_in_every_respect(
    runs: Path, tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(runs / "zero2", tmp_path / "run")
    words = multitask(tiny_shards, run_dir, *STEADY, "run_mode=val", "checkpoint=last")
    assert two_ranks.run(main_on_rank, "ddp", *words) == [0, 0]
    found = json.loads((run_dir / "results.json").read_text())
    for prefix in ("retrieval/", "zero_shot/", "alignment_uniformity/", "captioning/", "clinical_findings/"):
        assert [key for key in found if key.startswith(prefix)], prefix
    assert (run_dir / "report.html").is_file()
