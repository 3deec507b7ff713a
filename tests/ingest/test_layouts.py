"""Public data sets as they are published, through the whole command: splits, patients and labels as their authors gave them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data import manifest as schema
from deepcoro.data.shards import Shards
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.labels import read_rules
from deepcoro.ingest.layouts import LAYOUTS, layout_named
from tests.ingest import public_data
from tests.ingest.public_data import write_csv

TOOL = Path(__file__).resolve().parents[2] / "tools" / "shard_dataset.py"
KEY = b"0123456789abcdef0123456789abcdef"
IDENTITY = Identity(KEY)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in this process; gives exit code, stdout and stderr."""
    (tmp_path / "id.key").write_bytes(KEY)
    spec = importlib.util.spec_from_file_location("shard_dataset", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*words: object):
        own = ("--key_file", tmp_path / "id.key", "--workers", "1")
        monkeypatch.setattr(sys, "argv", ["shard_dataset", *map(str, (*words, *own))])
        return tool.main(), *capsys.readouterr()

    return run


@pytest.fixture
def shard(tmp_path, run):
    """Shards a layout; gives what lies in the shards by original name of the film, the splits by study, and the output."""

    def shard(layout: str, source: Path, *words: str):
        output = tmp_path / f"shards-{source.name}"
        code, out, err = run("--layout", layout, "--source", source, "--output", output, *words)
        assert code == 0, err
        return _films(output, LAYOUTS[layout].read(source)), _splits(output), out

    return shard


def _films(output: Path, table) -> dict[str, tuple]:
    """Name of the film in the layout -> (study, its clip record); films that were refused are absent."""
    shards = Shards.open(output)
    stored = {}
    for row in range(shards.manifest.counts.studies):
        study = shards.study(row)
        for number, clip in enumerate(study.clips):
            assert len(shards.read_clip(row, number)) == clip.frame_offsets[-1]
            stored[clip.clip] = (study, clip)
    names = {IDENTITY.keyed("clip", row["FileName"]): row["FileName"] for row in table.rows}
    assert stored.keys() <= names.keys()
    return {names[clip]: found for clip, found in stored.items()}


def _splits(output: Path) -> dict[str, str]:
    return {row.study: row.split for row in schema.read_splits(output)}


def split_of(films, splits, name):
    return splits[films[name][0].study]


def labels_of(films, name):
    return films[name][1].labels


def test_echonet_dynamic(tmp_path, shard):
    films, splits, out = shard("echonet_dynamic", public_data.echonet_dynamic(tmp_path / "echonet"))
    names = [f"Videos/0X{letter}.avi" for letter in "ABCD"]
    assert sorted(films) == names
    assert [split_of(films, splits, name) for name in names] == ["train", "train", "val", "test"]
    assert len({study.patient for study, _ in films.values()}) == 4
    assert labels_of(films, names[0]) == {
        "lvef": 50.5,
        "esv_ml": 40.0,
        "edv_ml": 90.25,
        "ed_frame": 1.0,
        "es_frame": 4.0,
    }
    assert labels_of(films, names[1])["ed_frame"] is None, "one tracing tells neither"
    assert (labels_of(films, names[2])["ed_frame"], labels_of(films, names[2])["es_frame"]) == (5.0, 0.0)
    assert {(clip.view, clip.num_frames, clip.frame_rate_fps) for _, clip in films.values()} == {
        ("A4C", 6, 50.0)
    }
    assert "licence  Stanford University Dataset Research Use Agreement" in out


def test_echonet_lvh(tmp_path, shard, caplog):
    films, splits, out = shard("echonet_lvh", public_data.echonet_lvh(tmp_path / "lvh"))
    assert sorted(films) == ["Batch1/0XA.avi", "Batch3/0XB.avi"] and "1 x missing_file" in out
    assert (
        split_of(films, splits, "Batch1/0XA.avi") == "train"
        and split_of(films, splits, "Batch3/0XB.avi") == "val"
    )
    assert labels_of(films, "Batch1/0XA.avi") == {
        "ivsd_cm": 1.1, "lvidd_cm": 4.8, "lvpwd_cm": 1.1, "lvids_cm": 3.0, "ed_frame": 2.0, "es_frame": 5.0,
    }  # fmt: skip
    only_systole = labels_of(films, "Batch3/0XB.avi")
    assert (
        only_systole["lvids_cm"] == 2.5
        and only_systole["ivsd_cm"] is None
        and only_systole["ed_frame"] is None
    )
    assert {study.patient for study, _ in films.values()} == {None} and "unverifiable" in out
    assert "1 films have no row" in caplog.text


def test_a_film_of_echonet_lvh_in_two_splits_is_an_error(tmp_path):
    folder = public_data.echonet_lvh(tmp_path / "lvh")
    rows = [
        {"HashedFileName": "0XA", "Calc": "IVSd", "CalcValue": 1, "Frame": 2, "split": split}
        for split in ("train", "test")
    ]
    write_csv(folder / "MeasurementsList.csv", rows)
    with pytest.raises(DataError, match="film 1 of MeasurementsList.csv is in two splits .test/train."):
        layout_named("echonet_lvh").read(folder)


def test_cardiosyntax_takes_the_split_of_its_first_fold(tmp_path, shard, caplog):
    films, splits, _ = shard("cardiosyntax", public_data.cardiosyntax(tmp_path / "syntax"))
    assert "fold 0 of 2" in caplog.text and len(films) == 6
    assert [split_of(films, splits, f"dicoms/1.2.3.{n}/left.dcm") for n in range(3)] == [
        "train",
        "train",
        "test",
    ]
    study, left = films["dicoms/1.2.3.1/left.dcm"]
    assert left.side == "left" and left.labels == {"syntax": 10.0, "syntax_left": 7.0, "syntax_right": None}
    assert labels_of(films, "dicoms/1.2.3.1/right.dcm") == {
        "syntax": 10.0,
        "syntax_left": None,
        "syntax_right": 3.0,
    }
    assert study.patient == IDENTITY.keyed("patient", "cardiosyntax/1.2.3.1")


def test_the_second_version_of_cardiosyntax_names_the_artery_of_each_film(tmp_path, shard):
    films, _, _ = shard("cardiosyntax", public_data.cardiosyntax_2(tmp_path / "second"))
    assert {name: clip.side for name, (_, clip) in films.items()} == {"LCA.npy": "left", "RCA.npy": "right"}


def test_a_study_in_two_lists_of_cardiosyntax_is_an_error(tmp_path):
    folder = public_data.cardiosyntax(tmp_path / "syntax")
    lists = json.loads((folder / "fold_0_train.json").read_text())
    (folder / "fold_0_eval.json").write_text(json.dumps(lists[:1]))
    with pytest.raises(DataError, match="study 1 is in two splits") as caught:
        layout_named("cardiosyntax").read(folder)
    assert "1.2.3" not in str(caught.value)


def test_coronary_dominance(tmp_path, shard):
    films, _, _ = shard("coronary_dominance", public_data.coronary_dominance(tmp_path / "dominance"))
    assert len(films) == 8
    assert labels_of(films, "main_normal/Left_Dominance/9.1/LCA/0.npz") == {
        "dominance": "left", "part": "main_normal", "quality": "normal",
    }  # fmt: skip
    assert labels_of(films, "main_others/artifact/Right_Dominance/9.3/RCA/0.npz") == {
        "dominance": "right", "part": "main_others", "quality": "artifact",
    }  # fmt: skip
    assert films["main_normal/Left_Dominance/9.1/LCA/0.npz"][1].side == "left"


def test_what_coronary_dominance_shares_with_cardiosyntax_is_the_same_patient_in_the_same_split(
    tmp_path, shard
):
    """Drawn splits are a function of the keyed patient, so the overlap lies on one side of both data sets."""
    dominance, dominance_splits, _ = shard(
        "coronary_dominance", public_data.coronary_dominance(tmp_path / "dominance")
    )
    syntax, syntax_splits, _ = shard(
        "cardiosyntax", public_data.cardiosyntax(tmp_path / "syntax", folds=False)
    )
    shared = dominance["real_distribution/Right_Dominance/1.2.3.0/LCA/0.npz"][0]
    original = syntax["dicoms/1.2.3.0/left.dcm"][0]
    assert shared.patient == original.patient and shared.study == original.study
    assert dominance_splits[shared.study] == syntax_splits[original.study]


def test_mimic_iv_echo(tmp_path, shard):
    folder = public_data.mimic_iv_echo(tmp_path / "mimic")
    films, _, out = shard("mimic_iv_echo", folder, "--label_columns", "lvef", "lvidd")
    assert sorted(films) == ["files/p11/p11/s91/91_0000.dcm", "files/p12/p12/s92/92_0002.dcm"]
    assert "1 x single_frame" in out
    assert labels_of(films, "files/p11/p11/s91/91_0000.dcm") == {"lvef": 52.5, "lvidd": 4.5}
    assert labels_of(films, "files/p12/p12/s92/92_0002.dcm") == {"lvef": 61.0, "lvidd": None}
    study, _ = films["files/p12/p12/s92/92_0002.dcm"]
    assert study.patient == IDENTITY.keyed("patient", "mimic_iv_echo/12")
    assert "ee_comment" not in LAYOUTS["mimic_iv_echo"].read(folder).columns, "free text is no label"


def test_mimic_iv_echo_before_its_measurements(tmp_path, shard):
    folder = public_data.mimic_iv_echo(tmp_path / "mimic")
    (folder / "structured-measurement.csv.gz").unlink()
    films, _, _ = shard("mimic_iv_echo", folder)
    assert all(clip.labels == {} for _, clip in films.values()) and len(films) == 2


def test_every_layout_says_what_it_expects_of_the_folder(tmp_path):
    for name, layout in LAYOUTS.items():
        assert name == layout.NAME and layout.LICENCE and layout.SOURCE and layout.LABELS
        with pytest.raises(ConfigError, match=f"--layout {name}.*--source"):
            layout.read(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layout", "camus"], "--layout camus needs --source, the folder that holds CAMUS"),
        (["--layout", "camus", "--source", "nowhere"], "--layout camus needs --source"),
        (["--layout", "ukbb", "--source", "."], "--layout 'ukbb' is not known; allowed: ['cadica'"),
        (
            ["--layout", "camus", "--csv", "films.csv"],
            "give either --csv FILE, or --layout NAME --source FOLDER",
        ),
        ([], "give either --csv FILE, or --layout NAME --source FOLDER"),
        (["--csv", "films.csv", "--source", "."], "--source belongs to --layout"),
        (["--layout", "camus", "--source", ".", "--texts", "texts.csv"], "--texts belongs to --csv"),
    ],
)
def test_what_the_command_needs_is_told_in_one_line(tmp_path, run, words, message):
    code, out, err = run(*words, "--output", tmp_path / "out")
    assert (code, out) == (2, "") and message in err


def test_an_unknown_layout_is_told_with_the_list():
    with pytest.raises(
        ConfigError, match="'cadca' is not known .did you mean 'cadica'.*'camus', 'cardiosyntax'"
    ):
        layout_named("cadca")


def test_a_table_without_its_columns_and_a_cut_archive_are_named(tmp_path):
    folder = public_data.mimic_iv_echo(tmp_path / "mimic")
    path = folder / "structured-measurement.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="structured-measurement.csv.gz is damaged"):
        layout_named("mimic_iv_echo").read(folder)
    path.unlink()
    write_csv(folder / "echo-record-list.csv", [{"subject_id": 1, "study_id": 2}])
    with pytest.raises(DataError, match="echo-record-list.csv has no column .'dicom_filepath'."):
        layout_named("mimic_iv_echo").read(folder)


def read_rows(layout: str, folder: Path) -> dict[str, dict]:
    return {row["FileName"]: dict(row) for row in LAYOUTS[layout].read(folder).rows}


def test_the_lists_and_boxes_of_cadica(tmp_path):
    rows = read_rows("cadica", public_data.cadica(tmp_path / "cadica"))
    found = {
        name.removeprefix("CADICA/").removesuffix("/input"): tuple(
            row[label] for label in ("selected", "lesion", "significant", "severe", "worst_grade", "lvef")
        )
        for name, row in rows.items()
    }
    assert found == {
        "selectedVideos/p1/v1": ("1", "1", "1", "1", "p70_90", "55"),
        "selectedVideos/p1/v2": ("1", "0", "0", "0", "no_lesion", "55"),
        "selectedVideos/p2/v1": ("1", "1", "0", "0", "p20_50", None),
        "selectedVideos/p2/v3": (
            "1",
            "1",
            None,
            None,
            None,
            None,
        ),  # a lesion without a box is of unknown grade
        "selectedVideos/p10/v4": ("1", "0", "0", "0", "no_lesion", "40.5"),
        "nonselectedVideos/p1/v9": ("0", None, None, None, None, "55"),  # not selected is not assessed
    }
    structures = [row["main_structure"] for row in rows.values()]
    assert structures == ["Left Coronary", "Right Coronary", "Left Coronary", "Right Coronary", None, None]


def test_cadica(tmp_path, shard):
    films, splits, out = shard("cadica", public_data.cadica(tmp_path / "cadica"))
    names = {name.removeprefix("CADICA/").removesuffix("/input"): found for name, found in films.items()}
    assert len(names) == 6 and "licence  CC BY 4.0 as far as known" in out
    assert {(clip.num_frames, clip.frame_rate_fps, clip.frame_rate_source) for _, clip in names.values()} == {
        (6, 10.0, "table")
    }
    study, clip = names["selectedVideos/p1/v1"]
    assert clip.side == "left" and study.patient == IDENTITY.keyed("patient", "cadica/p1")
    assert clip.labels == {
        "selected": 1.0, "lesion": 1.0, "significant": 1.0, "severe": 1.0, "worst_grade": "p70_90", "lvef": 55.0,
    }  # fmt: skip
    assert {name.split("/")[2] for name, (each, _) in names.items() if each.study == study.study} == {
        "v1",
        "v2",
        "v9",
    }
    assert names["selectedVideos/p2/v3"][1].labels["severe"] is None
    assert names["nonselectedVideos/p1/v9"][1].labels["lesion"] is None
    assert len(splits) == 3, "a patient is one study, so never in two splits"


def test_what_contradicts_itself_in_cadica_is_an_error(tmp_path, caplog):
    folder = public_data.cadica(tmp_path / "cadica")
    (folder / "CADICA" / "selectedVideos" / "CADICAprojections.json").unlink()
    (folder / "CADICA" / "metadata.xlsx").unlink()
    assert {"main_structure", "lvef"}.isdisjoint(LAYOUTS["cadica"].read(folder).columns)
    assert "the tree of each film is not known" in caplog.text
    patient = folder / "CADICA" / "selectedVideos" / "p1"
    (patient / "nonlesionVideos.txt").write_text("v1\n")
    with pytest.raises(DataError, match="p1: 1 videos are in lesionVideos.txt and in nonlesionVideos.txt"):
        LAYOUTS["cadica"].read(folder)
    (patient / "nonlesionVideos.txt").write_text("")
    (patient / "v1" / "groundtruth" / "p1_v1_00002.txt").write_text("1 2 3 4 p60\n")
    with pytest.raises(DataError, match="grade 'p60' is none of"):
        LAYOUTS["cadica"].read(folder)


def test_camus(tmp_path, shard):
    films, splits, _ = shard(
        "camus", public_data.camus(tmp_path / "camus"), "--label_columns", "lvef", "es_frame"
    )
    name = "database_nifti/patient{0}/patient{0}_{1}_half_sequence.nii.gz".format
    assert sorted(films) == [
        *(
            name("0001", "2CH"),
            name("0001", "4CH"),
            name("0002", "2CH"),
            name("0002", "4CH"),
            name("0003", "4CH"),
        )
    ]
    assert [split_of(films, splits, name(each, "4CH")) for each in ("0001", "0002", "0003")] == [
        "train",
        "val",
        "test",
    ]
    study, clip = films[name("0002", "2CH")]
    assert (clip.view, clip.num_frames, clip.frame_rate_fps, clip.height) == ("A2C", 6, 47.5, 48)
    assert clip.labels == {"lvef": 52.0, "es_frame": 5.0} and len(study.clips) == 2


def test_the_information_and_splits_of_camus(tmp_path):
    folder = public_data.camus(tmp_path / "camus")
    rows = read_rows("camus", folder)
    assert len(rows) == 5 and [row["Split"] for row in rows.values()] == [
        "train",
        "train",
        "val",
        "val",
        "test",
    ]
    row = rows["database_nifti/patient0002/patient0002_2CH_half_sequence.nii.gz"]
    assert (row["view"], row["fps"], row["lvef"], row["image_quality"]) == ("A2C", "47.5", "52", "Good")
    assert (row["ed_frame"], row["es_frame"], row["sex"], row["age"]) == ("0", "5", "F", "52")
    (folder / "database_split" / "subgroup_testing.txt").write_text("")
    with pytest.raises(DataError, match="1 of 3 patients are in no list"):
        LAYOUTS["camus"].read(folder)
    (folder / "database_split" / "subgroup_testing.txt").write_text("patient0001\npatient0003\n")
    with pytest.raises(DataError, match="into two splits .train/test."):
        LAYOUTS["camus"].read(folder)
    inner = read_rows("camus", folder / "database_nifti")
    assert "Split" not in next(iter(inner.values())) and len(inner) == 5


def test_a_number_that_is_none_is_told_by_file_and_column(tmp_path):
    folder = public_data.echonet_dynamic(tmp_path / "echonet")
    path = folder / "VolumeTracings.csv"
    path.write_text(path.read_text().replace("10,5,10,35,1", "10,5,x,35,1"))
    with pytest.raises(DataError, match="VolumeTracings.csv: a cell of 'X2' is no number"):
        LAYOUTS["echonet_dynamic"].read(folder)


def test_the_documentation_has_a_row_for_each_layout_and_rules_that_are_read(tmp_path):
    text = (TOOL.parents[1] / "docs" / "data.md").read_text()
    for name in LAYOUTS:
        assert f"| `{name}` |" in text
    example = text.split("puts your rules before these:\n```yaml\n")[1].split("```")[0]
    (tmp_path / "rules.yaml").write_text(example)
    assert set(read_rules(tmp_path / "rules.yaml").rules) == {"*_cto", "OM1_calcif", "flow"}
