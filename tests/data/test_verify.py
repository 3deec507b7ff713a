"""A folder is read again to the last byte, and what is damaged is named."""

import csv

import pytest

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import FILMS, read_films, write_films
from deepcoro.data.manifest import Encoding
from deepcoro.data.verify import DAMAGED, verify_folder
from deepcoro.data.writer import write_dataset
from tests.data.studies import SMALL, contents, make_studies


@pytest.fixture(params=["jpeg", "lossless"])
def folder(tmp_path, request):
    settings = SMALL.model_copy(update={"encoding": Encoding(type=request.param)})
    write_dataset(make_studies(tmp_path / "films"), tmp_path / "out", settings)
    return tmp_path / "out"


def overwrite(folder, shard: str, offset: int, payload: bytes) -> None:
    with (folder / shard).open("r+b") as file:
        file.seek(offset)
        file.write(payload)


def test_a_whole_folder_has_no_damage_and_is_left_as_it_is(folder):
    before = contents(folder)
    read = []
    assert verify_folder(folder, on_progress=read.append) == [] == verify_folder(folder, workers=2)
    assert read[-1] == 10 and contents(folder) == before


def test_a_flipped_byte_in_any_film_names_that_film_and_no_other(folder):
    manifest = schema.read_manifest(folder)
    clips = read_films(folder)["clip"].to_pylist()
    shard = manifest.shards[1]
    index = schema.read_index(folder, shard)
    place = index.clips.offset[2] + index.clips.size[2] // 2
    byte = (folder / shard.name).read_bytes()[place]
    overwrite(folder, shard.name, place, bytes([byte ^ 1]))
    damages = verify_folder(folder)
    assert [(each.shard, each.clip, each.reason) for each in damages] == [
        (shard.name, "", "differs from the manifest's digest"),
        (shard.name, clips[4 + 2], "fails its checksum"),
    ]
    with (folder / DAMAGED).open(newline="") as file:
        assert [tuple(line) for line in csv.reader(file)] == [("shard", "study", "clip", "reason"), *damages]
    overwrite(folder, shard.name, place, bytes([byte]))
    assert verify_folder(folder) == [] and not (folder / DAMAGED).exists()


def test_a_damaged_shard_is_made_anew_by_the_command_that_made_it_and_no_other_is(tmp_path):
    studies = make_studies(tmp_path / "films")
    write_dataset(studies, tmp_path / "out", SMALL)
    before = contents(tmp_path / "out")
    overwrite(tmp_path / "out", "shard-000001.tar", 2000, b"damage")
    assert verify_folder(tmp_path / "out")
    (tmp_path / "out" / "shard-000000.tar").touch()
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    with pytest.raises(DataError, match="are damaged.*--overwrite"):
        write_dataset(studies, tmp_path / "out", SMALL)
    write_dataset(studies, tmp_path / "out", SMALL.model_copy(update={"overwrite": True}))
    changed = {
        name for name, stamp in stamps.items() if (tmp_path / "out" / name).stat().st_mtime_ns != stamp
    }
    assert changed == {"shard-000001.tar"} and verify_folder(tmp_path / "out") == []
    assert contents(tmp_path / "out") == before


def test_a_frame_that_does_not_decode_is_found_even_when_its_checksum_is_right(folder):
    manifest = schema.read_manifest(folder)
    shard = manifest.shards[0]
    index = schema.read_index(folder, shard)
    overwrite(folder, shard.name, index.clips.offset[0], b"\0" * index.clips.size[0])
    payload = b"\0" * index.clips.size[0]
    crc = [schema_crc(payload), *index.clips.crc32[1:]]
    index = index.model_copy(update={"clips": index.clips.model_copy(update={"crc32": crc})})
    digest = schema.write_block(folder / schema.index_name(shard.name), index)
    entry = shard.model_copy(
        update={"index_sha256": digest, "sha256": schema.sha256((folder / shard.name).read_bytes())}
    )
    shards = [entry, *manifest.shards[1:]]
    schema.write_block(folder / schema.MANIFEST, manifest.model_copy(update={"shards": shards}))
    (damage,) = verify_folder(folder)
    assert damage.reason == "frame 0 cannot be decoded"


def schema_crc(payload: bytes) -> int:
    import zlib

    return zlib.crc32(payload)


def test_a_cut_a_missing_and_a_padded_shard_are_told_and_the_others_still_read(folder):
    first, second, third = schema.read_manifest(folder).shards
    tar = folder / first.name
    tar.write_bytes(tar.read_bytes()[:2000])
    (folder / second.name).unlink()
    (folder / third.name).write_bytes((folder / third.name).read_bytes() + b"\0" * 512)
    damages = verify_folder(folder)
    by_shard = {
        shard.name: [each.reason for each in damages if each.shard == shard.name]
        for shard in (first, second, third)
    }
    assert by_shard[first.name][0].startswith("has 2000 of ") and len(by_shard[first.name]) > 1
    assert by_shard[second.name] == ["cannot be read: No such file or directory"]
    assert by_shard[third.name] == [f"has {third.bytes + 512} of {third.bytes} bytes"]


def test_tables_that_disagree_with_the_shards_are_told(folder):
    table = read_films(folder)
    write_films(folder, table.take(list(range(9, -1, -1))))
    assert {(each.shard, each.reason[:7]) for each in verify_folder(folder)} == {
        (FILMS, "differs"),
        (FILMS, "does no"),
    }
    write_films(folder, table)
    splits = schema.read_splits(folder)
    schema.write_splits(folder, [*splits, splits[0]._replace(study="f" * 16)])
    (damage,) = verify_folder(folder)
    assert (damage.shard, damage.reason) == (schema.SPLITS, "lists 1 studies that no shard holds")


def test_a_folder_without_manifest_cannot_be_verified(tmp_path):
    with pytest.raises(DataError, match="holds no manifest"):
        verify_folder(tmp_path)
