"""The wrong-side rate counts films whose known tree the model takes for the other."""

from dataclasses import replace

import numpy as np
import pytest

from deepcoro.angiography.prompts import ZERO_SHOT
from deepcoro.evaluated import Evaluated
from deepcoro.metrics import wrong_side

LEFT, RIGHT = ZERO_SHOT["side"]["left"], ZERO_SHOT["side"]["right"]


def films_of(sides: list[str | None], nearer: list[str], captions: list[str]) -> Evaluated:
    """Films that lie on the sentences of the side that is nearer."""
    place = {"left": [1.0, 0.0], "right": [0.0, 1.0]}
    num = len(sides)
    return Evaluated(
        split="test",
        units=np.arange(num),
        clips=[f"c{row}" for row in range(num)],
        studies=[f"s{row}" for row in range(num)],
        patients=[f"p{row // 2}" for row in range(num)],
        films=np.array([place[each] for each in nearer], np.float32),
        texts=[],
        text_embeddings=np.zeros((0, 2), np.float32),
        text_of_film=np.full(num, -1),
        labels={"side": sides},
        prompts={each: np.array(place["left"]) for each in LEFT} | {each: np.array(place["right"]) for each in RIGHT},
        captions=captions,
    )  # fmt: skip


def test_rates_are_shares_of_the_films_whose_side_is_known_and_that_say_one() -> None:
    evaluated = films_of(
        ["left", "left", "right", None],
        ["left", "right", "right", "left"],
        [RIGHT[0], LEFT[0], "nothing to say", RIGHT[0]],
    )
    numbers, notes = wrong_side.Config(bootstrap_samples=0).build().measure(evaluated)
    assert numbers == {
        "wrong_side/caption/num": 2,  # the third names no tree, the side of the fourth is not known
        "wrong_side/caption/num_patients": 1,
        "wrong_side/caption/rate": 0.5,
        "wrong_side/zero_shot/num": 3,
        "wrong_side/zero_shot/num_patients": 2,
        "wrong_side/zero_shot/rate": pytest.approx(1 / 3),
    }
    assert notes == []


def test_intervals_are_over_patients_and_hold_the_rate() -> None:
    rng = np.random.default_rng(0)
    sides = rng.choice(["left", "right"], 60).tolist()
    said = [each if rng.random() < 0.8 else {"left": "right", "right": "left"}[each] for each in sides]
    numbers, _ = wrong_side.Config(bootstrap_samples=200).build().measure(films_of(sides, said, []))
    low, rate, high = (numbers[f"wrong_side/zero_shot/rate{end}"] for end in ("_ci_low", "", "_ci_high"))
    assert rate == np.mean([one != other for one, other in zip(sides, said, strict=True)])
    assert low < rate < high and "wrong_side/caption/rate" not in numbers


def test_without_a_known_side_nothing_is_measured() -> None:
    evaluated = films_of([None, None], ["left", "right"], [])
    measure = wrong_side.Config(bootstrap_samples=0).build().measure
    assert measure(evaluated)[0] == {"wrong_side/zero_shot/num": 0}
    assert measure(replace(evaluated, labels={}))[0] == {}
