"""Newer tables over a real shard folder: what is read after the join is what the tables say, and no tar has changed."""

import hashlib

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data import manifest as schema
from deepcoro.data.collection import Collection
from deepcoro.data.shards import Shards
from deepcoro.sample import Report, text_id
from tests.data.folder import moving_film, study_with, write_folder

SPLITS = {"s0": "train", "s1": "train", "s2": "val", "s3": "test"}
NUM_CLIPS = {"s0": 2, "s1": 1, "s2": 3, "s3": 1}


def labelled(key, patient, reports=None):
    films = [moving_film(clip) for clip in range(NUM_CLIPS[key])]
    extra = {} if reports is None else {"reports": reports}
    record, payloads = study_with(key, films, schema.Encoding(), patient, **extra)
    clips = [
        clip.model_copy(update={"labels": {"score": float(number), "grade": "mild"}})
        for number, clip in enumerate(record.clips)
    ]
    return record.model_copy(update={"clips": clips}), payloads


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    of_clips = [Report(scope="clip", clip=0, text="First."), Report(scope="side", side="left", text="Left.")]
    studies = [
        *(labelled("s0", "p0"), labelled("s1", "p1")),
        *(labelled("s2", "p2", of_clips), labelled("s3", None)),
    ]
    return write_folder(tmp_path_factory.mktemp("tables") / "site", studies, splits=SPLITS)


def write(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text)
    return path


def collect(folder, *tables, **options):
    return Collection({folder.name: Shards.open(folder)}, tables, **options)


def labels(collection, column):
    """Of every film, as fields see them."""
    return [
        clip.labels[column] for row in range(len(collection.studies)) for clip in collection.study(row).clips
    ]


def test_a_row_speaks_of_the_narrowest_id_it_gives_and_an_empty_cell_leaves_what_was_known(folder, tmp_path):
    table = write(
        tmp_path,
        "clip,study,patient,score,new\n"
        "s0-film1,s0,p0,7,\n"  # one film
        ",s2,,8,5\n"  # a study
        ",,p0,3,1\n"  # a patient: both films of s0, but film 1 has a narrower row
        ",s1,,,2\n",
    )
    collection = collect(folder, table)
    assert labels(collection, "score") == [3.0, 7.0, 0.0, 8.0, 8.0, 8.0, 0.0]
    assert labels(collection, "new") == [1.0, 1.0, 2.0, 5.0, 5.0, 5.0, None]
    assert labels(collection, "grade") == ["mild"] * 7
    columns = collection.films.read(["score", "new", "grade"])
    assert {name: columns[name].to_pylist() for name in columns.column_names} == {
        name: labels(collection, name) for name in ("score", "new", "grade")
    }


def test_later_tables_win_and_an_exclamation_mark_makes_a_label_not_assessed(folder, tmp_path):
    first = write(tmp_path, "study,score\ns0,4\ns1,5\n", "first.csv")
    second = write(tmp_path, "study,score,grade\ns1,6,!\ns2,!,\n", "second.csv")
    collection = collect(folder, first, second)
    assert labels(collection, "score") == [4.0, 4.0, 6.0, None, None, None, 0.0]
    assert labels(collection, "grade") == ["mild", "mild", None, "mild", "mild", "mild", "mild"]
    assert collection.films.read(["grade"])["grade"].to_pylist() == labels(collection, "grade")
    assert labels(collect(folder, second, first), "score") == [4.0, 4.0, 5.0, None, None, None, 0.0]


def test_a_column_of_numbers_stays_numbers_truths_are_numbers_and_words_make_all_words(folder, tmp_path):
    numbers = write(tmp_path, "study;stent\ns0;true\ns1;False\ns2;2\n", "numbers.csv")
    assert labels(collect(folder, numbers), "stent") == [1.0, 1.0, 0.0, 2.0, 2.0, 2.0, None]
    words = write(tmp_path, "study\tscore\ns0\tunclear\n", "words.tsv")
    collection = collect(folder, words)
    assert labels(collection, "score")[:3] == ["unclear", "unclear", 0.0]
    assert collection.films.read(["score"])["score"].to_pylist()[:3] == ["unclear", "unclear", "0"]


def test_a_text_of_a_study_replaces_its_texts_and_one_of_a_film_that_film_s(folder, tmp_path):
    table = write(
        tmp_path,
        'clip,study,Report\n,s0,"New, of the study."\ns2-film1,,Of film one.\ns2-film0,,First again.\n',
    )
    collection = collect(folder, table)
    record = collection.study(0)
    assert [report.scope for report in record.reports] == ["study"]
    assert record.report_of((0,)) == record.report_of((0, 1)) == "New, of the study."
    assert [collection.study(2).report_of((clip,)) for clip in range(3)] == [
        *("First again.", "Of film one.", "Left."),
    ]
    paired = [
        text_id(collection.study(row).report_of((clip,)))
        for row, count in enumerate(NUM_CLIPS.values())
        for clip in range(count)
    ]
    assert collection.films.read(["text_id"])["text_id"].to_pylist() == paired
    later = write(tmp_path, "study,Report\ns2,Of all.\n", "later.csv")
    both = collect(folder, table, later)
    assert [both.study(2).report_of((clip,)) for clip in range(3)] == ["Of all."] * 3


def test_a_table_that_nobody_relinked_is_scrubbed_of_identifiers_and_says_so(folder, tmp_path, caplog):
    table = write(
        tmp_path,
        'clip,Report,operator,volume\ns0-film0,"Dr Tremblay, 1955-03-12inf. LAD 70 %.",Dr Roy,7734501\n'
        's1-film0,"Dr Tremblay, 1955-03-12inf. LAD 70 %.",none,12.5\n',
    )
    collection = collect(folder, table)
    records = [collection.study(row) for row in (0, 1)]
    told = "Dr [NAME], [DATE]inf. LAD 70 %."
    assert [record.report_of((0,)) for record in records] == [told, told]
    assert labels(collection, "operator")[:3] == ["Dr [NAME]", None, None]
    assert labels(collection, "volume")[:3] == [None, None, 12.5]
    assert collection.films.read(["text_id"])["text_id"].to_pylist()[0] == text_id(told)
    assert "identifiers in its texts are not used (1 x DATE, 1 x NAME)" in caplog.text
    assert "identifiers in its labels are not used (1 x NAME, 1 numbers of 'volume')" in caplog.text
    assert not {"Tremblay", "Roy", "1955", "7734501"} & set(caplog.text.replace("'", " ").split())


def test_a_split_of_a_table_wins_and_a_withdrawn_study_stays_withdrawn(folder, tmp_path, caplog):
    table = write(tmp_path, "study,Split\ns1,val\ns3,\n")
    collection = collect(folder, table)
    assert [collection.units(split, True, 1).study_row.tolist() for split in ("train", "val", "test")] == [
        *([0], [1, 2], [3]),
    ]
    assert collection.films.read(["split"])["split"].to_pylist() == ["train"] * 2 + ["val"] * 4 + ["test"]
    withdrawn = tmp_path / "withdrawn"
    withdrawn.mkdir()
    for file in folder.iterdir():
        (withdrawn / file.name).write_bytes(file.read_bytes())
    rows = [row for row in schema.read_splits(folder) if row.study != "s1"]
    schema.write_splits(withdrawn, rows)
    again = collect(withdrawn, table)
    assert again.units("val", True, 1).study_row.tolist() == [2]
    assert "1 withdrawn studies; they stay withdrawn" in caplog.text


def test_rows_of_no_film_are_counted_and_logged_and_a_table_without_any_film_is_an_error(
    folder, tmp_path, caplog
):
    some = write(tmp_path, "study,score\ns0,1\nnobody,2\nnothing,3\n", "some.csv")
    collection = collect(folder, some)
    assert "some.csv: 1 of 3 rows are of films of this run" in caplog.text
    [table] = collection.record()["tables"]
    digest = hashlib.sha256(some.read_bytes()).hexdigest()
    assert table == {"name": "some.csv", "sha256": digest, "rows": 3, "matched": 1}
    none = write(tmp_path, "study,score\nACC-17,1\n", "none.csv")
    with pytest.raises(
        DataError, match=r"none of the 1 rows of none\.csv.*tools/relink\.py --to_keyed"
    ) as error:
        collect(folder, none)
    assert "ACC-17" not in str(error.value) + caplog.text, "an id that is not keyed may be a true one"


def test_the_contents_of_tables_are_part_of_the_fingerprint_and_their_names_are_not(folder, tmp_path):
    table = write(tmp_path, "study,score\ns0,1\n")
    plain, joined = collect(folder).fingerprint, collect(folder, table).fingerprint
    assert plain == Shards.open(folder).fingerprint != joined
    assert collect(folder, write(tmp_path, "study,score\ns0,1\n", "moved.csv")).fingerprint == joined
    assert collect(folder, write(tmp_path, "study,score\ns0,2\n")).fingerprint != joined
    assert collect(folder, where="score >= 0").fingerprint not in (
        plain,
        collect(folder, where="score >= 1").fingerprint,
    )


def test_no_byte_of_the_folder_changes(folder, tmp_path):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    collection = collect(folder, write(tmp_path, "study,score,Split,Report\ns0,1,val,New.\n"))
    collection.study(0)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("id,score\ns0,1\n", ConfigError, "none of the columns clip, study, patient.*--to_keyed"),
        ("study,height\ns0,1\n", ConfigError, r"\['height'\]: the films have such a column"),
        ("study,score,score\ns0,1,1\n", ConfigError, "each once"),
        ("study,score\ns0,1\ns0,2\n", DataError, "lists a study twice"),
        ("study,score\ns0,1,3\n", DataError, "every row has 2 cells"),
        ("study,Split\ns0,validation\n", DataError, "Split that is none of"),
        ("clip,Split\ns2-film0,train\ns2-film1,test\n", DataError, "different splits"),
        ("patient,Report\np0,Text.\n", ConfigError, "a study or a clip"),
        ("study,Report\ns0,!\n", DataError, "erases labels, not texts"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused_by_its_name_or_column(folder, tmp_path, text, error, words):
    with pytest.raises(error, match=words):
        collect(folder, write(tmp_path, text))


def test_a_table_that_is_not_there_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="nowhere.csv does not exist"):
        collect(folder, tmp_path / "nowhere.csv")
