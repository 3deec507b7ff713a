"""Metrics within groups: each group as if it were alone, sizes for all, values only where enough patients stand behind them."""

from dataclasses import replace

import numpy as np
import pytest

from deepcoro.evaluated import Evaluated, label_word
from deepcoro.groups import measure_groups
from deepcoro.metrics import retrieval
from deepcoro.report import ReportInputs, render_report
from deepcoro.report_groups import group_tables

TREATED, PLAIN = 12, 20


def evaluated(**changes) -> Evaluated:
    """12 films of interventions, each on its own report's embedding; 20 diagnostic films, all on one point; one unknown."""
    count = TREATED + PLAIN + 1
    texts = np.eye(count, dtype=np.float32)
    films = texts.copy()
    films[TREATED:] = np.ones(count, np.float32) / np.sqrt(count)
    known = Evaluated(
        split="test",
        units=np.arange(count),
        clips=[f"c{film}" for film in range(count)],
        studies=[f"s{film}" for film in range(count)],
        patients=[f"p{film}" for film in range(count)],
        films=films,
        texts=[f"Report {film}." for film in range(count)],
        text_embeddings=texts,
        text_of_film=np.arange(count),
        labels={
            "status": ["PCI"] * TREATED + ["diagnostic"] * PLAIN + [None],
            "stent_presence": [1.0] * 6 + [0.0] * (count - 6),
            "site": ["a"] * count,
            "lvef": list(map(float, range(count))),
        },
        prompts={},
    )
    return replace(known, **changes)


def measured(data: Evaluated, *columns: str, min_patients: int = 10) -> dict[str, float]:
    metric = retrieval.Config(bootstrap_samples=20).build()
    return measure_groups([metric], data, columns, min_patients)[0]


def test_a_leak_that_the_mean_hides_shows_between_groups():
    numbers = measured(evaluated(), "status")
    overall, _ = retrieval.Config(bootstrap_samples=0).build().measure(evaluated())
    assert numbers["by/status=PCI/retrieval/text_to_video/R@1"] == 1.0
    # all diagnostic films are alike: any order of 20 is as likely, so the first is right once in 20
    assert numbers["by/status=diagnostic/retrieval/text_to_video/R@1"] == pytest.approx(1 / PLAIN)
    assert numbers["by/status=diagnostic/retrieval/text_to_video/R@1_chance"] == pytest.approx(1 / PLAIN)
    assert 0.3 < overall["retrieval/text_to_video/R@1"] < 0.5
    assert numbers["by/status=PCI/retrieval/text_to_video/R@1_n"] == TREATED
    assert numbers["by/status=diagnostic/retrieval/text_to_video/R@1_n"] == PLAIN
    assert numbers["by/status/num_not_assessed"] == 1
    assert not any("control" in key for key in numbers)


def test_a_group_is_measured_as_if_the_split_held_nothing_else():
    data, metric = evaluated(), retrieval.Config(bootstrap_samples=20).build()
    alone = data.only(np.array([word == "diagnostic" for word in data.labels["status"]]))
    expected, _ = metric.measure(alone)
    numbers = measured(data, "status")
    for key, value in expected.items():
        if "/control/" not in key:
            assert numbers[f"by/status=diagnostic/{key}"] == value
    assert expected["retrieval/num_distinct_reports"] == PLAIN


def test_a_group_of_few_patients_has_a_size_and_no_value():
    numbers = measured(evaluated(), "stent_presence")
    stented = {key for key in numbers if key.startswith("by/stent_presence=1/")}
    assert stented == {"by/stent_presence=1/num_films", "by/stent_presence=1/num_patients"}
    assert numbers["by/stent_presence=1/num_films"] == 6
    # twelve films of two patients are two patients
    twice = evaluated(patients=["a", "b"] * 6 + [f"p{film}" for film in range(PLAIN + 1)])
    assert "by/status=PCI/retrieval/text_to_video/R@1" not in measured(twice, "status")
    assert "by/status=PCI/retrieval/text_to_video/R@1" in measured(twice, "status", min_patients=2)


def test_what_is_no_group_is_said_unless_it_is_usual():
    metric = retrieval.Config(bootstrap_samples=0).build()
    numbers, notes = measure_groups([metric], evaluated(labels={}), ("status", "stent_presence"), 10)
    assert not numbers and not notes
    numbers, notes = measure_groups([metric], evaluated(), ("hospital", "lvef", "site"), 10)
    assert not numbers
    assert ["no label 'hospital'" in notes[0], "33 values" in notes[1]] == [True, True] and len(notes) == 2


def test_a_subset_keeps_films_texts_and_labels_together():
    data = evaluated(text_of_film=np.array([-1, *[0] * 5, *range(6, 33)]))
    part = data.only(np.arange(33) < 8)
    assert part.texts == ["Report 0.", "Report 6.", "Report 7."]
    assert part.text_of_film.tolist() == [-1, 0, 0, 0, 0, 0, 1, 2]
    np.testing.assert_array_equal(part.text_embeddings[1], data.text_embeddings[6])
    assert part.labels["lvef"] == list(range(8)) and part.clips[-1] == "c7"


def test_labels_become_words_and_missing_ones_none():
    values = [1, 1.0, True, "PCI", None, float("nan"), "", np.float64(0.0)]
    assert [label_word(value) for value in values] == ["1", "1", "1", "PCI", None, None, None, "0"]


def test_the_report_shows_the_groups_beside_all_films():
    overall, _ = retrieval.Config(bootstrap_samples=20).build().measure(evaluated())
    results = overall | measured(evaluated(), "status", "stent_presence")
    tables = group_tables(results)
    assert [table.column for table in tables] == ["status", "stent_presence"]
    status = next(table for table in tables if table.column == "status")
    assert status.groups == ["all films", "PCI", "diagnostic"]
    assert status.sizes[1:] == ["12 films, 12 patients", "20 films, 20 patients"]
    recall = next(row for row in status.rows if row.label == "report → film: R@5")
    assert [cell.value for cell in recall.cells][1:] == ["100.0 %", "25.0 %"]
    assert recall.cells[2].notes == ["25.0 – 25.0 %", "guessing 25.0 %", "of 20"]
    page = render_report(ReportInputs(run_name="run", results=results))
    assert "By group of films" in page and "1 films not assessed" in page and "12 films, 12 patients" in page
    assert "By group of films" not in render_report(ReportInputs(run_name="run", results=overall))


def test_numbers_are_grouped_between_edges_and_words_among_them_are_not_assessed():
    count = TREATED + PLAIN + 1
    ages = [49, 50, 64, *[80] * (count - 5), "unknown", None]
    data = evaluated(labels={"age": ages})
    numbers, notes = measure_groups([], data, ["age"], 1, {"age": [50.0, 65.0, 75.0]})
    sizes = {key: value for key, value in numbers.items() if "=" in key and key.endswith("/num_films")}
    assert sizes == {
        "by/age=under 50/num_films": 1,
        "by/age=50 to 65/num_films": 2,
        "by/age=75 or more/num_films": count - 5,
    }
    assert list(sizes) == [f"by/age={name}/num_films" for name in ("under 50", "50 to 65", "75 or more")]
    assert numbers["by/age/num_not_assessed"] == 2
    assert numbers["by/age/num_films"] == count and numbers["by/age/num_patients"] == count
    assert notes == []
    assert group_tables(numbers)[0].groups == ["all films", "under 50", "50 to 65", "75 or more"]
