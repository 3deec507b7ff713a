"""Findings of heads: probabilities after val's recalibration, calls at val's thresholds, and silence where the model is not sure."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.special import expit, logit

from deepcoro.calibrated import Calibration, Fixed, FixedInterval
from deepcoro.inference.findings import HeadFindings, findings_without_heads, recalibrated
from deepcoro.inference.model import fields_to_read
from deepcoro.inference.prediction import Finding
from deepcoro.inference.questions import Questions
from deepcoro.inference.study_page import findings_bars
from deepcoro.inference.written import _cells
from deepcoro.metrics import prompt_sweep, zero_shot
from deepcoro.run_config import RunConfig, run_config_from_dump
from tools import predict, serve

PROBE = {
    "type": "linear_probing",
    "head_structure": {"cto": 1, "lvef": 1, "dominance": 3},
    "head_task": {"cto": "binary_classification", "lvef": "regression", "dominance": "multiclass_classification"},
    "labels_map": {"dominance": {"right": 0, "left": 1, "co": 2}},
}  # fmt: skip
QUESTIONS = Questions([zero_shot.Config().build(), prompt_sweep.Config().build()], embed=None)


def config(**data: bool) -> RunConfig:
    """Of a run whose rows are films, unless `multi_video`."""
    return run_config_from_dump({"objectives": {"probe": PROBE}, "data": data}, "test")


def fixed(
    threshold: float,
    slope: float | None = None,
    intercept: float | None = None,
    certainty: float | None = None,
) -> Calibration:
    platt = {"slope": slope, "intercept": intercept}
    cto = Fixed(threshold=threshold, rule="youden", **platt, certainty=certainty, num=100, num_positive=30)
    about = {"checkpoint": "d", "split": "val", "data": "s", "data_fingerprint": "f", "created": "now"}
    return Calibration(heads={"probe/cto": cto}, **about)


def numbers_of(cto: list[float]) -> dict[str, np.ndarray]:
    rows = len(cto)
    return {
        "probe/cto/prediction": np.array(cto)[:, None],
        "probe/lvef/prediction": np.linspace(40, 60, rows)[:, None],
        "probe/dominance/prediction": np.tile([0.2, 0.7, 0.1], (rows, 1)),
    }


def test_a_head_says_what_its_task_is() -> None:
    cto, lvef, dominance = HeadFindings(config(), None, 0.5).of(numbers_of([0.2, 0.4]), 2)
    assert (cto.name, cto.kind, cto.score, cto.lowest, cto.highest) == (
        "probe/cto",
        "probability",
        pytest.approx(0.3),
        0.2,
        0.4,
    )
    assert (lvef.kind, lvef.score, lvef.unit) == ("value", 50, "%")
    assert (cto.unit, dominance.unit) == (None, None)
    assert (dominance.kind, dominance.word, dominance.score) == ("class", "left", pytest.approx(0.7))


def test_a_head_of_several_classes_tells_the_probability_of_each_by_its_word() -> None:
    cto, _, dominance = HeadFindings(config(), None, 0.5).of(numbers_of([0.2, 0.4]), 2)
    assert dominance.class_probabilities == {
        "right": pytest.approx(0.2),
        "left": pytest.approx(0.7),
        "co": pytest.approx(0.1),
    }
    cells = {"prob_right": "0.200000", "prob_left": "0.700000", "prob_co": "0.100000"}
    assert {f"probe_dominance_{name}": cell for name, cell in cells.items()}.items() <= _cells(dominance).items()  # fmt: skip
    assert cto.class_probabilities == {} and not [name for name in _cells(cto) if "prob_" in name]


def test_without_a_calibration_of_val_there_is_no_call() -> None:
    cto = HeadFindings(config(), None, 0.5).of(numbers_of([0.9]), 1)[0]
    assert (cto.call, cto.threshold, cto.probability) == (None, None, None)


@pytest.mark.parametrize(("score", "call"), [(0.3, "positive"), (0.29, "negative")])
def test_the_call_is_made_at_the_threshold_of_val(score: float, call: str) -> None:
    cto = HeadFindings(config(), fixed(0.3), 0.5).of(numbers_of([score]), 1)[0]
    assert (cto.call, cto.threshold) == (call, 0.3)


@pytest.mark.parametrize(("score", "call"), [(0.2, "negative"), (0.5, "abstained"), (0.79, "abstained"), (0.8, "positive")])  # fmt: skip
def test_the_model_abstains_where_its_probability_is_below_the_certainty_asked(
    score: float, call: str
) -> None:
    cto = HeadFindings(config(), fixed(0.3), 0.8).of(numbers_of([score]), 1)[0]
    assert cto.call == call


def test_certainty_is_of_the_recalibrated_probability() -> None:
    """0.8 said by a model that is twice too sure."""
    known = fixed(0.3, slope=0.5, intercept=0.1)
    cto = HeadFindings(config(), known, 0.75).of(numbers_of([0.8]), 1)[0]
    assert cto.probability == pytest.approx(expit(0.1 + 0.5 * logit(0.8)), abs=1e-9)
    assert cto.call == "abstained"
    assert recalibrated(1.0, known.heads["probe/cto"]) < 1


@pytest.mark.parametrize(("stored", "given", "call"), [
    (0.8, None, "abstained"), (0.7, None, "positive"), (None, None, "positive"),
    (0.8, 0.5, "positive"), (0.7, 0.8, "abstained"), (None, 0.8, "abstained"),
])  # fmt: skip
def test_the_certainty_of_val_is_kept_to_unless_another_is_given(
    stored: float | None, given: float | None, call: str
) -> None:
    cto = HeadFindings(config(), fixed(0.3, certainty=stored), given).of(numbers_of([0.75]), 1)[0]
    assert cto.call == call


def test_each_head_keeps_to_its_own_certainty() -> None:
    probe = PROBE | {"head_structure": {"cto": 1, "stent": 1}, "head_task": {}, "labels_map": {}}
    probe |= {"head_task": {"cto": "binary_classification", "stent": "binary_classification"}}
    heads = {f"probe/{name}": fixed(0.3, certainty=least).heads["probe/cto"] for name, least in (("cto", 0.9), ("stent", 0.6))}  # fmt: skip
    known = fixed(0.3).model_copy(update={"heads": heads})
    said = {f"probe/{name}/prediction": np.array([[0.75]]) for name in ("cto", "stent")}
    settings = run_config_from_dump({"objectives": {"probe": probe}}, "test")
    assert [each.call for each in HeadFindings(settings, known, None).of(said, 1)] == [
        "abstained",
        "positive",
    ]


@pytest.mark.parametrize("tool", [predict, serve])
def test_commands_give_no_certainty_of_their_own(tool: ModuleType) -> None:
    words = ["films", "--output", "answers"] if tool is predict else []
    assert tool.parse_arguments([*words, "--checkpoint", "run"]).certainty is None
    assert tool.parse_arguments([*words, "--checkpoint", "run", "--certainty", "0.8"]).certainty == 0.8


def test_a_threshold_fixed_on_films_calls_films_and_not_the_mean_of_a_study() -> None:
    """The mean, 0.5, lies above the threshold that only one film reaches: nobody measured what that is worth."""
    cto = HeadFindings(config(), fixed(0.4), 0.5).of(numbers_of([0.9, 0.3, 0.3]), 3)[0]
    assert (cto.score, cto.call, cto.probability) == (pytest.approx(0.5), None, None)
    assert (cto.threshold, cto.fixed_on) == (0.4, "films")
    assert cto.film_calls == {"positive": 1, "negative": 2}
    unsure = HeadFindings(config(), fixed(0.4), 0.75).of(numbers_of([0.9, 0.3, 0.3]), 3)[0]
    assert unsure.film_calls == {"positive": 1, "abstained": 2}


def test_a_study_of_one_film_is_called_as_that_film_is() -> None:
    cto = HeadFindings(config(), fixed(0.4), 0.5).of(numbers_of([0.9]), 1)[0]
    assert (cto.call, cto.probability, cto.film_calls) == ("positive", 0.9, {"positive": 1})


def test_a_threshold_fixed_on_studies_calls_the_study() -> None:
    cto = HeadFindings(config(multi_video=True), fixed(0.4), 0.5).of(numbers_of([0.5]), 3)[0]
    assert (cto.call, cto.fixed_on, cto.film_calls) == ("positive", "studies", {})


def test_tables_count_films_by_their_calls_where_the_study_has_none() -> None:
    cto = HeadFindings(config(), fixed(0.4), 0.5).of(numbers_of([0.9, 0.3, 0.3]), 3)[0]
    cells = _cells(cto)
    assert cells["probe_cto_films_positive"] == 1 and cells["probe_cto_films_negative"] == 2
    assert "probe_cto_call" not in cells


def test_a_number_has_the_interval_that_val_fixed_also_around_the_mean_of_films() -> None:
    width = FixedInterval(half_width=11.5, level=0.9, num_patients=40)
    known = fixed(0.4).model_copy(update={"numbers": {"probe/lvef": width}})
    for cto in ([0.9], [0.9, 0.3, 0.3]):
        found = HeadFindings(config(), known, None).of(numbers_of(cto), len(cto))
        lvef = found[1]
        assert (lvef.interval, lvef.interval_level) == ((lvef.score - 11.5, lvef.score + 11.5), 0.9)
        assert {found[0].interval, found[2].interval} == {None}
        cells = _cells(lvef)
        assert cells["probe_lvef_interval_low"] == f"{lvef.score - 11.5:.6f}"
        assert cells["probe_lvef_interval_high"] == f"{lvef.score + 11.5:.6f}"
        assert cells["probe_lvef_interval_level"] == 0.9


def test_the_interval_of_a_percentage_ends_where_percentages_end() -> None:
    width = FixedInterval(half_width=90, level=0.9, num_patients=40)
    known = fixed(0.4).model_copy(update={"numbers": {"probe/lvef": width}})
    lvef = HeadFindings(config(), known, None).of(numbers_of([0.9]), 1)[1]
    assert lvef.unit == "%" and lvef.interval == (0, 100)


def test_a_number_for_which_val_fixed_nothing_has_no_interval() -> None:
    for known in (None, fixed(0.4), fixed(0.4).model_copy(update={"numbers": {}})):
        lvef = HeadFindings(config(), known, None).of(numbers_of([0.9]), 1)[1]
        assert (lvef.interval, lvef.interval_level) == (None, None)
        assert not any("interval" in name for name in _cells(lvef))


def test_a_study_without_rows_has_no_findings() -> None:
    assert HeadFindings(config(), None, 0.5).of({}, 0) == []


def test_zero_shot_scores_of_a_study_are_the_mean_of_its_rows() -> None:
    (found,) = findings_without_heads({"zero_shot/cto": np.array([0.1, 0.3])}, QUESTIONS, 2)
    assert (found.name, found.score, found.lowest, found.highest) == (
        "zero_shot/cto",
        pytest.approx(0.2),
        0.1,
        0.3,
    )
    assert (found.kind, found.higher_means) == ("zero_shot", "cto = 1")


def test_a_number_read_off_sentences_is_a_value_and_has_a_bar_of_its_own() -> None:
    scores = {"prompt_sweep_max_stenosis": np.array([40.0, 60.0]), "zero_shot/side": np.array([-0.2, 0.2])}
    found = findings_without_heads(scores, QUESTIONS, 2)
    assert [(each.kind, each.higher_means, each.unit) for each in found] == [
        ("value", None, "%"),
        ("zero_shot", "side = right", None),
    ]
    assert findings_bars(found)[1]["width"] > 20


def test_bars_of_probabilities_numbers_and_scores_do_not_share_a_scale() -> None:
    found = HeadFindings(config(), None, 0.5).of(numbers_of([0.2, 0.4]), 2)
    scores = {"zero_shot/cto": np.array([-0.001, 0.001])}
    found += findings_without_heads(scores, QUESTIONS, 2)
    cto, lvef, dominance, zero_shot = findings_bars(found)
    assert (cto["low"], cto["width"], cto["at"]) == (20, 20, pytest.approx(30))
    assert (lvef["low"], lvef["at"]) == (pytest.approx(33.33), 50)
    assert dominance["at"] == pytest.approx(70)
    assert zero_shot["at"] == 50 and zero_shot["width"] < 5  # a thousandth is not much


def test_a_bar_shows_the_prediction_interval_and_the_threshold_on_its_own_scale() -> None:
    cto = Finding(name="probe/cto", kind="probability", score=0.3, threshold=0.6, num_films=1)
    lvef = Finding(
        name="probe/lvef", kind="value", score=50, interval=(40, 60), interval_level=0.9, num_films=1
    )
    of_cto, of_lvef = findings_bars([cto, lvef])
    assert of_cto["threshold_at"] == 60 and "interval_low" not in of_cto
    low, width = of_lvef["interval_low"], of_lvef["interval_width"]
    assert low > 0 and low + width < 100  # all of it lies on the bar
    assert low + width / 2 == pytest.approx(of_lvef["at"], abs=0.02)
    assert "threshold_at" not in of_lvef


def test_tables_of_texts_that_training_read_are_not_asked_for(tmp_path: Path) -> None:
    """They hold training data and stay where it is."""
    report = {"type": "texts", "texts": str(tmp_path / "texts.csv"), "edges": str(tmp_path / "edges.csv")}
    dumped = {
        "objectives": {"probe": PROBE},
        "data": {"fields": {"video": {"type": "video"}, "report": report}},
    }
    fields = fields_to_read(run_config_from_dump(dumped, "test"), tokenizer=None)
    assert sorted(fields) == ["labels", "video"]
