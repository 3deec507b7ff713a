"""The tables beside the tars."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.manifest import Counts, Encoding, Index, Manifest, RefusedRow, ShardEntry, SplitRow

ENTRY = ShardEntry(
    name="shard-000000.tar", studies=1, clips=2, bytes=3, sha256="a" * 64, index_sha256="b" * 64
)


def make_manifest(**changes) -> Manifest:
    counts = Counts(studies=1, clips=2, frames=9, patients=1, rejected_clips=0, splits={})
    fields = {
        "encoding": Encoding(), "pixel_mean": 112.2, "pixel_std": 39.0, "patient_split": "verified",
        "label_columns": ["cto"], "split_rule": "given", "key_check": None, "tables": [], "duplicates": None, "counts": counts, "shards": [ENTRY], "splits_sha256": "c" * 64, "films_sha256": "d" * 64,
        "fingerprint": schema.fingerprint([ENTRY]),
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


def test_a_manifest_reads_back_equal(tmp_path):
    written = make_manifest()
    schema.write_block(tmp_path / schema.MANIFEST, written, indent=2)
    assert schema.read_manifest(tmp_path) == written


def test_a_folder_without_manifest_is_an_unfinished_one(tmp_path):
    with pytest.raises(DataError, match="interrupted"):
        schema.read_manifest(tmp_path)


def test_a_manifest_of_another_version_or_with_unknown_keys_is_refused(tmp_path):
    text = make_manifest().model_dump_json()
    for old, new in (('"schema_version":1', '"schema_version":2'), ('"pixel_mean"', '"mean"')):
        (tmp_path / schema.MANIFEST).write_text(text.replace(old, new))
        with pytest.raises(DataError, match="schema version 1"):
            schema.read_manifest(tmp_path)


def test_an_index_that_is_not_the_one_named_is_refused(tmp_path):
    digest = schema.write_block(tmp_path / "shard-000000.index.json", Index())
    entry = ENTRY.model_copy(update={"index_sha256": digest})
    assert schema.read_index(tmp_path, entry) == Index()
    with pytest.raises(DataError, match="differs from the manifest"):
        schema.read_index(tmp_path, ENTRY)
    with pytest.raises(DataError, match="missing"):
        schema.read_index(tmp_path, entry.model_copy(update={"name": "shard-000001.tar"}))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(schema.SPLIT_NAMES)), max_size=12))
def test_splits_read_back_sorted_by_study(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("splits")
    rows = [
        SplitRow(f"{number * 7919 % 65536:016x}", f"{number:016x}" if named else None, split)
        for number, (named, split) in enumerate(drawn)
    ]
    digest = schema.write_splits(folder, rows)
    assert schema.read_splits(folder) == sorted(rows)
    assert (
        digest
        == schema.sha256((folder / schema.SPLITS).read_bytes())
        == schema.write_splits(folder, rows[::-1])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study,split\na,train\n", "must have the columns"),
        ("study,patient,split\na,b,training\n", "split 'training'"),
        ("study,patient,split\na,b,train\na,b,train\n", "twice"),
        ("study,patient,split\na,b\n", "must have the columns"),
    ],
)
def test_a_split_table_that_was_edited_wrong_is_refused(tmp_path, text, message):
    (tmp_path / schema.SPLITS).write_text(text)
    with pytest.raises(DataError, match=message):
        schema.read_splits(tmp_path)


def test_rejections_read_back_in_the_order_of_tables_and_rows(tmp_path):
    rows = [
        RefusedRow(2, 1, None, "path_missing"),
        RefusedRow(1, 9, None, "path_missing"),
        RefusedRow(1, 2, "ab", 'odd, "reason"'),
    ]
    schema.write_rejected(tmp_path, rows)
    assert schema.read_refused(tmp_path) == rows[::-1]
    assert schema.read_rejected(tmp_path) == [tuple(row[1:]) for row in rows[::-1]]
    (tmp_path / schema.REJECTED).write_text("row,clip,reason\n")
    with pytest.raises(DataError, match="table,row,clip,reason"):
        schema.read_refused(tmp_path)
