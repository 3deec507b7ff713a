"""The paper kit: every count can be had by hand, none of few patients is told, and nothing is ticked for the authors."""

import csv
import xml.etree.ElementTree as ElementTree

import pytest

from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.manifest import RefusedRow, read_refused, write_rejected
from deepcoro.paper.answers import answers
from deepcoro.paper.checklists import CLAIM, TRIPOD_AI, Item, filled
from deepcoro.paper.exclusion_flow import exclusion_flow, told
from deepcoro.paper.kit import _record, write_kit
from deepcoro.paper.table_one import table_one
from deepcoro.report import keep_shown
from deepcoro.report_head_errors import HeadError
from tests.paper.study_data import NUM_STUDIES, NUM_TEST, REFUSED, write_run, write_shards
from tests.tools.command import load_tool


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("paper") / "shards")


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards):
    """Run folder and its configuration."""
    run_dir = tmp_path_factory.mktemp("run") / "first"
    return run_dir, write_run(run_dir, shards)


def cells(sheet) -> dict[str, dict[str, str]]:
    return {row[0]: dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows}


def test_table_one_counts_people_by_patient_and_findings_by_study(run):
    found = cells(table_one(Collection.open(run[1].data), 1))
    train, total = NUM_STUDIES - NUM_TEST, NUM_STUDIES
    assert found["patients"] == {
        "": "patients",
        "train": f"{train}",
        "test": f"{NUM_TEST}",
        "all": f"{total}",
    }
    assert found["films"]["all"] == f"{2 * total}"
    assert found["films of a study"]["train"] == "2 [2, 2]"
    assert found["age"]["train"] == "51.5 [45.75, 57.25]"  # 40 to 63, each once although each has two films
    assert found["sex = M"]["test"] == "6 (50.0 %)"
    assert found["cto"]["all"] == "12 (40.0 %)"  # of 30 assessed
    assert found["cto: not assessed"]["all"] == "6 (16.7 %)"
    assert found["dominance = right"]["train"] == "18 (100.0 %)"
    assert found["dominance: not assessed"]["train"] == "6 (25.0 %)"


def test_table_one_does_not_tell_cells_of_few(run):
    found = cells(table_one(Collection.open(run[1].data), 10))
    assert found["sex = M"]["test"] == "< 10"
    assert found["cto"]["all"] == "12 (40.0 %)"
    assert found["cto: not assessed"]["all"] == "< 10"
    assert found["dominance = right"]["train"] == "18 (100.0 %)"


def test_a_word_on_which_films_of_a_study_differ_is_not_assessed(tmp_path):
    folder = write_shards(tmp_path / "shards")
    table = tmp_path / "newer.csv"
    table.write_text("clip,dominance\ns01-film0,left\n")
    config = write_run(tmp_path / "run", folder, f"data.tables=[{table}]")
    found = cells(table_one(Collection.open(config.data), 1))
    assert found["dominance = right"]["train"] == "17 (100.0 %)"
    assert found["dominance: not assessed"]["train"] == "7 (29.2 %)"


def test_patients_that_are_not_named_are_not_counted(tmp_path, shards):
    folder = write_shards(tmp_path / "shards")
    record = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(record.replace('"verified"', '"unverifiable"'))
    sheet = table_one(Collection.open(write_run(tmp_path / "run", folder).data), 1)
    names = [row[0] for row in sheet.rows]
    assert ("patients" in names) != ("patients (not named)" in names)


def test_every_row_of_the_source_tables_is_in_the_flow(run):
    flow = exclusion_flow(Collection.open(run[1].data), run[0], [], 1)
    rows, films, used = flow.steps
    assert rows.count == 2 * NUM_STUDIES + len(REFUSED)
    assert rows.excluded == {"secondary_capture (skipped)": 12, "unreadable (failed)": 3}
    assert films.count == rows.count - sum(rows.excluded.values())
    assert used.count == films.count
    assert [branch.name for branch in flow.branches] == ["train", "test"]
    assert "24 films" in flow.branches[1].lines


def test_films_that_a_filter_drops_are_an_exclusion(tmp_path, shards):
    config = write_run(tmp_path / "run", shards, "data.where=age >= 60")
    flow = exclusion_flow(Collection.open(config.data), tmp_path / "run", [], 1)
    assert flow.steps[1].excluded == {"data.where: not age >= 60": 40}
    assert flow.steps[2].count == 2 * NUM_STUDIES - 40


def test_a_flow_that_does_not_add_up_is_refused(tmp_path):
    folder = write_shards(tmp_path / "shards")
    config = write_run(tmp_path / "run", folder)
    write_rejected(folder, [*read_refused(folder), RefusedRow(1, 99, None, "no_pixels")])
    with pytest.raises(DataError, match="does not add up"):
        exclusion_flow(Collection.open(config.data), tmp_path / "run", [], 1)


def test_small_counts_of_the_flow_are_told_as_small():
    assert [told(count, 10) for count in (0, 3, 10, 1234)] == ["0", "fewer than 10", "10", "1,234"]


def test_checklists_say_what_the_record_knows_and_what_it_does_not(run):
    run_dir, config = run
    record = _record(run_dir, config, Collection.open(config.data))
    known = answers(record)
    tripod = {row[0]: row[2:] for row in filled("t", "t", TRIPOD_AI, known).rows}
    assert tripod["17"] == ("open", "for the authors to write")
    assert tripod["15"] == ("open", "not in the record of this run")
    assert tripod["21"][0] == "check"
    assert "zero_shot/cto 12 of 30" in tripod["21"][1]
    assert "dominance 3" not in tripod["21"][1]  # rests on three
    assert "fingerprint" in tripod["5a"][1]
    claim = {row[0]: row[2:] for row in filled("c", "c", CLAIM, known).rows}
    assert "no patient is in two splits" in claim["21"][1]
    assert {state for state, _ in (*tripod.values(), *claim.values())} == {"open", "check"}


def test_checklists_say_what_the_model_reads_and_started_from(tmp_path, shards):
    pooler = "pooler={type: attention_cls_token, view_embedding: true}"
    config = write_run(tmp_path / "run", shards, pooler, "towers.text.from_scratch=null")
    known = answers(_record(tmp_path / "run", config, Collection.open(config.data)))
    assert known["predictors"].startswith("the pixels of the films and the two angles of the C-arm")
    assert known["initialisation"] == f"the text tower from the pretrained weights of {config.towers.text.model}; the rest at random"  # fmt: skip


def test_checklists_of_a_run_from_scratch_say_so(run):
    known = answers(_record(*run, Collection.open(run[1].data)))
    assert known["predictors"].startswith("the pixels of the films alone")
    assert known["initialisation"] == "at random"


def test_a_checklist_names_the_failures_that_the_page_shows(tmp_path, shards):
    config = write_run(tmp_path / "run", shards)
    record = _record(tmp_path / "run", config, Collection.open(config.data))
    assert answers(record)["failures"] is None
    wrong = HeadError(head="probe/cto", title="c1", said="yes", truth="no")
    keep_shown(tmp_path / "run", [], [], [wrong])
    assert answers(record)["failures"] == "the worst errors of heads in report.html (films: not to be shared)"


def test_checklists_have_every_item_once():
    assert [item.number for item in CLAIM] == [str(number) for number in range(1, 43)]
    numbers = [item.number.rstrip("abcdefg") for item in TRIPOD_AI]
    assert sorted(set(numbers), key=int) == [str(number) for number in range(1, 28)]
    assert len({item.number for item in TRIPOD_AI}) == len(TRIPOD_AI) == 52


def test_a_misspelt_topic_is_a_bug_and_not_missing_data():
    with pytest.raises(KeyError):
        filled("t", "t", [Item("1", "words", "no_such_topic")], {})


def test_data_that_the_run_was_not_trained_on_are_refused(tmp_path, shards):
    config = write_run(tmp_path / "run", shards)
    record = tmp_path / "run" / "data.json"
    record.write_text(record.read_text().replace(Collection.open(config.data).fingerprint, "0" * 64))
    with pytest.raises(DataError, match="trained on data 0000"):
        write_kit(tmp_path / "run", config, tmp_path / "paper", 10)


def test_the_tool_writes_the_kit_and_names_nobody(run, shards, capsys):
    run_dir, _ = run
    assert load_tool("paper_kit").main([str(run_dir), f"data.shards={shards}"]) == 0
    folder = run_dir / "paper"
    names = {path.name for path in folder.iterdir()}
    assert {
        "table_1.csv",
        "table_1.tex",
        "exclusion_flow.svg",
        "exclusion_flow.csv",
        "tripod_ai.md",
        "claim.csv",
    } <= names
    assert capsys.readouterr().out.count("written") == len(names)
    for path in folder.iterdir():
        text = path.read_text()
        assert str(shards.parent) not in text, path.name
        assert "s01" not in text, path.name
        assert "p01" not in text, path.name
    assert next(csv.reader((folder / "table_1.csv").open())) == ["", "train", "test", "all"]
    drawing = ElementTree.parse(folder / "exclusion_flow.svg").getroot()
    texts = [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert f"rows of the source tables: {2 * NUM_STUDIES + len(REFUSED)}" in texts
    assert "12 × secondary_capture (skipped)" in texts
    assert "fewer than 10 × unreadable (failed)" in texts


def test_a_folder_that_is_no_run_is_told_in_one_line(tmp_path, capsys):
    assert load_tool("paper_kit").main([str(tmp_path)]) == 2
    assert "holds no config.yaml" in capsys.readouterr().err
