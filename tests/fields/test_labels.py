import math

import numpy as np
import pytest

from deepcoro.fields import labels
from deepcoro.sample import ClipRecord, StudyRecord

SIDES = {"dominance": {"left": 0, "right": 1, "unclear": None}}


def study_with(*films: dict, side: str | None = None) -> StudyRecord:
    clips = [
        ClipRecord(
            clip=f"c{number}",
            member=f"{number:03d}.mjpg",
            frame_offsets=[0, 1],
            height=8,
            width=8,
            side=side,
            labels=film,
        )
        for number, film in enumerate(films)
    ]
    return StudyRecord(study="s", clips=clips)


def decoded(study: StudyRecord, clips: tuple[int, ...] = (0,), of_studies=False, **settings) -> list[float]:
    field = labels.Config(**settings).build()
    field.rows_are_studies = of_studies
    return field.decode(study, clips, lambda clip: b"", None)


def same(values: list[float], expected: list[float]) -> bool:
    return np.array_equal(values, expected, equal_nan=True)


def test_a_film_gives_its_numbers_and_what_was_not_assessed_is_nan_never_zero() -> None:
    study = study_with({"cto": 0.0, "lad_stenosis": 71.5, "lvef": None})
    assert same(
        decoded(study, columns=["cto", "lad_stenosis", "lvef", "never_heard_of"]),
        [0.0, 71.5, math.nan, math.nan],
    )


def test_words_become_the_numbers_of_their_map_and_null_is_not_assessed() -> None:
    for word, number in (("left", 0.0), ("right", 1.0), ("unclear", math.nan), (None, math.nan)):
        study = study_with({"dominance": word})
        assert same(decoded(study, columns=["dominance"], values=SIDES), [number])


def test_the_side_of_a_film_is_a_label_like_another() -> None:
    assert decoded(
        study_with({}, side="right"), columns=["side"], values={"side": {"left": 0, "right": 1}}
    ) == [1.0]


def test_what_yaml_makes_of_yes_no_and_numbers_are_words_of_the_map() -> None:
    config = labels.Config(columns=["stent"], values={"stent": {False: 0, True: 1, 2: None}})
    assert config.values["stent"] == {"0": 0.0, "1": 1.0, "2": None}
    assert config.number("stent", 1.0) == 1.0
    assert config.number("stent", 2.0) is None


@pytest.mark.parametrize(
    ("conflict", "expected"), [("max", [80.0, 1.0]), ("drop", [math.nan, 1.0]), ("error", [math.nan, 1.0])]
)
def test_films_of_a_study_that_disagree_are_settled_by_the_rule_and_films_without_the_label_have_no_say(
    conflict: str, expected: list[float]
) -> None:
    study = study_with({"rca": 20.0, "cto": 1.0}, {"rca": 80.0, "cto": None}, {"rca": None, "cto": 1.0})
    settings = {"columns": ["rca", "cto"], "conflict": conflict}
    for shown in ((0, 1, 2), (0, 2), (2,)):
        assert same(decoded(study, shown, of_studies=True, **settings), expected), "shown or not, films count"
    assert same(decoded(study, (0,), **settings), [20.0, 1.0]), "a row that is a film has its own"
    filtered = study.model_copy(update={"kept": (0, 2)})
    assert decoded(filtered, (2,), of_studies=True, **settings) == [
        20.0,
        1.0,
    ], "but those that a filter drops"


def test_an_evaluation_is_told_the_label_as_the_film_has_it_by_the_same_rule() -> None:
    study = study_with({"dominance": "left"}, {"dominance": "right"}, {"dominance": "unclear"})
    for conflict, expected in (("max", "right"), ("drop", None)):
        field = labels.Config(columns=["dominance"], values=SIDES, conflict=conflict).build()
        assert field.agreed(study, (0,)) == {"dominance": "left"}
        field.rows_are_studies = True
        assert field.agreed(study, (0,)) == field.agreed(study, (0, 1, 2)) == {"dominance": expected}


def test_a_batch_has_a_number_a_row_and_rows_without_a_sample_are_nan() -> None:
    field = labels.Config(columns=["cto", "lvef"]).build()
    batch = field.collate([[1.0, 55.0], None, [0.0, math.nan]], 4)["labels"]
    assert list(batch) == ["cto", "lvef"]
    assert same(batch["cto"].tolist(), [1.0, math.nan, 0.0])
    assert same(batch["lvef"].tolist(), [55.0, math.nan, math.nan])
    empty = field.collate([None], 1)["labels"]["cto"]
    assert empty.shape == (1,)
    assert empty.isnan().all()


def test_a_word_without_a_map_and_a_value_outside_of_its_map_are_refused_by_name() -> None:
    config = labels.Config(columns=["dominance", "grade"], values=SIDES)
    with pytest.raises(ValueError, match="'both' is not among"):
        config.number("dominance", "both")
    with pytest.raises(ValueError, match="'severe' is a word"):
        config.number("grade", "severe")
