"""Studies in, verified tars out."""

import logging
import re
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import webdataset

from deepcoro.config import ConfigError, DataError
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import FILMS, SCHEMA, Measured, film_table, read_films
from deepcoro.data.manifest import Encoding
from deepcoro.data.sharding import Settings, plan_shards
from deepcoro.data.summary import SKIPPED
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import FilmSource, Rejection, StudySource
from deepcoro.sample import ClipRecord, StudyRecord
from tests.data.studies import (
    SMALL,
    archive_members,
    contents,
    encoded,
    forbid_opening,
    make_studies,
    records_of,
)
from tests.ingest import films
from tests.ingest.films import moving_bar, write_dicom


@pytest.fixture
def studies(tmp_path) -> list[StudySource]:
    return make_studies(tmp_path / "films")


def test_webdataset_finds_every_study_with_its_films(tmp_path, studies):
    manifest = write_dataset(studies, tmp_path / "out", SMALL)
    urls = [str(tmp_path / "out" / shard.name) for shard in manifest.shards]
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False)}
    assert set(samples) == {study.study for study in studies}
    for study in studies:
        sample = samples[study.study]
        record = StudyRecord.model_validate_json(sample["json"])
        assert [clip.clip for clip in record.clips] == [film.clip for film in study.films]
        for film, clip in zip(study.films, record.clips, strict=True):
            payload, offsets = encoded(np.load(film.path), Encoding())
            assert sample[clip.member] == payload and clip.frame_offsets == offsets


def test_the_index_leads_to_every_payload(tmp_path, studies):
    manifest = write_dataset(studies, tmp_path / "out", SMALL)
    for shard in manifest.shards:
        tar = (tmp_path / "out" / shard.name).read_bytes()
        assert (len(tar), schema.sha256(tar)) == (shard.bytes, shard.sha256)
        index = schema.read_index(tmp_path / "out", shard)
        payloads = archive_members(tar)
        named = [f"{key}.json" for key in index.studies.key]
        named_clips = [
            f"{index.studies.key[row]}.{clip:03d}.mjpg"
            for row, clip in zip(index.clips.study, index.clips.clip, strict=True)
        ]
        assert set(payloads) == {*named, *named_clips}
        for names, columns in ((named, index.studies), (named_clips, index.clips)):
            for name, offset, size, crc in zip(
                names, columns.offset, columns.size, columns.crc32, strict=True
            ):
                assert tar[offset : offset + size] == payloads[name] and zlib.crc32(payloads[name]) == crc


def test_a_record_holds_what_the_table_and_the_film_told(tmp_path, studies):
    write_dataset(studies[:1], tmp_path / "out", SMALL)
    record = StudyRecord.model_validate_json(first_json(tmp_path / "out"))
    assert record.patient == studies[0].patient
    assert [(report.scope, report.side, report.text) for report in record.reports] == [
        ("side", "left", "Text 0.")
    ]
    clip = record.clips[0]
    assert (clip.view, clip.side, clip.labels) == ("LAO_CAU", "left", {"cto": None})
    assert (clip.height, clip.width, clip.channels, clip.num_frames, clip.member) == (
        24,
        32,
        1,
        4,
        "000.mjpg",
    )
    assert (clip.frame_rate_fps, clip.frame_rate_source) == (None, None)


def first_json(folder: Path) -> bytes:
    with tarfile.open(folder / "shard-000000.tar") as archive:
        return archive.extractfile(archive.getmembers()[0]).read()


@pytest.mark.parametrize(("scope", "expected"), [("clip", 2), ("side", 1), ("study", 1)])
def test_texts_are_kept_at_their_scope(tmp_path, studies, scope, expected):
    settings = SMALL.model_copy(update={"report_scope": scope})
    write_dataset(studies[:1], tmp_path / "out", settings)
    record = StudyRecord.model_validate_json(first_json(tmp_path / "out"))
    assert len(record.reports) == expected and {report.scope for report in record.reports} == {scope}
    assert record.report_of((0,)) == record.report_of((0, 1)) == "Text 0."


def test_the_manifest_counts_and_measures(tmp_path, studies):
    manifest = write_dataset(studies, tmp_path / "out", SMALL, [Rejection(11, None, "path_missing")])
    counts = manifest.counts
    assert (counts.studies, counts.clips, counts.frames, counts.patients, counts.rejected_clips) == (
        5,
        10,
        40,
        5,
        1,
    )
    assert {name: split.model_dump() for name, split in counts.splits.items()} == {
        "train": {"studies": 3, "clips": 6, "patients": 3},
        "val": {"studies": 2, "clips": 4, "patients": 2},
    }
    pixels = np.concatenate([np.load(f.path) for s in studies if s.split == "train" for f in s.films]).astype(
        float
    )
    assert manifest.pixel_mean == pytest.approx(pixels.mean(), abs=1e-3)
    assert manifest.pixel_std == pytest.approx(pixels.std(), abs=1e-3)
    assert manifest.patient_split == "verified" and manifest == schema.read_manifest(tmp_path / "out")
    assert manifest.fingerprint == schema.fingerprint(manifest.shards)
    splits = {row.study: row.split for row in schema.read_splits(tmp_path / "out")}
    assert splits == {study.study: study.split for study in studies}


def test_the_table_of_films_follows_the_indexes_and_is_that_of_the_manifest(tmp_path, studies):
    studies[1].films[0].path.unlink()
    manifest = write_dataset(studies, tmp_path / "out", SMALL)
    table = read_films(tmp_path / "out")
    records = [record for shard in manifest.shards for record in records_of(tmp_path / "out" / shard.name)]
    fixed = [name for name in table.column_names if name not in Measured._fields]
    assert table.select(fixed) == film_table(records, ["cto"]).select(fixed) and table.num_rows == 9
    pixels = np.load(studies[0].films[1].path).astype(int)
    assert table["pixel_sum"][1].as_py() == pixels.sum()
    assert table["pixel_square_sum"][1].as_py() == (pixels**2).sum()
    indexed = [
        (index.studies.key[study], clip)
        for shard in manifest.shards
        for index in [schema.read_index(tmp_path / "out", shard)]
        for study, clip in zip(index.clips.study, index.clips.clip, strict=True)
    ]
    assert [study for study, _ in indexed] == table["study"].to_pylist()
    assert manifest.films_sha256 == schema.sha256((tmp_path / "out" / FILMS).read_bytes())


def test_a_label_with_the_name_of_a_column_is_told_before_a_film_is_opened(tmp_path, studies, monkeypatch):
    forbid_opening(monkeypatch)
    with pytest.raises(ConfigError, match="'height'"):
        write_dataset(studies, tmp_path / "out", SMALL.model_copy(update={"label_columns": ["height"]}))


def test_a_study_is_never_split_and_a_tar_holds_no_more_than_asked(tmp_path):
    studies = make_studies(tmp_path / "films", num_studies=6, films_each=3)
    plans = plan_shards(studies, SMALL.model_copy(update={"clips_per_shard": 7}))
    assert [plan.num_films for plan in plans] == [6, 6, 6]
    assert len(plan_shards(studies, SMALL.model_copy(update={"clips_per_shard": 1}))) == 6


def test_the_order_of_the_table_and_the_number_of_processes_change_no_byte(tmp_path, studies):
    write_dataset(studies, tmp_path / "one", SMALL)
    write_dataset(studies[::-1], tmp_path / "two", SMALL.model_copy(update={"workers": 2}))
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two and len(one) == 4 + 3 * 4 + 1  # tables, three shards, the lock


def test_refused_films_are_counted_once_and_leave_the_rest_of_their_study(tmp_path, studies, caplog):
    studies[0].films[0].path.write_bytes(b"nothing")
    for film in studies[3].films:
        film.path.unlink()
    manifest = write_dataset(studies, tmp_path / "out", SMALL)
    assert (manifest.counts.studies, manifest.counts.clips, manifest.counts.rejected_clips) == (4, 7, 3)
    rejected = schema.read_rejected(tmp_path / "out")
    assert [(row, clip) for row, clip, _ in rejected] == [
        (film.row, film.clip) for film in (studies[0].films[0], *studies[3].films)
    ]
    assert studies[3].study not in {row.study for row in schema.read_splits(tmp_path / "out")}
    record = StudyRecord.model_validate_json(first_json(tmp_path / "out"))
    assert [clip.clip for clip in record.clips] == [studies[0].films[1].clip]
    assert record.clips[0].member == "000.mjpg" and record.report_of((0,)) == "Text 0."


def test_a_shard_whose_films_are_all_refused_is_no_file(tmp_path, studies):
    for film in [film for study in studies[:2] for film in study.films]:
        film.path.unlink()
    manifest = write_dataset(studies, tmp_path / "out", SMALL)
    assert [shard.name for shard in manifest.shards] == ["shard-000001.tar", "shard-000002.tar"]
    assert not (tmp_path / "out" / "shard-000000.tar").exists()
    assert write_dataset(studies, tmp_path / "out", SMALL) == manifest


def test_nothing_usable_is_an_error_and_no_data_set(tmp_path, studies):
    for film in [film for study in studies for film in study.films]:
        film.path.unlink()
    with pytest.raises(DataError, match="no film could be used .10 x "):
        write_dataset(studies, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / schema.MANIFEST).exists()
    assert len(schema.read_rejected(tmp_path / "out")) == 10


def test_a_second_run_opens_no_film_and_changes_nothing(tmp_path, studies, monkeypatch):
    write_dataset(studies, tmp_path / "out", SMALL)
    before = contents(tmp_path / "out")
    forbid_opening(monkeypatch)
    write_dataset(studies, tmp_path / "out", SMALL)
    assert contents(tmp_path / "out") == before


def test_another_data_set_is_replaced_only_when_told_to(tmp_path, studies):
    write_dataset(studies, tmp_path / "out", SMALL)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match="--overwrite"):
        write_dataset(studies[:2], tmp_path / "out", SMALL)
    assert contents(tmp_path / "out") == before
    after = write_dataset(studies[:2], tmp_path / "out", SMALL.model_copy(update={"overwrite": True}))
    fresh = write_dataset(studies[:2], tmp_path / "fresh", SMALL)
    assert after == fresh.model_copy(update={"version": 2}), "no two data sets of a folder share a version"
    differ = contents(tmp_path / "out").items() ^ contents(tmp_path / "fresh").items()
    assert {name for name, _ in differ} == {schema.MANIFEST}


def test_a_replacement_that_was_interrupted_ends_with_the_version_that_it_would_have_had(
    tmp_path, studies, monkeypatch
):
    write_dataset(studies, tmp_path / "out", SMALL)
    others = make_studies(tmp_path / "others", 3, first=20)
    with monkeypatch.context() as patch:
        forbid_opening(patch)
        with pytest.raises(AssertionError):
            write_dataset(others, tmp_path / "out", SMALL.model_copy(update={"overwrite": True}))
    assert not (tmp_path / "out" / schema.MANIFEST).exists()
    assert write_dataset(others, tmp_path / "out", SMALL).version == 2
    assert write_dataset(others, tmp_path / "out", SMALL).version == 2


def test_a_corrected_split_needs_no_new_tar(tmp_path, studies, monkeypatch):
    before = write_dataset(studies, tmp_path / "out", SMALL)
    forbid_opening(monkeypatch)
    corrected = [replace(study, split="test") if study.split == "val" else study for study in studies]
    after = write_dataset(corrected, tmp_path / "out", SMALL)
    assert after.fingerprint == before.fingerprint and set(after.counts.splits) == {"train", "test"}


def test_a_changed_film_or_a_damaged_shard_is_noticed(tmp_path, studies):
    out = tmp_path / "out"
    write_dataset(studies, out, SMALL)
    whole = contents(out)
    (out / "shard-000001.tar").write_bytes(b"cut")
    write_dataset(studies, out, SMALL.model_copy(update={"overwrite": True}))
    assert contents(out) == whole
    np.save(studies[0].films[0].path, moving_bar())
    with pytest.raises(DataError, match="--overwrite"):
        write_dataset(studies, out, SMALL)


def test_a_patient_in_two_splits_is_an_error_that_names_the_splits_only(tmp_path, studies):
    crossing = [replace(study, patient="f" * 16) for study in studies]
    with pytest.raises(DataError, match="train/val: 1 patient") as caught:
        write_dataset(crossing, tmp_path / "out", SMALL)
    assert "ffff" not in str(caught.value)


def test_without_patients_the_manifest_says_unverifiable(tmp_path, studies):
    unnamed = [replace(studies[0], patient=None), *studies[1:]]
    assert write_dataset(unnamed, tmp_path / "out", SMALL).patient_split == "unverifiable"


def test_films_of_other_kinds_come_out_as_they_should(tmp_path, caplog):
    first = write_dicom(tmp_path / "b", moving_bar(), AcquisitionTime="090000", PositionerPrimaryAngle=-30, PositionerSecondaryAngle=0, NumberOfFrames=7)  # fmt: skip
    second = write_dicom(tmp_path / "a", 255 - moving_bar(), films.RLE, AcquisitionTime="080000")
    sources = (
        FilmSource(1, first, "1" * 16, frame_rate_fps=3.0),
        FilmSource(2, second, "2" * 16, view="SPIDER"),
    )
    with caplog.at_level(logging.WARNING):
        write_dataset([StudySource("a" * 16, "train", sources)], tmp_path / "out", Settings())
    earlier, later = StudyRecord.model_validate_json(first_json(tmp_path / "out")).clips
    assert (earlier.clip, earlier.view) == ("2" * 16, "SPIDER")
    assert (later.clip, later.view, later.primary_angle_deg) == ("1" * 16, "RAO", -30.0)
    assert later.frame_rate_fps == pytest.approx(15, abs=0.01) and later.frame_rate_source == "FrameTime"
    assert f"row 1, film {'1' * 16}: 6 frames could be decoded, its header says 7" in caplog.text


def test_lossless_members_say_so(tmp_path, studies):
    settings = Settings(encoding=Encoding(type="lossless"))
    manifest = write_dataset(studies[:1], tmp_path / "out", settings)
    record = StudyRecord.model_validate_json(first_json(tmp_path / "out"))
    assert [clip.member for clip in record.clips] == ["000.zst", "001.zst"]
    assert manifest.encoding.type == "lossless"


def test_progress_counts_every_film_once(tmp_path, studies):
    seen = []
    write_dataset(studies, tmp_path / "out", SMALL, on_progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 10
    write_dataset(studies, tmp_path / "out", SMALL, on_progress=seen.append)
    assert seen[-1] == 10


def test_the_stored_jpeg_is_close_to_the_film(tmp_path):
    film = np.linspace(0, 255, 64).astype(np.uint8)[None, None, :].repeat(64, 1).repeat(3, 0)
    payload, offsets = encoded(film, Encoding())
    decoded = simplejpeg.decode_jpeg(payload[offsets[1] : offsets[2]], "GRAY")[:, :, 0]
    assert np.abs(decoded.astype(int) - film[1]).max() <= 3


def test_the_readers_example_in_the_readme_reads_a_film(tmp_path, studies):
    write_dataset(studies, tmp_path / "out", SMALL)
    text = (Path(__file__).resolve().parents[2] / "shards" / "README.md").read_text()
    code = (
        text.split("```python\n")[1]
        .split("```")[0]
        .replace('Path("shards/mine")', f"Path({str(tmp_path / 'out')!r})")
    )
    scope: dict = {}
    exec(code, scope)
    payload, offsets = encoded(np.load(studies[0].films[0].path), Encoding())
    assert scope["first_frame"] == payload[: offsets[1]]


def test_the_readme_names_every_key_and_every_reason():
    root = Path(__file__).resolve().parents[2]
    text = (root / "shards" / "README.md").read_text()
    blocks = (
        schema.Manifest,
        schema.TableEntry,
        schema.Duplicates,
        schema.Counts,
        schema.ShardEntry,
        schema.Index,
        schema.ClipColumns,
        StudyRecord,
    )
    names = {name for block in blocks for name in block.model_fields} | set(ClipRecord.model_fields)
    names |= set(SCHEMA.names)
    sources = "".join(path.read_text() for path in (root / "deepcoro" / "ingest").glob("*.py"))
    reasons = set(re.findall(r"""(?:RejectedFilm\(\s*f?|Rejection\(number, \w+, f?)"([a-z_]+)""", sources))
    assert len(reasons) > 15
    skipped = text.split("The reasons ")[1].split(" are counted as *skipped*")[0]
    assert set(re.findall("`([a-z_]+)`", skipped)) == SKIPPED
    assert not {name for name in names | reasons if name not in text}
