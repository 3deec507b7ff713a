"""Next month's films join a folder: nobody moves, no old shard is written again, every row is counted once."""

from dataclasses import replace

import pyarrow
import pytest

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import read_films
from deepcoro.data.shards import Shards
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import Rejection, StudySource
from tests.data.studies import SMALL, contents, forbid_opening, make_studies

APPEND = SMALL.model_copy(update={"append": True})


@pytest.fixture
def january(tmp_path) -> list[StudySource]:
    return make_studies(tmp_path / "films", 5)


@pytest.fixture
def february(tmp_path) -> list[StudySource]:
    return make_studies(tmp_path / "films", 4, first=5)


def samples(folder) -> set[tuple[str, str, str, bytes]]:
    """Study, film, split and bytes of everything that a reader of the folder meets."""
    shards = Shards.open(folder)
    split_of = {row.study: row.split for row in schema.read_splits(folder)}
    found = set()
    for row in range(shards.manifest.counts.studies):
        study = shards.study(row)
        found |= {
            (study.study, clip.clip, split_of[study.study], shards.read_clip(row, number))
            for number, clip in enumerate(study.clips)
        }
    return found


def test_appending_gives_the_same_samples_as_sharding_all_at_once(tmp_path, january, february):
    february[1].films[0].path.unlink()
    write_dataset(january, tmp_path / "out", SMALL, [Rejection(11, None, "path_missing")])
    before = contents(tmp_path / "out")
    after = write_dataset(february, tmp_path / "out", APPEND)
    later_rows = [
        replace(study, films=tuple(replace(film, row=film.row + 11) for film in study.films))
        for study in february
    ]
    whole = write_dataset(
        [*january, *later_rows], tmp_path / "whole", SMALL, [Rejection(11, None, "path_missing")]
    )
    assert samples(tmp_path / "out") == samples(tmp_path / "whole")
    assert after.counts == whole.counts and after.counts.clips + after.counts.rejected_clips == 19
    assert (after.pixel_mean, after.pixel_std) == (whole.pixel_mean, whole.pixel_std)
    assert sorted(schema.read_splits(tmp_path / "out")) == sorted(schema.read_splits(tmp_path / "whole"))
    by_clip = {name: read_films(tmp_path / name).sort_by("clip") for name in ("out", "whole")}
    assert by_clip["out"] == by_clip["whole"]
    assert schema.read_refused(tmp_path / "out") == [
        (1, 11, None, "path_missing"), (2, 3, february[1].films[0].clip, "missing_file"),
    ]  # fmt: skip
    untouched = {name for name in before if name.startswith("shard-")}
    assert len(untouched) == 6 and all(
        (tmp_path / "out" / name).read_bytes() == before[name] for name in untouched
    )
    assert [shard.name for shard in after.shards] == [schema.shard_name(number) for number in range(5)]
    assert [(entry.clips, entry.rejected_clips, entry.shards) for entry in after.tables] == [
        (10, 1, 3),
        (7, 1, 2),
    ]


def test_rows_that_the_folder_knows_are_counted_and_not_written_again(tmp_path, january, february):
    write_dataset(january, tmp_path / "out", SMALL)
    late = replace(january[0].films[0], clip="f" * 16, row=3)
    grown = replace(january[0], films=(*january[0].films, late))
    manifest = write_dataset([grown, *february], tmp_path / "out", APPEND)
    reasons = {row.clip: row.reason.split(":")[0] for row in schema.read_refused(tmp_path / "out")}
    assert reasons == {
        january[0].films[0].clip: "already_sharded",
        january[0].films[1].clip: "already_sharded",
        late.clip: "study_already_sharded",
    }
    assert (manifest.tables[1].clips, manifest.tables[1].rejected_clips) == (8, 3)


def test_a_table_that_was_appended_changes_nothing_the_second_time(tmp_path, january, february, monkeypatch):
    write_dataset(january, tmp_path / "out", SMALL)
    write_dataset(february, tmp_path / "out", APPEND)
    before = contents(tmp_path / "out")
    forbid_opening(monkeypatch)
    for studies, settings in (
        (february, APPEND),
        (january, APPEND),
        (january, SMALL),
        (february[::-1], SMALL),
    ):
        write_dataset(studies, tmp_path / "out", settings)
        assert contents(tmp_path / "out") == before


def test_a_corrected_split_of_one_of_two_tables_needs_no_new_tar(tmp_path, january, february, monkeypatch):
    write_dataset(january, tmp_path / "out", SMALL)
    before = write_dataset(february, tmp_path / "out", APPEND)
    forbid_opening(monkeypatch)
    after = write_dataset([replace(study, split="test") for study in january], tmp_path / "out", SMALL)
    assert after.fingerprint == before.fingerprint and after.counts.splits["test"].studies == 5
    assert after.counts.splits["train"].studies == 2 and after.tables == before.tables


def test_an_appended_table_that_contradicts_a_split_is_an_error_and_changes_nothing(
    tmp_path, january, february
):
    write_dataset(january, tmp_path / "out", SMALL)
    before = contents(tmp_path / "out")
    same_patient = [replace(february[0], patient=january[0].patient, split="test")]
    with pytest.raises(DataError, match="two splits .test/train: 1 patient"):
        write_dataset(same_patient, tmp_path / "out", APPEND)
    same_study = [replace(january[1], split="test"), *february]
    with pytest.raises(DataError, match="under another split .test/val."):
        write_dataset(same_study, tmp_path / "out", APPEND)
    assert contents(tmp_path / "out") == before


def test_a_drawn_split_follows_the_folder_for_the_patients_it_knows(tmp_path, january, february):
    write_dataset(january, tmp_path / "out", SMALL)
    drawn = APPEND.model_copy(update={"split_rule": "drawn 80/10/10"})
    returning = replace(february[0], patient=january[0].patient, split="test")
    write_dataset([returning, *february[1:]], tmp_path / "out", drawn)
    split_of = {row.study: row.split for row in schema.read_splits(tmp_path / "out")}
    assert split_of[returning.study] == january[0].split == "train"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"report_scope": "study"}, "--report_scope of the folder: side"),
        ({"label_columns": []}, "label columns of the folder"),
        ({"key_check": "other"}, "another secret"),
        ({"encoding": {"type": "lossless"}}, "encoding of the folder"),
    ],
)
def test_what_would_mix_two_kinds_of_films_is_refused(tmp_path, january, february, change, message):
    write_dataset(january, tmp_path / "out", SMALL)
    with pytest.raises(DataError, match=message):
        write_dataset(february, tmp_path / "out", type(SMALL)(**{**APPEND.model_dump(), **change}))


def test_splits_drawn_with_other_shares_are_refused(tmp_path, january, february):
    write_dataset(january, tmp_path / "out", SMALL.model_copy(update={"split_rule": "drawn 80/10/10"}))
    with pytest.raises(DataError, match="are drawn 80/10/10, this run's drawn 70/15/15"):
        write_dataset(february, tmp_path / "out", APPEND.model_copy(update={"split_rule": "drawn 70/15/15"}))


@pytest.mark.parametrize("stop_at", [0, 1, 5, 7])
def test_an_interrupted_append_leaves_the_old_data_set_whole_and_goes_on(
    tmp_path, january, february, monkeypatch, stop_at
):
    for name in ("out", "whole"):
        write_dataset(january, tmp_path / name, SMALL)
    write_dataset(february, tmp_path / "whole", APPEND)
    before = samples(tmp_path / "out")
    calls = []

    def interrupted(*film: object):
        calls.append(film)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        return original(*film)

    from deepcoro.data.decode import encode as original

    with monkeypatch.context() as patch:
        patch.setattr("deepcoro.data.decode.encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(february, tmp_path / "out", APPEND)
    assert samples(tmp_path / "out") == before
    write_dataset(february, tmp_path / "out", APPEND)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_made_anew_for_one_table_spares_those_of_the_others_also_when_it_is_interrupted(
    tmp_path, january, february, monkeypatch
):
    write_dataset(january, tmp_path / "out", SMALL)
    write_dataset(february, tmp_path / "out", APPEND)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "shard-000000.tar").write_bytes(b"damaged")
    again = SMALL.model_copy(update={"overwrite": True})
    with monkeypatch.context() as patch:
        forbid_opening(patch)
        with pytest.raises(AssertionError):
            write_dataset(january, tmp_path / "out", again)
    assert not (tmp_path / "out" / schema.MANIFEST).exists()
    write_dataset(january, tmp_path / "out", again)
    assert contents(tmp_path / "out") == before


def test_an_append_that_adds_nothing_or_meets_an_unfinished_folder_is_told(tmp_path, january, february):
    write_dataset(january, tmp_path / "out", SMALL)
    manifest = write_dataset(january[:2], tmp_path / "out", APPEND)
    assert (manifest.tables[1].clips, manifest.tables[1].rejected_clips) == (0, 4)
    assert manifest.label_columns == ["cto"]
    (tmp_path / "out" / schema.MANIFEST).unlink()
    with pytest.raises(DataError, match="finish it without --append"):
        write_dataset(february, tmp_path / "out", APPEND)


def test_labels_that_become_words_later_are_words_everywhere(tmp_path, january, february):
    def labelled(studies, value):
        return [
            replace(study, films=tuple(replace(film, labels=(("cto", value),)) for film in study.films))
            for study in studies
        ]

    write_dataset(labelled(january, 1.0), tmp_path / "out", SMALL)
    write_dataset(labelled(february, "partial"), tmp_path / "out", APPEND)
    films = read_films(tmp_path / "out")
    assert pyarrow.types.is_string(films["cto"].type)
    assert set(films["cto"].to_pylist()) == {"1", "partial"}
