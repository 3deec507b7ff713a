"""The gradient of a step under every engine: that of one process with the whole batch, in fp64."""

from pathlib import Path

import pytest
import torch

from tests.one_step import Steps, assert_same, even
from tests.ranks import Ranks

STAGES = ("zero1", "zero2", "zero3_whole")


@pytest.fixture(scope="module")
def taken(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tiny_shards, tmp_path_factory.mktemp("engines"), {2: two_ranks})


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3", "zero3_whole"])
def test_every_engine_takes_the_gradient_of_the_whole_batch(taken: Steps, engine: str) -> None:
    got = taken("siglip", even(2, 4), "dense", torch.float32, engine)
    assert_same(got, taken("siglip", even(1, 1)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", STAGES)
@pytest.mark.parametrize(
    ("loss", "accumulation", "form"), [("clip", 4, "ring"), ("siglip", 1, "ring"), ("likened", 1, "dense")]
)
def test_every_zero_stage_takes_it_of_each_loss_and_form(
    taken: Steps, engine: str, loss: str, accumulation: int, form: str
) -> None:
    got = taken(loss, even(2, accumulation), form, torch.float32, engine)
    assert_same(got, taken(loss, even(1, 1)), 1e-5)


@pytest.mark.parametrize(
    "engine",
    [
        "zero2",
        pytest.param("zero1", marks=pytest.mark.slow),
        pytest.param("zero3_whole", marks=pytest.mark.slow),
    ],
)
def test_captions_and_masked_modelling_are_in_the_second_run_of_every_zero_stage(
    taken: Steps, engine: str
) -> None:
    wanted = taken("multitask", even(1, 1))
    got = taken("multitask", even(2, 4), "dense", torch.float32, engine)
    assert_same(got, wanted, 1e-5)
    for name in ("captioning.decoder", "masked_modeling.decoder", "masked_modeling.pixels"):
        of_it = [each for key, each in wanted.gradients.items() if key.startswith(f"objectives.{name}")]
        assert any(each.abs().max() > 0 for each in of_it), name


def test_captions_and_masked_modelling_beside_the_cache_are_exact_in_fp64(taken: Steps) -> None:
    assert_same(taken("multitask", even(2, 4), "ring"), taken("multitask", even(1, 1)), 1e-12)


@pytest.mark.parametrize(("loss", "form"), [("clip", "dense"), ("siglip", "ring")])
def test_in_fp32_a_step_without_accumulation_is_right_to_a_hundred_thousandth(
    taken: Steps, loss: str, form: str
) -> None:
    assert_same(taken(loss, even(2, 1), form, torch.float32), taken(loss, even(1, 1)), 1e-5)
