"""Training stopped anyhow and started again is the training that was never stopped."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch

from deepcoro import train
from deepcoro.checkpoint import Checkpoint
from deepcoro.tracking import Tracker
from tests.launch import (
    SILENT,
    STEADY,
    exit_code,
    launch,
    losses,
    main_on_rank,
    main_on_this_rank,
    metrics,
    tiny,
)
from tests.ranks import Ranks

# Dropout stays on: a resumed step has to draw what the step would have drawn.
SIX_STEPS = (*SILENT, "max_steps=6", "checkpoint.every_steps=3")
LAUNCHED = ("max_steps=4", "checkpoint.every_steps=2")


class Crash(BaseException):
    """The end of a process, as far as its files are concerned."""


def crash_after_step(rank: int, step: int, engine: str, *words: str) -> None:
    advance = Tracker.advance

    def crashing(self: Tracker, done: int) -> None:
        advance(self, done)
        if done == step:
            raise Crash

    with mock.patch.object(Tracker, "advance", crashing), pytest.raises(Crash):
        main_on_this_rank(engine, *words)


def without_newest(run_dir: Path, copy: Path) -> Path:
    """The run as it was before its last checkpoint."""
    shutil.copytree(run_dir, copy)
    shutil.rmtree(copy / "checkpoints" / "step_6")
    return copy


def weights_at(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return Checkpoint(run_dir / "checkpoints" / f"step_{step}").weights()


@pytest.fixture(scope="module")
def uninterrupted(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("train") / "run"
    assert two_ranks.run(main_on_rank, "zero2", *tiny(tiny_shards, run_dir, *SIX_STEPS)) == [0, 0]
    return run_dir


@pytest.fixture(scope="module")
def alone(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the batch of two."""
    run_dir = tmp_path_factory.mktemp("train") / "alone"
    words = tiny(tiny_shards, run_dir, *STEADY, *SIX_STEPS, "batch_size=8")
    assert main_on_this_rank("ddp", *words) == 0
    return run_dir


def test_a_crashed_run_goes_on_as_if_nothing_had_been(
    tiny_shards: Path, two_ranks: Ranks, uninterrupted: Path, tmp_path: Path
) -> None:
    words = tiny(tiny_shards, tmp_path, *SIX_STEPS)
    two_ranks.run(crash_after_step, 5, "zero2", *words)
    assert set(losses(tmp_path)) == {1, 2, 3, 4, 5}
    assert exit_code(tmp_path) == 1
    two_ranks.run(main_on_rank, "zero2", *words)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6], "steps 4 and 5 were cut back"
    assert losses(tmp_path) == pytest.approx(losses(uninterrupted), rel=1e-6)
    torch.testing.assert_close(weights_at(tmp_path, 6), weights_at(uninterrupted, 6), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_zero_2_goes_on_under_zero_3(
    tiny_shards: Path, two_ranks: Ranks, uninterrupted: Path, tmp_path: Path
) -> None:
    """Every engine and number of ranks from every other: test_save_load_matrix.py."""
    run_dir = without_newest(uninterrupted, tmp_path / "run")
    assert two_ranks.run(main_on_rank, "zero3_whole", *tiny(tiny_shards, run_dir, *SIX_STEPS)) == [0, 0]
    assert losses(run_dir) == pytest.approx(losses(uninterrupted), rel=1e-6)
    moments = [Checkpoint(each / "checkpoints" / "step_6").moments() for each in (run_dir, uninterrupted)]
    torch.testing.assert_close(*moments, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_one_process_goes_on_with_two(
    tiny_shards: Path, two_ranks: Ranks, alone: Path, tmp_path: Path
) -> None:
    run_dir = without_newest(alone, tmp_path / "run")
    words = tiny(tiny_shards, run_dir, *STEADY, *SIX_STEPS, "batch_size=4")
    assert two_ranks.run(main_on_rank, "zero2", *words) == [0, 0]
    assert losses(run_dir) == pytest.approx(losses(alone), rel=1e-5)


def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    tiny_shards: Path, alone: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(alone, tmp_path / "run")
    weights = run_dir / "checkpoints" / "step_6" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *STEADY, *SIX_STEPS, "batch_size=8")) == 0
    assert losses(run_dir) == pytest.approx(losses(alone), rel=1e-6)
    torch.testing.assert_close(weights_at(run_dir, 6), weights_at(alone, 6))


def test_a_finished_run_started_again_changes_nothing(tiny_shards: Path, alone: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(alone, tmp_path / "run")
    before = (run_dir / "metrics.jsonl").read_bytes()
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *STEADY, *SIX_STEPS, "batch_size=8")) == 0
    assert (run_dir / "metrics.jsonl").read_bytes() == before


REFUSED = {
    "another global batch": (("batch_size=6",), "set batch_size x gradient_accumulation_steps to 8"),
    "another learning rate": (("batch_size=8", "optim.lr=0.5"), "['optim.lr']"),
    "another seed": (("batch_size=8", "seed=7"), "['seed']"),
    "another model": (
        ("batch_size=8", "towers.text.from_scratch.hidden_size=64"),
        "['towers.text.from_scratch.hidden_size']",
    ),
    "resume=never": (("batch_size=8", "resume=never"), "choose another run_dir"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_would_not_be_the_same_is_refused(
    tiny_shards: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture, case: str
) -> None:
    words, remedy = REFUSED[case]
    run_dir = shutil.copytree(alone, tmp_path / "run")
    before = (run_dir / "config.yaml").read_text()
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *STEADY, *SIX_STEPS, *words)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ConfigError")]
    assert len(lines) == 1 and remedy in lines[0]
    assert (run_dir / "config.yaml").read_text() == before


def test_other_data_are_refused(
    tiny_shards: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_dir = shutil.copytree(alone, tmp_path / "run")
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    lines = (shards / "splits.csv").read_text().splitlines(keepends=True)
    withdrawn = next(line for line in lines if ",train" in line)
    (shards / "splits.csv").write_text("".join(line for line in lines if line != withdrawn))
    assert main_on_this_rank("ddp", *tiny(shards, run_dir, *STEADY, *SIX_STEPS, "batch_size=8")) == 2
    assert "DataError: the checkpoint was trained with fingerprint" in capsys.readouterr().err


def test_a_diverged_run_stops_and_saves_nothing_diverged(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = (
        "max_steps=9",
        "optim.lr=1.0e30",
        "checkpoint.every_steps=1",
        "tracking.log_every_steps=9",
        "non_finite={max_skipped: 2, max_rollbacks: 1}",
        *SILENT,
    )
    assert main_on_this_rank("ddp", *tiny(tiny_shards, tmp_path, *words)) == 2
    errors = capsys.readouterr().err
    assert errors.count("went back from step") == 1
    assert "DataError: loss or gradient were not finite at steps" in errors
    saved = list((tmp_path / "checkpoints").glob("step_*"))
    assert saved
    for folder in saved:
        assert all(weight.isfinite().all() for weight in Checkpoint(folder).weights().values())


def test_epochs_become_steps(tiny_shards: Path, tmp_path: Path) -> None:
    words = tiny(tiny_shards, tmp_path, *SILENT, "max_steps=null", "epochs=0.18")
    assert main_on_this_rank("ddp", *words) == 0
    last = metrics(tmp_path)[-1]
    assert last["step"] == 3 and last["epoch"] == pytest.approx(3 * 4 / 68)


@pytest.fixture
def scores() -> Iterator[list[float]]:
    """What successive evaluations give."""
    given: list[float] = []
    values = iter(given)
    with mock.patch.object(
        train.evaluate, "evaluate_in_training", lambda *_: ({"retrieval/score": next(values)}, [])
    ):
        yield given


@pytest.mark.parametrize(
    ("mode", "given"), [("max", [0.1, 0.5, 0.4, 0.5, 0.9]), ("min", [0.9, 0.3, 0.4, 0.3, 0.1])]
)
def test_training_stops_without_progress_and_keeps_the_best(
    tiny_shards: Path, tmp_path: Path, scores: list[float], mode: str, given: list[float]
) -> None:
    scores += given
    words = (
        *("max_steps=9", "evaluate.every_steps=1", "evaluate.best_metric=retrieval/score"),
        *("evaluate.early_stop_patience=2", f"evaluate.best_metric_mode={mode}", "checkpoint.every_steps=1"),
    )
    assert main_on_this_rank("ddp", *tiny(tiny_shards, tmp_path, *words)) == 0
    assert max(losses(tmp_path)) == 4, "step 2 was the best, steps 3 and 4 were not better"
    folder = tmp_path / "checkpoints"
    assert (folder / "best").read_text() == "step_2"
    assert {path.name for path in folder.glob("step_*")} == {"step_2", "step_3", "step_4"}


def test_a_best_metric_that_was_not_measured_is_told_in_a_short_line_with_the_nearest_names(
    tiny_shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("max_steps=1", "evaluate.every_steps=1", "evaluate.best_metric=retrieval/text_to_video/R5")
    assert main_on_this_rank("ddp", *tiny(tiny_shards, tmp_path, *words)) == 0
    told = [line for line in capfd.readouterr().err.splitlines() if "evaluate.best_metric" in line]
    assert len(told) == 1 and "retrieval/text_to_video/R@5" in told[0]
    assert len(told[0]) < 500


def test_a_best_that_a_crash_left_unnamed_is_named_on_resume(
    tiny_shards: Path, tmp_path: Path, scores: list[float]
) -> None:
    scores += [0.1, 0.5, 0.4]
    words = tiny(tiny_shards, tmp_path, "max_steps=3", "evaluate.every_steps=1", "checkpoint.every_steps=1")
    words += ["evaluate.best_metric=retrieval/score", "checkpoint.in_background=false"]
    marked = train.checkpoint.mark_best

    def crashing(folder: Path, step: int) -> None:
        if step == 2:
            raise Crash
        marked(folder, step)

    with mock.patch.object(train.checkpoint, "mark_best", crashing), pytest.raises(Crash):
        main_on_this_rank("ddp", *words)
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_1"
    assert main_on_this_rank("ddp", *words) == 0
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_2"


def test_evaluation_on_the_way_does_not_change_the_training(
    tiny_shards: Path, alone: Path, tmp_path: Path
) -> None:
    words = tiny(tiny_shards, tmp_path, *STEADY, *SIX_STEPS, "batch_size=8", "evaluate.every_steps=2")
    words.append("evaluate.metrics={retrieval: {bootstrap_samples: 20}, zero_shot: false}")
    assert main_on_this_rank("ddp", *words) == 0
    assert losses(tmp_path) == losses(alone)
    evaluated = [line["step"] for line in metrics(tmp_path) if "val/retrieval/text_to_video/R@5" in line]
    assert evaluated == [2, 4, 6]


@pytest.fixture(scope="module")
def launched(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """`accelerate launch` under ZeRO-2 with every sink."""
    run_dir = tmp_path_factory.mktemp("launched") / "run"
    words = (*LAUNCHED, "use_wandb=true", "tracking.use_tensorboard=true")
    first = launch("cpu_2_zero2", *tiny(tiny_shards, run_dir, *words), WANDB_MODE="offline")
    assert first.code == 0, first.stderr
    return {"first": first, "run": run_dir}


def test_accelerate_launch_trains_on_two_processes(launched: dict) -> None:
    assert set(losses(launched["run"])) == {1, 2, 3, 4}
    assert exit_code(launched["run"]) == 0
    for name in ("config.yaml", "report.html", "checkpoints/step_2", "checkpoints/step_4", "tokenizer"):
        assert (launched["run"] / name).exists(), name


def test_only_rank_0_speaks(launched: dict) -> None:
    output = launched["first"].stdout + launched["first"].stderr
    assert output.count("parameters: {") == 1
    assert output.count("report: ") == 1
    assert output.count(" 4/4 ") == 1, "one progress bar"


def wandb_records(path: Path) -> Iterator[bytes]:
    """Payloads of a LevelDB log after W&B's own 7 bytes: [crc 4, length 2, type 1, payload] in blocks of 32 KiB."""
    content, place, payload = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        rest_of_block = -place % 32768
        if 0 < rest_of_block < 7:
            place += rest_of_block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        payload += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield payload
            payload = b""


def test_wandb_offline_holds_the_same_numbers(launched: dict) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (launched["run"] / "wandb").glob("offline-run-*/run-*.wandb")
    sent: dict[int, dict[str, float]] = {}
    for payload in wandb_records(path):
        history = Record.FromString(payload).history
        items = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}
        numbers = {key: value for key, value in items.items() if not key.startswith("_")}
        if numbers:
            sent.setdefault(history.step.num, {}).update(numbers)
    written: dict[int, dict[str, float]] = {}
    for line in metrics(launched["run"]):
        written.setdefault(int(line.pop("step")), {}).update(line)
    assert sent == written


def test_tensorboard_holds_the_same_numbers(launched: dict) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(launched["run"] / "tensorboard")).Reload()
    lines = metrics(launched["run"])
    assert set(events.Tags()["scalars"]) == {key for line in lines for key in line} - {"step"}
    curve = {event.step: event.value for event in events.Scalars("train/loss")}
    assert curve == pytest.approx(losses(launched["run"]), rel=1e-6)
