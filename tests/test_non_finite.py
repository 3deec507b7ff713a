"""A step whose loss or gradient is not finite never happened, on any rank; many of them, and the run goes on from before them."""

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from deepcoro import train
from deepcoro.checkpoint import Checkpoint
from deepcoro.model import VideoTextModel
from deepcoro.step import Record, train_step
from tests.launch import (
    CONSTANT_LR,
    SILENT,
    STEADY,
    losses,
    main_on_this_rank,
    metrics,
    tiny,
)
from tests.ranks import Ranks

TEACHER = (
    "objectives={contrastive: {embed_dim: 32}, masked_modeling: {latent: ema, ema_momentum: 0.7, decoder_layers: 1, "
    "decoder_dim: 24, decoder_heads: 2}}"
)
WORDS = (*STEADY, *SILENT, *CONSTANT_LR, "max_steps=5", "checkpoint.keep=9")
BAD_STEP, BAD_ROW = 3, 21
"""The third step reads rows 16 to 23; the second rank has this one."""


@contextmanager
def poisoned(rows: Collection[int], kind: str) -> Iterator[list[list[int]]]:
    """Films at these positions give NaN: as pixels, which the loss shares with every rank, or in the `loss` of their rank alone.

    Yields the positions that each step's batch of this rank had.
    """
    forward, encode, seen = VideoTextModel.forward, VideoTextModel._encode, []

    def forward_with_nan(model: VideoTextModel, batch: dict, task: str = "losses", **options: Any) -> dict:
        results = forward(model, batch, task, **options)
        if task == "losses" and model.training:
            seen.append(batch["position"].tolist())
            if kind == "loss" and set(rows) & set(seen[-1]):
                # as a masked NaN has it: the gradient alone would look sound
                return {
                    name: result | {"sum": result["sum"] + torch.full_like(result["sum"], torch.nan)}
                    for name, result in results.items()
                }
        return results

    def encode_with_nan(model: VideoTextModel, batch: dict, video: torch.Tensor, *shown: Any) -> torch.Tensor:
        if kind == "pixels" and set(rows) & set(batch["position"].tolist()):
            video = torch.full_like(video, torch.nan)
        return encode(model, batch, video, *shown)

    with (
        mock.patch.object(VideoTextModel, "forward", forward_with_nan),
        mock.patch.object(VideoTextModel, "_encode", encode_with_nan),
    ):
        yield seen


def poisoned_on_rank(rank: int, engine: str, rows: list[int], kind: str, *words: str) -> tuple[int, list]:
    with poisoned(rows, kind) as seen:
        return main_on_this_rank(engine, *words), seen


def without_the_step(rank: int, engine: str, *words: str) -> int:
    """The oracle: the step's batch is taken and nothing is done with it."""

    def left_out(engine: Any, window: list, step: int, lr: dict, loss_weights: dict) -> Record:
        if step + 1 != BAD_STEP:
            return train_step(engine, window, step, lr, loss_weights)
        return Record({}, lr, loss_weights, took_step=torch.zeros((), dtype=torch.bool))

    with mock.patch.object(train, "train_step", left_out):
        return main_on_this_rank(engine, *words)


def saved(run_dir: Path, step: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    checkpoint = Checkpoint(run_dir / "checkpoints" / f"step_{step}")
    return checkpoint.weights(), checkpoint.moments()


def assert_the_step_never_happened(run_dir: Path, oracle: Path) -> None:
    for here, there in zip(saved(run_dir, 5), saved(oracle, 5), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)
        assert all(value.isfinite().all() for value in here.values())
    assert set(losses(run_dir)) == {1, 2, 4, 5}
    assert losses(run_dir) == {step: loss for step, loss in losses(oracle).items() if step != BAD_STEP}
    counts = [line["train/skipped_steps"] for line in metrics(run_dir)]
    assert counts == [0, 0, 1, 1, 1]


CASES = [
    ("zero2", "loss"),
    *(
        pytest.param(engine, kind, marks=pytest.mark.slow)
        for engine in ("ddp", "zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_whole")
        for kind in ("pixels", "loss")
        if (engine, kind) != ("zero2", "loss")
    ),
]


@pytest.fixture(scope="module")
def oracle_of(
    tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The run without the step under an engine, trained when first asked for."""
    folder = tmp_path_factory.mktemp("oracles")

    def made(engine: str) -> Path:
        run_dir = folder / engine
        if not run_dir.exists():
            words = tiny(tiny_shards, run_dir, *WORDS, TEACHER)
            assert two_ranks.run(without_the_step, engine, *words) == [0, 0]
        return run_dir

    return made


@pytest.mark.parametrize(("engine", "kind"), CASES)
def test_a_nan_on_one_rank_skips_the_step_on_both(
    tiny_shards: Path,
    two_ranks: Ranks,
    oracle_of: Callable[[str], Path],
    tmp_path: Path,
    engine: str,
    kind: str,
) -> None:
    run_dir = tmp_path / "run"
    words = tiny(tiny_shards, run_dir, *WORDS, TEACHER)
    answers = two_ranks.run(poisoned_on_rank, engine, [BAD_ROW], kind, *words)
    assert [code for code, _ in answers] == [0, 0]
    assert [any(BAD_ROW in rows for rows in seen) for _, seen in answers] == [False, True]
    assert_the_step_never_happened(run_dir, oracle_of(engine))
    told = json.loads((run_dir / "non_finite.json").read_text())
    assert list(told["steps"]) == ["3"] and len(told["steps"]["3"]) == 8


@pytest.fixture(scope="module")
def gone_back(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """One process with batches of four: steps 5 and 6 are bad, one may be. With the positions that it trained on."""
    run_dir = tmp_path_factory.mktemp("back") / "run"
    with poisoned([17, 22, 40], "loss") as seen:
        assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *WITH_A_BUDGET)) == 0
    return run_dir, seen


WITH_A_BUDGET = (
    *(*STEADY, *SILENT, *CONSTANT_LR, "max_steps=9", "checkpoint.every_steps=2", "checkpoint.keep=9"),
    "non_finite={max_skipped: 1, window_steps: 3, max_rollbacks: 1}",
)


def test_past_the_budget_the_run_goes_back_and_reads_on_elsewhere(
    gone_back: tuple[Path, list[list[int]]],
) -> None:
    run_dir, seen = gone_back
    assert [rows[0] for rows in seen] == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, 10))
    assert set(losses(run_dir)) == {
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
    }, "row 40 was in step 9: skipped and within the budget"
    last = metrics(run_dir)[-1]
    assert (last["train/skipped_steps"], last["train/rollbacks"]) == (1, 1)
    assert last["epoch"] == pytest.approx(44 / 68)
    stream = Checkpoint(run_dir / "checkpoints" / "step_8").state()["stream"]
    assert stream["skipped_ranges"] == [[16, 24]] and stream["position"] == 40
    [rollback] = json.loads((run_dir / "non_finite.json").read_text())["rollbacks"]
    assert (rollback["from_step"], rollback["to_step"]) == (6, 4)
    assert {step: len(samples) for step, samples in rollback["skipped_steps"].items()} == {"5": 4, "6": 4}


@pytest.mark.parametrize("checkpoint", [4, 6])
def test_a_run_that_went_back_and_was_killed_goes_on_as_if_it_had_not_been(
    tiny_shards: Path, gone_back: tuple[Path, list[list[int]]], tmp_path: Path, checkpoint: int
) -> None:
    """At 4, before the first checkpoint of its new way; at 6 the bias correction of AdamW counts what counted."""
    whole, seen = gone_back
    run_dir = shutil.copytree(whole, tmp_path / "run")
    for later in (6, 8, 9):
        if later > checkpoint:
            shutil.rmtree(run_dir / "checkpoints" / f"step_{later}")
    with poisoned([17, 22, 40], "loss") as again:
        assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *WITH_A_BUDGET)) == 0
    assert again == seen[-len(again) :] and len(again) == 9 - checkpoint
    assert losses(run_dir) == losses(whole)
    for here, there in zip(saved(run_dir, 9), saved(whole, 9), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)


def test_a_run_continues_exactly_after_a_step_that_did_not_count(tiny_shards: Path, tmp_path: Path) -> None:
    whole, words = tmp_path / "whole", (*WORDS, "checkpoint.every_steps=3")
    with poisoned([4], "pixels"):
        assert main_on_this_rank("ddp", *tiny(tiny_shards, whole, *words)) == 0
        run_dir = shutil.copytree(whole, tmp_path / "run")
        shutil.rmtree(run_dir / "checkpoints" / "step_5")
        assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *words)) == 0
    assert set(losses(run_dir)) == {1, 3, 4, 5}
    torch.testing.assert_close(saved(run_dir, 5), saved(whole, 5), rtol=0, atol=0)


@pytest.mark.slow
def test_after_the_last_rollback_two_ranks_stop_with_the_same_words(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    words = tiny(tiny_shards, tmp_path, *WITH_A_BUDGET)
    rows = [17, 26, 38, 41]  # in steps 3 and 4 of the first way, and of the second, which begins at row 32
    answers = two_ranks.run(poisoned_on_rank, "zero2", rows, "loss", *words)
    assert [code for code, _ in answers] == [2, 2]
    reason = json.loads((tmp_path / "exit.json").read_text())["reason"]
    assert "not finite at steps" in reason and "non_finite.json names all" in reason
    told = json.loads((tmp_path / "non_finite.json").read_text())
    names = {name for samples in told["steps"].values() for name in samples}
    assert len(names) == 16 and all(
        name in names for name in reason.split("samples: ")[1].split(" and ")[0].split(", ")
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero2_offload", "zero3_whole"])
def test_one_micro_step_of_a_window_is_enough_to_skip_it(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    """With the gradient cache, whose losses are those of the whole window."""
    run_dir, oracle = tmp_path / "run", tmp_path / "oracle"
    words = (*WORDS, TEACHER, "batch_size=2", "gradient_accumulation_steps=2")
    answers = two_ranks.run(
        poisoned_on_rank, engine, [BAD_ROW], "pixels", *tiny(tiny_shards, run_dir, *words)
    )
    assert [code for code, _ in answers] == [0, 0]
    assert two_ranks.run(without_the_step, engine, *tiny(tiny_shards, oracle, *words)) == [0, 0]
    assert_the_step_never_happened(run_dir, oracle)
