"""A certainty that val chooses for each head, and what it is worth on another split; nothing of it unless it is asked for."""

from dataclasses import replace

import numpy as np
import pytest

from deepcoro.aggregates import told_and_withheld
from deepcoro.bootstrap import resamples
from deepcoro.calibrated import Calibration, Fixed, read_calibration, write_calibration
from deepcoro.evaluated import Evaluated, Head
from deepcoro.inference.findings import HeadFindings, recalibrated
from deepcoro.metrics.classification import Classification, Config
from deepcoro.report_heads import head_tables
from deepcoro.report_tables import tables
from deepcoro.run_config import run_config_from_dump
from tests.metrics.heads import BINARY, evaluated, findings, known

TARGET = 0.1


def metric(**changes: object) -> Classification:
    return Config(**{"bootstrap_samples": 40, "selective_error": TARGET} | changes).build()


@pytest.fixture(scope="module")
def val() -> Evaluated:
    return replace(findings(num_heads=2, count=400), split="val")


@pytest.fixture(scope="module")
def fixed(val: Evaluated) -> dict[str, Fixed]:
    return metric().fix(val)


@pytest.fixture(scope="module")
def tested(fixed: dict[str, Fixed]) -> Evaluated:
    return replace(findings(num_heads=2, count=400, seed=1), fixed=fixed)


@pytest.fixture(scope="module")
def measured(tested: Evaluated) -> dict[str, float]:
    return metric().measure(tested)[0]


def judged_one_by_one(data: Evaluated, name: str, found: Fixed) -> list[tuple[int, float, bool]]:
    """Row, certainty and whether the call is wrong, of each assessed row."""
    rows, said, truth = known(data, name)
    judged = []
    for row, score, true in zip(rows, said[:, 0], truth, strict=True):
        probability = recalibrated(float(score), found)
        sure = probability if probability > 0.5 else 1 - probability
        judged.append((int(row), sure, (score >= found.threshold) != bool(true)))
    return judged


def test_val_chooses_the_certainty_from_which_on_its_calls_keep_to_the_error(val, fixed):
    for name in ("a_cto", "b_cto"):
        found = fixed[f"probe/{name}"]
        judged = judged_one_by_one(val, name, found)
        assert found.selective_error == TARGET and found.certainty > 0.5
        kept = [wrong for _, sure, wrong in judged if sure >= found.certainty]
        assert np.mean(kept) <= TARGET
        for least in {sure for _, sure, _ in judged if sure < found.certainty}:
            assert np.mean([wrong for _, sure, wrong in judged if sure >= least]) > TARGET
    assert fixed["probe/a_cto"].certainty != fixed["probe/b_cto"].certainty


def test_coverage_and_error_on_another_split_are_those_of_a_loop_with_intervals_over_patients(
    tested, fixed, measured
):
    found = fixed["probe/a_cto"]
    judged = judged_one_by_one(tested, "a_cto", found)
    kept = [(row, wrong) for row, sure, wrong in judged if sure >= found.certainty]
    patients = {row // 2 for row, _ in kept}
    abstained = {row // 2 for row, sure, _ in judged if sure < found.certainty}
    errors = [np.mean([wrong for _, sure, wrong in judged if sure >= least]) for _, least, _ in judged]
    expected = {
        "certainty": found.certainty,
        "num": len(kept),
        "num_patients": len(patients),
        "num_abstained_patients": len(abstained),
        "coverage": len(kept) / len(judged),
        "error": np.mean([wrong for _, wrong in kept]),
        "aurc": np.mean(errors),
    }
    assert {key: measured[f"probe/a_cto/selective/{key}"] for key in expected} == pytest.approx(expected)
    drawn = []
    for counts in next(resamples(200, 40, seed=0)):
        weights = [counts[row // 2] for row, _ in kept]
        drawn.append(np.average([wrong for _, wrong in kept], weights=weights))
    bounds = [measured[f"probe/a_cto/selective/error_ci_{end}"] for end in ("low", "high")]
    assert bounds == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist())
    assert {"probe/b_cto/selective/coverage_ci_low", "probe/b_cto/selective/aurc_ci_high"} <= measured.keys()


def test_rows_with_a_call_are_those_that_inference_calls(tested, fixed, measured):
    probe = {"type": "linear_probing", "head_structure": {"a_cto": 1}, "head_task": {"a_cto": BINARY}}
    about = {"checkpoint": "d", "split": "val", "data": "s", "data_fingerprint": "f", "created": "now"}
    heads = HeadFindings(run_config_from_dump({"objectives": {"probe": probe}}, "test"), Calibration(heads=fixed, **about), None)  # fmt: skip
    said = known(tested, "a_cto")[1]
    calls = [heads.of({"probe/a_cto/prediction": each[None]}, 1)[0].call for each in said]
    assert sum(call != "abstained" for call in calls) == measured["probe/a_cto/selective/num"]
    assert 0 < calls.count("abstained") < len(calls)


def test_unless_it_is_asked_for_nothing_changes(val, tested, fixed, measured):
    asked_nothing = metric(selective_error=None)
    plain = asked_nothing.fix(val)
    unset = {"selective_error": None, "certainty": None}
    assert plain == {name: each.model_copy(update=unset) for name, each in fixed.items()}
    numbers, notes = asked_nothing.measure(replace(tested, fixed=plain))
    assert numbers == {key: value for key, value in measured.items() if "/selective/" not in key}
    assert notes == []


def test_a_certainty_that_was_never_chosen_is_missed_in_the_notes(val, tested):
    plain = metric(selective_error=None).fix(val)
    numbers, notes = metric().measure(replace(tested, fixed=plain))
    assert not any("/selective/" in key for key in numbers)
    assert any("run_mode=val chooses certainties: probe/a_cto" in note for note in notes)


def test_an_error_that_no_certainty_keeps_to_is_said_and_no_head_is_silenced(caplog):
    """The surest calls of val are wrong."""
    truth = np.arange(40) % 2
    score = np.where(truth, 0.7, 0.3) + 0.002 * np.arange(40) * np.where(truth, 1, -1)
    truth[-2:] = 1 - truth[-2:]
    heads, labels = {"cto": Head(BINARY, "cto", 2)}, {"cto": truth.astype(float).tolist()}
    data = evaluated(heads, {"cto": score}, labels, split="val")
    strict = metric(selective_error=0.01)
    found = strict.fix(data)
    assert found["probe/cto"].certainty is None and found["probe/cto"].not_reached
    numbers, notes = strict.measure(replace(data, fixed=found))
    assert not any("/selective/" in key for key in numbers) and "probe/cto/sensitivity" in numbers
    assert any("a call is always made: probe/cto" in note for note in notes)
    calibration_of(found).warn_of_not_reached()
    assert "probe/cto: no certainty kept its wrong calls on val to 0.01" in caplog.text


def test_heads_of_one_class_and_splits_without_rows_have_no_certainty(val, fixed):
    one_class = replace(val, labels=val.labels | {"a_cto": [1.0] * 400}, fixed=fixed)
    assert metric().fix(one_class).keys() == {"probe/b_cto"}
    numbers, _ = metric().measure(one_class)
    assert not any(key.startswith("probe/a_cto/selective") for key in numbers)
    empty = val.only(np.zeros(400, bool))
    assert metric().fix(empty) == {}
    assert set(metric().measure(replace(empty, fixed=fixed))[0].values()) == {0.0}


def test_few_calls_are_named_and_those_of_few_patients_do_not_leave(tested, fixed):
    _, said, _ = known(tested, "a_cto")
    surest = np.sort([max(each, 1 - each) for each in (recalibrated(float(one), fixed["probe/a_cto"]) for one in said[:, 0])])  # fmt: skip
    few = fixed | {"probe/a_cto": fixed["probe/a_cto"].model_copy(update={"certainty": surest[-5]})}
    numbers, notes = metric().measure(replace(tested, fixed=few))
    assert any("fewer than 10 patients at val's certainty: probe/a_cto;" in note for note in notes)
    told, withheld = told_and_withheld(numbers)
    assert withheld == ["probe/a_cto/selective"]
    assert "probe/a_cto/auroc" in told and "probe/b_cto/selective/coverage" in told
    nearly_all = fixed | {"probe/a_cto": fixed["probe/a_cto"].model_copy(update={"certainty": surest[3]})}
    numbers, _ = metric().measure(replace(tested, fixed=nearly_all))
    assert told_and_withheld(numbers)[1] == ["probe/a_cto/selective"], "those without a call are few"


def test_what_val_chose_is_read_back(fixed, tmp_path):
    write_calibration(tmp_path, calibration_of(fixed))
    assert read_calibration(tmp_path, "d").heads == fixed


def test_a_calibration_that_is_older_than_certainties_is_read(tmp_path):
    old = '{"threshold": 0.3, "rule": "youden", "num": 9, "num_positive": 4}'
    assert Fixed.model_validate_json(old).certainty is None


def test_val_says_that_its_own_selective_error_flatters(val, fixed):
    _, notes = metric().measure(replace(val, fixed=fixed))
    assert any("selective errors are somewhat too low here" in note for note in notes)


def test_the_page_has_a_table_of_them(measured):
    (table,) = [each for each in head_tables(measured) if "as sure as val asks" in each.heading]
    assert [row.label for row in table.rows] == ["a cto", "b cto"]
    assert "wrong calls" in table.columns
    assert tables(measured, [], {}) == [], "and not once more among other measures"


def calibration_of(fixed: dict[str, Fixed]) -> Calibration:
    about = {"split": "val", "data": "s", "data_fingerprint": "f", "created": "now"}
    return Calibration(checkpoint="d", heads=fixed, **about)
