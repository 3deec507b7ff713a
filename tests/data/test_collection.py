"""Several folders read as one, filtered; patients are looked at again."""

import logging
import pickle

import numpy as np
import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data import manifest as schema
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.data.shards import Shards
from tests.data.folder import moving_film, study_with, write_folder


def make_site(folder, prefix, patients, splits, label="cto"):
    """One study a patient, with 1, 2, 3, ... films; film n of a study has label n."""
    studies = []
    for number, patient in enumerate(patients):
        films = [moving_film(clip, num_frames=4 + clip) for clip in range(number + 1)]
        record, payloads = study_with(f"{prefix}{number}", films, schema.Encoding(), patient)
        clips = [
            clip.model_copy(update={"labels": {label: float(place) if place else None}})
            for place, clip in enumerate(record.clips)
        ]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    return write_folder(folder, studies, splits={f"{prefix}{n}": split for n, split in enumerate(splits)})


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    root = tmp_path_factory.mktemp("sites")
    return {
        "north": make_site(root / "north", "n", ["a", "b", "c"], ["train", "val", "train"]),
        "south": make_site(root / "south", "s", ["d", "e"], ["train", "test"], label="stent"),
    }


def collect(sites, **options):
    return Collection({name: Shards.open(folder) for name, folder in sites.items()}, **options)


def test_several_folders_read_as_each_does_alone(sites):
    collection = collect(sites)
    assert [key.decode() for key in collection.studies.key] == ["n0", "n1", "n2", "s0", "s1"]
    row = 0
    for folder in sites.values():
        shards = Shards.open(folder)
        for own in range(len(shards.studies)):
            assert collection.study(row) == shards.study(own)
            assert collection.shard_of(row) == f"{shards.folder.name}/{shards.shard_of(own)}"
            for clip in range(len(shards.study(own).clips)):
                assert collection.read_clip(row, clip) == shards.read_clip(own, clip)
            row += 1
    assert collection.source_of_study(np.arange(5)).tolist() == [0, 0, 0, 1, 1]
    units = collection.units("train", False, 1)
    assert [units.name(unit) for unit in range(len(units))] == [
        *("n0.000", "n2.000", "n2.001", "n2.002", "s0.000"),
    ]
    assert units.shard.tolist() == [0, 1, 1, 1, 2], "shards are numbered through"
    assert collection.name == "north+south" and collection.splits == ["train", "val", "test"]
    assert pickle.loads(pickle.dumps(collection)).study(3) == collection.study(3)


def test_columns_are_those_of_all_folders_and_null_where_one_has_none(sites):
    columns = collect(sites).films.read(["clip", "cto", "stent", "source", "split", "num_frames"])
    assert columns["cto"].to_pylist() == [None, None, 1.0, None, 1.0, 2.0, None, None, None]
    assert columns["stent"].to_pylist() == [None] * 8 + [1.0]
    assert columns["source"].to_pylist() == ["north"] * 6 + ["south"] * 3
    assert columns["split"].to_pylist() == ["train"] + ["val"] * 2 + ["train"] * 4 + ["test"] * 2
    assert columns["num_frames"].to_pylist() == [4, 4, 5, 4, 5, 6, 4, 4, 5]
    assert columns["clip"].to_pylist()[-1] == "s1-film1"


def test_a_filter_keeps_the_passing_films_of_a_study_and_says_what_it_kept(sites, caplog):
    caplog.set_level(logging.INFO)
    collection = collect(sites, where="cto >= 1 or source == 'south'")
    clips = collection.units("train", False, 1)
    assert [clips.name(unit) for unit in range(len(clips))] == ["n2.001", "n2.002", "s0.000"]
    studies = collection.units("train", True, 4)
    assert [studies.name(unit) for unit in range(len(studies))] == ["n2", "s0"]
    assert studies.num_clips.tolist() == [2, 1]
    assert studies.shown_clips(0, None) == (1, 2)
    assert studies.shown_clips(0, np.random.default_rng(0)) == (1, 2)
    one = collection.units("train", True, 1)
    assert {one.shown_clips(0, np.random.default_rng(seed)) for seed in range(20)} == {(1,), (2,)}
    assert "data.where keeps 3 of 5 films of split train" in caplog.text
    assert "data.where drops 3 films whose 'cto >= 1' is not known" in caplog.text
    assert collection.record()["splits"]["train"] == {"studies": 2, "films": 3, "dropped": 2}


def test_a_filter_that_keeps_nothing_of_a_split_and_an_unknown_column_are_errors(sites):
    collection = collect(sites, where="cto == 2")
    assert collection.splits == ["train"]
    with pytest.raises(DataError, match="data.where keeps no film of split 'val'"):
        collection.units("val", True, 2)
    with pytest.raises(ConfigError, match="no column 'num_frame'; did you mean 'num_frames'"):
        collect(sites, where="num_frame > 1")


def test_pixel_statistics_are_those_of_all_training_pixels(sites, tmp_path):
    """The oracle lays the pixels of all training films together."""
    copies = {}
    for name, statistics in (("north", (50.0, 10.0)), ("south", (90.0, 30.0))):
        copies[name] = tmp_path / name
        copies[name].mkdir()
        for file in sites[name].iterdir():
            (copies[name] / file.name).write_bytes(file.read_bytes())
        mean, std = statistics
        manifest = schema.read_manifest(sites[name]).model_copy(update={"pixel_mean": mean, "pixel_std": std})
        schema.write_block(copies[name] / schema.MANIFEST, manifest)
    # Training frames: north 4 + (4 + 5 + 6), south 4; all of one size.
    values = np.concatenate([np.tile([40.0, 60.0], 19), np.tile([60.0, 120.0], 4)])
    assert collect(copies).pixel_statistics() == pytest.approx((values.mean(), values.std()))
    assert collect({"north": copies["north"]}).pixel_statistics() == (50.0, 10.0)


def test_a_patient_in_two_splits_is_an_error_that_names_the_splits_and_no_patient(tmp_path, sites):
    folder = make_site(tmp_path / "site", "x", ["q", "q", "r", "r"], ["train", "test", "val", "train"])
    with pytest.raises(
        DataError, match="train and val share 1, train and test share 1 of 2 patients"
    ) as error:
        collect({"site": folder})
    assert not {"'q'", "'r'", "x0"} & set(str(error.value).split())
    other = make_site(tmp_path / "other", "y", ["a"], ["test"])
    with pytest.raises(DataError, match="train and test share 1 of"):
        collect({"north": sites["north"], "other": other})


def test_a_table_can_make_and_unmake_a_patient_of_two_splits(tmp_path, sites):
    folder = make_site(tmp_path / "site", "x", ["q", "q"], ["train", "test"])
    table = tmp_path / "splits.csv"
    table.write_text("study,Split\nx1,train\n")
    assert collect({"site": folder}, tables=[table]).splits == ["train"]
    table.write_text("patient,Split\na,val\n")
    assert collect({"north": sites["north"]}, tables=[table]).splits == ["train", "val"]
    table.write_text("study,Split\nn0,test\n")
    twin = make_site(tmp_path / "twin", "m", ["a"], ["train"])
    with pytest.raises(DataError, match="train and test share 1"):
        collect({"north": sites["north"], "twin": twin}, tables=[table])


def test_a_split_is_verified_when_one_folder_names_every_patient(tmp_path, sites, caplog):
    assert collect({"north": sites["north"]}).patient_split == "verified"
    assert collect(sites).patient_split == "unverifiable", "two sources may be keyed with two secrets"
    for secrets, expected in ((("one", "one"), "verified"), (("one", "two"), "unverifiable")):
        keyed = {name: Shards.open(folder) for name, folder in sites.items()}
        for shards, secret in zip(keyed.values(), secrets, strict=True):
            shards.manifest = shards.manifest.model_copy(update={"key_check": secret})
        assert Collection(keyed).patient_split == expected
    unnamed = make_site(tmp_path / "site", "x", ["q", None], ["train", "test"])
    assert collect({"site": unnamed}).patient_split == "unverifiable"
    assert "1 of 2 studies name no patient" in caplog.text


def test_a_study_in_two_sources_is_refused(sites):
    with pytest.raises(DataError, match="same study twice"):
        collect({"one": sites["north"], "two": sites["north"]})


def test_the_fingerprint_covers_every_source_in_order_and_not_what_they_are_called(sites):
    north, south = sites.values()
    one = collect({"a": north, "b": south}).fingerprint
    assert one == collect({"x": north, "y": south}).fingerprint
    assert one != collect({"a": south, "b": north}).fingerprint
    assert one != collect({"a": north}).fingerprint == Shards.open(north).fingerprint


def test_splits_that_disagree_with_the_manifest_are_an_error_and_corrected_ones_a_warning(
    sites, tmp_path, caplog
):
    for file in sites["north"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = schema.read_manifest(tmp_path)
    assert manifest.counts.splits["train"] == schema.SplitCounts(studies=2, clips=4, patients=2)
    counts = manifest.counts.model_copy(
        update={"splits": manifest.counts.splits | {"val": schema.SplitCounts(studies=1, clips=3)}}
    )
    schema.write_block(tmp_path / schema.MANIFEST, manifest.model_copy(update={"counts": counts}))
    with pytest.raises(DataError, match="split 'val' has 2 films, the manifest counts 3"):
        collect({"north": tmp_path})
    schema.write_splits(tmp_path, [schema.SplitRow(f"n{number}", None, "train") for number in range(3)])
    assert collect({"north": tmp_path}).splits == ["train"]
    assert "splits.csv was changed after sharding" in caplog.text


def test_a_folder_is_opened_as_the_config_names_it(sites):
    data = Data(sources={name: {"shards": folder} for name, folder in sites.items()}, where="num_frames > 4")
    assert Collection.open(data).units("train", False, 1).num_clips.tolist() == [2, 2]
    assert Collection.open(Data(shards=sites["north"])).name == "north"
    with pytest.raises(ConfigError, match="data.shards is not set"):
        Collection.open(Data())


def test_a_film_table_that_is_not_the_one_of_the_manifest_is_refused(sites, tmp_path):
    for file in sites["north"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "films.parquet").write_bytes((sites["south"] / "films.parquet").read_bytes())
    with pytest.raises(DataError, match="films.parquet differs from the manifest's digest"):
        collect({"north": tmp_path}, where="num_frames > 1")
