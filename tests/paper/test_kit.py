"""The paper kit: every count can be had by hand, none of few patients is told, and nothing is ticked for the authors."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from deepcoro.checkpoint import DIGESTS, WEIGHTS
from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.manifest import RefusedRow, read_refused, write_rejected
from deepcoro.lesion_pairs import LesionPairs, add_lesion_pairs
from deepcoro.paper.answers import answers
from deepcoro.paper.checklists import CLAIM, TRIPOD_AI, Item, filled
from deepcoro.paper.exclusion_flow import Flow, exclusion_flow, flow_sheet, steps_to
from deepcoro.paper.kit import _record, write_kit
from deepcoro.paper.table_one import table_one
from deepcoro.report import keep_shown
from deepcoro.report_head_errors import HeadError
from deepcoro.report_shortcuts import Shortcuts
from deepcoro.small_cells import told
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
    assert found["sex = M"] == {"": "sex = M", "train": "12 (50.0 %)", "test": "withheld", "all": "12 to 24"}
    # how many are assessed would tell how many are not
    assert found["cto"]["train"] == "withheld"
    assert found["cto: not assessed"]["all"] == "withheld"
    assert found["dominance = right"]["train"] == "withheld"


def test_a_split_of_few_patients_is_not_told_and_not_part_of_the_whole(tmp_path, shards):
    config = write_run(tmp_path / "run", shards, "data.where=age <= 67")  # leaves four of the test split
    record = _record(tmp_path / "run", config, Collection.open(config.data))
    sheet = table_one(record.shards, 10)
    assert sheet.columns == ("", "train", "test", "all but test")
    found = cells(sheet)
    assert list(found["patients"].values())[1:] == ["24", "fewer than 10", "24"]
    assert list(found["films"].values())[1:] == ["48", "fewer than 10", "48"]
    assert list(found["age"].values())[1:] == ["51.5 [45.75, 57.25]", "withheld", "51.5 [45.75, 57.25]"]
    flow = exclusion_flow(record.shards, tmp_path / "run", [], 10)
    assert flow.branches[1].lines == [
        "fewer than 10 patients",
        "fewer than 10 studies",
        "fewer than 10 films",
    ]
    assert [str(step.count) for step in flow.steps] == ["63 or more", "50 or more", "49 to 57"]
    assert answers(record)["partition"].startswith(
        "train 24 patients, 24 studies, 48 films; test fewer than 10 patients, fewer than 10 studies, fewer than 10 films; rule"
    )


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
    assert rows.count == told(2 * NUM_STUDIES + len(REFUSED), 1)
    assert rows.excluded == {"secondary_capture (skipped)": told(12, 1), "unreadable (failed)": told(3, 1)}
    assert films.count == told(2 * NUM_STUDIES, 1)
    assert used.count == films.count
    assert [branch.name for branch in flow.branches] == ["train", "test"]
    assert "24 films" in flow.branches[1].lines


def test_films_that_a_filter_drops_are_an_exclusion(tmp_path, shards):
    config = write_run(tmp_path / "run", shards, "data.where=age >= 60")
    flow = exclusion_flow(Collection.open(config.data), tmp_path / "run", [], 1)
    assert flow.steps[1].excluded == {"data.where: not age >= 60": told(40, 1)}
    assert flow.steps[2].count == told(2 * NUM_STUDIES - 40, 1)


def test_a_flow_that_does_not_add_up_is_refused(tmp_path):
    folder = write_shards(tmp_path / "shards")
    config = write_run(tmp_path / "run", folder)
    write_rejected(folder, [*read_refused(folder), RefusedRow(1, 99, None, "no_pixels")])
    with pytest.raises(DataError, match="does not add up"):
        exclusion_flow(Collection.open(config.data), tmp_path / "run", [], 1)


def test_no_small_count_of_the_flow_follows_from_its_steps():
    """Another flow, in which that count is another, is told in the same words."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        films = [told(int(each), 10) for each in generator.integers(10, 200, 3)]
        counts = dict(
            zip(("truncated", "no_pixels", "unreadable"), generator.integers(0, 30, 3), strict=True)
        )
        dropped, persons = generator.integers(1, 40, 2)

        def sheet(refused, dropped, persons, films=films):
            reasons = [name for name, count in refused.items() for _ in range(count)]
            told_dropped = {"data.where: not x": told(int(dropped), 10, min(int(dropped), int(persons)))}
            return flow_sheet(Flow(steps_to(films, told_dropped, reasons, 10), [])).rows

        shown = sheet(counts, dropped, persons)
        for name, count in counts.items():
            if 0 < count < 10:
                others = [
                    sheet(counts | {name: other}, dropped, persons)
                    for other in range(1, 10)
                    if other != count
                ]
                assert all(each == shown for each in others)
        if min(dropped, persons) < 10:
            assert sheet(counts, dropped + 1, min(dropped, persons)) == shown or dropped < 10


def test_a_small_exclusion_is_told_neither_by_itself_nor_by_the_steps_around_it():
    rows = flow_sheet(Flow(steps_to([told(495)], {}, ["truncated"] * 5, 10), [])).rows
    assert [count for _, count in rows] == ["496 to 504", "fewer than 10", "495", "495"]


def test_samples_that_could_not_be_read_are_as_few_as_their_patients(tmp_path, shards):
    config = write_run(tmp_path / "run", shards)
    names = [f"s{number:02d}.{film:03d}" for number in range(6) for film in (0, 1)]
    lines = "".join(f"{name},shard-0,cut\n" for name in names)
    (tmp_path / "run" / "damaged_samples.csv").write_text(f"sample,shard,reason\n{lines}")
    of_split = Collection.open(config.data)
    flow = {fewest: exclusion_flow(of_split, tmp_path / "run", [], fewest) for fewest in (1, 10)}
    assert "12 not readable, masked" in flow[1].branches[0].lines
    assert "withheld not readable, masked" in flow[10].branches[0].lines


def test_films_evaluated_do_not_count_out_the_few_that_could_not_be_read(run):
    shards = Collection.open(run[1].data)
    document = {
        "data": "x",
        "split": "test",
        "data_fingerprint": shards.fingerprint,
        "data_summary": {"patients": 12, "studies": 12, "films": 21, "unreadable": 3},
        "unreadable": {f"s3{number}.000": "cut" for number in range(3)},
    }
    lines = exclusion_flow(shards, run[0], [document], 10).branches[1].lines
    assert lines[-2:] == [
        "evaluated (x): 12 patients, 12 studies, 15 to 23 films",
        "fewer than 10 not readable, left out",
    ]


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


def test_checklists_tell_what_losses_do_about_rare_classes(tmp_path, shards):
    heads = (
        "objectives={probe: {type: linear_probing, head_structure: {cto: 1, dominance: 2}, loss_structure: {cto: focal, dominance: ce}, "
        "labels_map: {dominance: {right: 0, left: 1}}, class_weights: {dominance: [1, 4]}}}"
    )
    config = write_run(tmp_path / "run", shards, heads, "data.fields.report=false", "towers.text=null")
    known = answers(_record(tmp_path / "run", config, Collection.open(config.data)))
    assert known["imbalance"] == (
        "balance=none; probe: focal loss (gamma 2) of 1 heads (cto); probe: class_weights [1, 4] of 1 heads (dominance)"
    )


def test_checklists_of_a_loss_that_weighs_nothing_say_so(run):
    known = answers(_record(*run, Collection.open(run[1].data)))
    assert known["imbalance"] == "balance=none; no loss weighs classes"


def name_checkpoints(run_dir: Path, **pointers: int) -> None:
    for pointer, step in pointers.items():
        folder = run_dir / "checkpoints" / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DIGESTS).write_text(json.dumps({WEIGHTS: f"{step:064d}"[::-1]}))
        (run_dir / "checkpoints" / pointer).write_text(folder.name)


def test_checklists_tell_which_checkpoint_was_evaluated(tmp_path, shards):
    config = write_run(tmp_path / "run", shards)
    by_val = "by retrieval/text_to_video/R@5 (max) on the val split"

    def told_of(checkpoint: str | None) -> str:
        path = tmp_path / "run" / "results" / "x_test.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": checkpoint}))
        record = _record(tmp_path / "run", config, Collection.open(config.data))
        return answers(record)["selection"].replace(f"{record.shards.name}", "DATA")

    assert (
        told_of("step 8 (8)")
        == "evaluated on test of DATA: step 8 (8); none was named the best on the val split"
    )
    name_checkpoints(tmp_path / "run", best=4, latest=8)
    best, last = (f"step {step} ({str(step).ljust(16, '0')})" for step in (4, 8))
    assert told_of(best) == f"evaluated on test of DATA: {best}, the best {by_val}"
    assert told_of(last) == f"evaluated on test of DATA: {last}, the last; the best {by_val} is {best}"
    assert told_of(None).startswith("evaluated on test of DATA: a checkpoint not recorded; the best")


def test_checklists_cite_the_analyses_that_are_there(tmp_path, shards):
    run_dir = tmp_path / "run"
    config = write_run(run_dir, shards)
    record = _record(run_dir, config, Collection.open(config.data))
    assert answers(record)["robustness"] is None
    (run_dir / "explain").mkdir()
    assert answers(record)["robustness"] is answers(record)["explanations"] is None
    (run_dir / "explain" / "cto.json").write_text("{}")
    found = Shortcuts(split="test", checkpoint="step 4 (ab)", numbers={"whole": {}, "first_frame": {}})
    (run_dir / "shortcuts.json").write_text(found.model_dump_json())
    pairs = LesionPairs(
        checkpoint="step 4 (ab)", split="test", recipe={"preset": "demo", "seed": 0}, min_stenosis_percent=70, numbers={"cto/num_pairs": 3}
    )  # fmt: skip
    add_lesion_pairs(run_dir, pairs)
    assert answers(record)["robustness"] == (
        "the test split of step 4 (ab) with less to see (first frame only): shortcuts.json; generated scenes filmed with and without a "
        "lesion (step 4 (ab), test of demo (seed 0), lesions of 70 % or more): counterfactuals.json; films blurred where the model looks and at random, 1 scores: explain/*.json"
    )
    assert answers(record)["explanations"].startswith("explain/*.json")


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
    assert f"rows of the source tables: {2 * NUM_STUDIES + 13} to {2 * NUM_STUDIES + 21}" in texts
    assert "12 × secondary_capture (skipped)" in texts
    assert "fewer than 10 × unreadable (failed)" in texts


def test_a_folder_that_is_no_run_is_told_in_one_line(tmp_path, capsys):
    assert load_tool("paper_kit").main([str(tmp_path)]) == 2
    assert "holds no config.yaml" in capsys.readouterr().err
