"""How evenly labels fell on the splits, with what was not assessed left out."""

import numpy as np
import pyarrow
import pytest

from deepcoro.data.prevalence import prevalences


def table(**labels) -> pyarrow.Table:
    num = len(next(iter(labels.values())))
    return pyarrow.table({"study": [f"s{row}" for row in range(num)], **labels})


SPLITS = {"s0": "train", "s1": "train", "s2": "val", "s3": "val"}


def test_what_is_not_assessed_is_not_counted():
    (cto,) = prevalences(table(cto=[1.0, None, 0.0, 1.0]), SPLITS, ["cto"])
    assert {split: (share.positive, share.assessed, share.films) for split, share in cto.splits.items()} == {
        "train": (1, 1, 2),
        "val": (1, 2, 2),
    }
    assert cto.total.share == pytest.approx(2 / 3) and not cto.uneven


def test_words_are_asked_one_by_one_and_stenoses_at_seventy():
    films = table(
        dominance=["left", None, "right", "right"],
        lad_stenosis=[70.0, 69.0, None, 0.0],
        lvef=[40.0, 55.0, 61.0, None],
    )
    found = {
        each.name: each.total for each in prevalences(films, SPLITS, ["dominance", "lad_stenosis", "lvef"])
    }
    assert {name: (total.positive, total.assessed) for name, total in found.items()} == {
        "dominance = right": (2, 3),
        "dominance = left": (1, 3),
        "lad_stenosis >= 70": (1, 3),
    }


def test_a_label_that_nobody_assessed_has_no_share():
    (cto,) = prevalences(table(cto=pyarrow.array([None] * 4, pyarrow.float64())), SPLITS, ["cto"])
    assert cto.total.assessed == 0 and np.isnan(cto.total.share) and not cto.uneven


@pytest.mark.parametrize(("share", "uneven"), [(0.2, ()), (0.6, ("train", "val"))])
def test_a_share_that_chance_would_not_give_is_told(share, uneven):
    random = np.random.default_rng(0)
    splits = {f"s{row}": "train" if row < 800 else "val" for row in range(1000)}
    values = np.concatenate([random.random(800) < 0.2, random.random(200) < share]).astype(float)
    (cto,) = prevalences(table(cto=values), splits, ["cto"])
    assert cto.uneven == uneven
