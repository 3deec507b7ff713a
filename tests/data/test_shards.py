import pickle
from functools import partial

import numpy as np
import pytest

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.shards import Shards
from deepcoro.data.writer import Settings, write_dataset
from deepcoro.fields import video
from deepcoro.ingest.film import FilmSource, StudySource
from tests.data.folder import moving_film, study_with, write_folder

ENCODING = schema.Encoding()
CLIPS = [1, 3, 2, 4, 1]
SPLITS = {"study0": "train", "study1": "val", "study2": "train", "study3": "train", "study4": "val"}


@pytest.fixture
def folder(tmp_path):
    studies = [
        study_with(
            f"study{number}",
            [moving_film(clip) for clip in range(clips)],
            ENCODING,
            patient=f"patient{number // 2}",
        )
        for number, clips in enumerate(CLIPS)
    ]
    return write_folder(tmp_path / "shards", studies, splits=SPLITS)


def test_units_of_a_split_are_its_clips_or_its_studies_in_stored_order(folder):
    shards = Shards.open(folder)
    clips = shards.units("train", multi_video=False, num_videos=4)
    assert [clips.name(unit) for unit in range(len(clips))] == [
        "study0.000",
        "study2.000",
        "study2.001",
        *(f"study3.{clip:03d}" for clip in range(4)),
    ]
    assert clips.num_videos == 1
    assert clips.shard.tolist() == [0, 1, 1, 1, 1, 1, 1]
    studies = shards.units("val", multi_video=True, num_videos=4)
    assert [studies.name(unit) for unit in range(len(studies))] == ["study1", "study4"]
    assert studies.clip.tolist() == [-1, -1]
    assert studies.num_videos == 4
    assert studies.num_clips.tolist() == [3, 1]
    assert studies.patients == ["patient0", "patient2"]
    assert clips.patient(1) == "patient1"
    assert shards.splits == ["train", "val"]
    assert (shards.num_studies("train"), shards.num_studies("val"), shards.num_studies("test")) == (3, 2, 0)


def test_every_member_read_by_index_is_the_one_that_was_written(folder):
    shards = Shards.open(folder)
    units = shards.units("train", multi_video=False, num_videos=1)
    for unit in range(len(units)):
        row, clip = int(units.study_row[unit]), int(units.clip[unit])
        record = shards.study(row)
        assert f"{record.study}.{clip:03d}" == units.name(unit)
        _, payloads = study_with("any", [moving_film(clip)], ENCODING)
        assert shards.read_clip(row, clip) == payloads[0]
    with pytest.raises(IndexError, match="clip 1 was asked for"):
        shards.read_clip(0, 1)


def test_a_patient_that_the_source_does_not_name_is_none_and_not_an_empty_id(tmp_path):
    folder = write_folder(tmp_path, [study_with("s", [moving_film(0)], ENCODING)])
    units = Shards.open(folder).units("train", False, 1)
    assert units.patient(0) is None
    assert units.patients == []


def test_an_empty_or_unknown_split_is_refused_with_the_splits_there_are(folder):
    shards = Shards.open(folder)
    with pytest.raises(DataError, match=r"split 'test' is empty; splits of this folder: \['train', 'val'\]"):
        shards.units("test", False, 1)
    with pytest.raises(DataError, match="'valid' is no split"):
        shards.units("valid", False, 1)


def test_a_corrected_table_of_splits_counts_and_changes_the_fingerprint(folder):
    before = Shards.open(folder)
    rows = [schema.SplitRow(key, None, "test" if key == "study3" else split) for key, split in SPLITS.items()]
    schema.write_splits(folder, rows)
    after = Shards.open(folder)
    assert len(after.units("test", False, 1)) == 4
    assert after.fingerprint != before.fingerprint
    assert Shards.open(folder).fingerprint == after.fingerprint


def test_a_study_taken_out_of_the_table_of_splits_is_not_read(folder, caplog):
    schema.write_splits(
        folder, [schema.SplitRow(key, None, split) for key, split in SPLITS.items() if key != "study3"]
    )
    shards = Shards.open(folder)
    assert [shards.units("train", True, 1).name(unit) for unit in range(2)] == ["study0", "study2"]
    assert len(shards.units("train", True, 1)) == 2
    assert "1 studies are in no split" in caplog.text


def test_a_table_of_splits_with_a_study_that_no_shard_holds_is_refused(folder):
    schema.write_splits(
        folder, [schema.SplitRow(key, None, split) for key, split in {**SPLITS, "zz": "val"}.items()]
    )
    with pytest.raises(DataError, match="lists study zz, which no shard holds"):
        Shards.open(folder)


@pytest.mark.parametrize("victim", ["manifest.json", "splits.csv", "shard-000001.index.json"])
def test_a_folder_without_one_of_its_tables_is_refused_by_name(folder, victim):
    (folder / victim).unlink()
    with pytest.raises(DataError, match=victim):
        Shards.open(folder)


def test_an_index_that_is_not_the_manifests_is_refused(folder):
    index = folder / "shard-000000.index.json"
    index.write_text(index.read_text().replace('"clip":[0', '"clip":[1'))
    with pytest.raises(DataError, match="shard-000000.index.json differs"):
        Shards.open(folder)


def _members_in_error(shards):
    """Which studies and clips cannot be read, with the messages."""
    failed = {}
    for row, clips in enumerate(CLIPS):
        try:
            shards.study(row)
        except DataError as error:
            failed[f"study{row}"] = str(error)
        for clip in range(clips):
            try:
                shards.read_clip(row, clip)
            except DataError as error:
                failed[f"study{row}.{clip}"] = str(error)
    return failed


def test_a_vanished_shard_is_told_at_opening_and_its_members_are_named(folder, caplog):
    (folder / "shard-000001.tar").unlink()
    shards = Shards.open(folder)
    assert "shard-000001.tar is missing" in caplog.text
    failed = _members_in_error(shards)
    assert set(failed) == {
        "study2",
        "study2.0",
        "study2.1",
        "study3",
        *(f"study3.{clip}" for clip in range(4)),
    }
    assert "shard-000001.tar: clip 1 of study study2 cannot be read" in failed["study2.1"]


def test_a_shard_truncated_anywhere_loses_members_by_name_and_never_gives_wrong_bytes(folder):
    tar = folder / "shard-000001.tar"
    whole = tar.read_bytes()
    intact = Shards.open(folder)
    expected = {clip: intact.read_clip(3, clip) for clip in range(4)}
    for length in range(0, len(whole), 512):
        tar.write_bytes(whole[:length])
        shards = Shards.open(folder)
        failed = _members_in_error(shards)
        assert all(name.startswith(("study2", "study3")) for name in failed)
        assert all("shard-000001.tar" in message and "truncated" in message for message in failed.values())
        for clip in range(4):
            assert f"study3.{clip}" in failed or shards.read_clip(3, clip) == expected[clip]


def test_one_flipped_bit_fails_the_checksum_of_that_member_alone(folder):
    tar = folder / "shard-000000.tar"
    payload = Shards.open(folder).read_clip(1, 1)
    damaged = bytearray(tar.read_bytes())
    shards = Shards.open(folder)
    place = shards._clips.place(int(shards.studies.first_clip[1]) + 1)
    assert bytes(damaged[place.offset : place.offset + place.size]) == payload
    damaged[place.offset + place.size // 2] ^= 4
    tar.write_bytes(damaged)
    failed = _members_in_error(Shards.open(folder))
    assert list(failed) == ["study1.1"]
    assert "shard-000000.tar: clip 1 of study study1 fails its checksum" in failed["study1.1"]


def test_a_record_that_belongs_to_another_study_is_refused(tmp_path):
    record, payloads = study_with("right", [moving_film(0)], ENCODING)
    folder = write_folder(tmp_path, [(record, payloads)])
    index = folder / "shard-000000.index.json"
    index.write_text(index.read_text().replace('"right"', '"wrong"'))
    manifest = schema.read_manifest(folder)
    shard = manifest.shards[0].model_copy(update={"index_sha256": schema.sha256(index.read_bytes())})
    schema.write_block(folder / schema.MANIFEST, manifest.model_copy(update={"shards": [shard]}))
    schema.write_splits(folder, [schema.SplitRow("wrong", None, "train")])
    with pytest.raises(DataError, match="is not the one that the index names"):
        Shards.open(folder).study(0)


def test_a_reader_travels_to_another_process_and_reads_there(folder):
    shards = Shards.open(folder)
    payload = shards.read_clip(3, 2)
    copy = pickle.loads(pickle.dumps(shards))
    assert copy.read_clip(3, 2) == payload
    assert copy.study(3) == shards.study(3)


def test_more_tars_than_may_be_open_at_once_are_all_read(tmp_path):
    studies = [study_with(f"s{number:03d}", [moving_film(number % 50)], ENCODING) for number in range(80)]
    shards = Shards.open(write_folder(tmp_path, studies, studies_per_shard=1))
    for _ in range(2):
        for row in range(80):
            assert shards.read_clip(row, 0) == studies[row][1][0]
    assert len(shards.folder._open) <= 32


def test_columns_are_arrays_and_not_objects_of_each_clip(folder):
    shards = Shards.open(folder)
    for column in (shards._clips.shard, shards._clips.offset, shards._clips.size, shards._clips.crc32):
        assert isinstance(column, np.ndarray) and column.dtype.kind in "iu"
    assert sum(column.itemsize for column in vars(shards._clips).values()) <= 24


@pytest.mark.parametrize(
    "encoding", [ENCODING, schema.Encoding(type="lossless"), schema.Encoding(short_side_px=16)]
)
def test_what_the_writer_lays_down_is_read_back(tmp_path, encoding):
    films = {}
    for number in range(5):
        films[number] = moving_film(number, size=(32, 48))[..., 0]
        np.save(tmp_path / f"{number}.npy", films[number])
    studies = [
        StudySource(
            study=f"{study:016d}",
            split="train" if study < 2 else "val",
            films=tuple(
                FilmSource(clip + 1, tmp_path / f"{clip}.npy", f"{clip:016x}", text="a text")
                for clip in clips
            ),
            patient=f"p{study}",
        )
        for study, clips in enumerate([(0, 1), (2,), (3, 4)])
    ]
    write_dataset(studies, tmp_path / "shards", Settings(encoding=encoding, clips_per_shard=2))
    shards = Shards.open(tmp_path / "shards")
    field = video.Config(frames=6, size_px=48).build()
    shown = []
    for split in shards.splits:
        units = shards.units(split, False, 1)
        for unit in range(len(units)):
            row, clip = int(units.study_row[unit]), int(units.clip[unit])
            record = shards.study(row)
            [result] = field.decode(record, (clip,), partial(shards.read_clip, row), None)
            film = films[int(record.clips[clip].clip, 16)]
            assert np.abs(result[0, :, 8:40].numpy().astype(int).mean((1, 2)) - film.mean((1, 2))).max() < 1
            shown.append((split, units.patient(unit), units.name(unit)))
    assert [(split, patient) for split, patient, _ in shown] == [("train", "p0")] * 2 + [("train", "p1")] + [
        ("val", "p2")
    ] * 2
    assert len({name for *_, name in shown}) == 5
