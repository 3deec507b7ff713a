"""A step on four ranks has loss and gradients of one process with the whole batch, accumulated or not."""

from pathlib import Path

import pytest
import torch

from tests.one_step import Cut, Steps, assert_same, even
from tests.ranks import Ranks

pytestmark = pytest.mark.slow
ROWS = 16
UNEVEN = Cut(((3, 1), (1, 2), (2, 1), (5, 1)))


@pytest.fixture(scope="module")
def taken(tiny_shards: Path, ranks_of: dict[int, Ranks], tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tiny_shards, tmp_path_factory.mktemp("four"), ranks_of)


@pytest.mark.parametrize(
    ("loss", "cut", "form"),
    [
        ("clip", even(4, 1, ROWS), "dense"),
        ("clip", UNEVEN, "ring"),
        ("siglip", even(4, 4, ROWS), "ring"),
        ("siglip", UNEVEN, "dense"),
        ("likened", even(4, 4, ROWS), "gather"),
    ],
)
def test_in_fp64_they_are_equal(taken: Steps, loss: str, cut: Cut, form: str) -> None:
    assert_same(taken(loss, cut, form), taken(loss, even(1, 1, ROWS)), 1e-12)


@pytest.mark.parametrize(("loss", "form"), [("clip", "dense"), ("siglip", "ring")])
def test_in_fp32_they_are_right_to_a_hundred_thousandth(taken: Steps, loss: str, form: str) -> None:
    assert_same(taken(loss, even(4, 1, ROWS), form, torch.float32), taken(loss, even(1, 1, ROWS)), 1e-5)
