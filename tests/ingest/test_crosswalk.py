"""The private tables: crosswalk and review list."""

import csv
import multiprocessing
import stat

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest import crosswalk
from deepcoro.ingest.columns import find_roles
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.review import rare_strings, write_review
from deepcoro.ingest.studies import read_studies
from deepcoro.ingest.table import Table

KEY = b"0123456789abcdef0123456789abcdef"
COLUMNS = ("FileName", "PatientID", "StudyInstanceUID", "Report", "status")


def read(folder, *rows):
    cells = tuple(dict(zip(COLUMNS, row, strict=True)) for row in rows)
    table, roles = Table(COLUMNS, cells), find_roles(COLUMNS, {}, None)
    studies, _ = read_studies(table, roles, folder, Identity(KEY), "clip")
    return studies, table, roles


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_crosswalk_gives_every_keyed_id_its_original_back(tmp_path):
    rows = [("a/1.dcm", None, "S1", "x", "PCI"), ("a/2.dcm", "P1", "S1", "x", "PCI"), ("/far/3.dcm", "P2", "S2", None, None)]  # fmt: skip
    folder = tmp_path / "private"
    crosswalk.prepare_folder(folder, tmp_path / "out")
    studies, table, roles = read(tmp_path, *rows)
    crosswalk.merge_crosswalk(folder, crosswalk.entries_of(studies, table, roles, tmp_path))
    assert mode(folder) == 0o700 and mode(folder / "crosswalk.csv") == 0o600
    found = {each.original_clip: each for each in crosswalk.read_crosswalk(folder)}
    identity = Identity(KEY)
    for path, patient, study, file in (
        ("a/1.dcm", "P1", "S1", tmp_path / "a/1.dcm"),
        ("a/2.dcm", "P1", "S1", tmp_path / "a/2.dcm"),
        ("/far/3.dcm", "P2", "S2", "/far/3.dcm"),
    ):
        entry = found[path]
        assert (entry.original_patient, entry.original_study, entry.file) == (patient, study, str(file))
        assert entry.clip == identity.keyed("clip", path)
        assert entry.study == identity.keyed("study", study)
        assert entry.patient == identity.keyed("patient", patient)


def test_next_months_films_join_the_crosswalk_and_a_film_is_listed_once(tmp_path):
    for rows in ([("1.dcm", "P1", "S1", None, None)], [("1.dcm", "P1", "S1", None, None), ("2.dcm", "P2", "S2", None, None)]):  # fmt: skip
        studies, table, roles = read(tmp_path, *rows)
        crosswalk.merge_crosswalk(tmp_path, crosswalk.entries_of(studies, table, roles, tmp_path))
    assert sorted(each.original_clip for each in crosswalk.read_crosswalk(tmp_path)) == ["1.dcm", "2.dcm"]


def _add_films(folder, part) -> None:
    for number in range(15):
        name = f"{part}-{number}"
        crosswalk.merge_crosswalk(folder, [crosswalk.Entry(name, "s", "p", name, "S", "P", "/x")])


def test_parts_of_a_job_array_add_to_it_at_once_and_none_is_lost(tmp_path):
    parts = [multiprocessing.get_context("fork").Process(target=_add_films, args=(tmp_path, part)) for part in range(3)]  # fmt: skip
    for each in parts:
        each.start()
    for each in parts:
        each.join(60)
    expected = sorted(f"{part}-{number}" for part in range(3) for number in range(15))
    assert sorted(entry.clip for entry in crosswalk.read_crosswalk(tmp_path)) == expected


def test_a_withdrawn_patient_leaves_the_crosswalk(tmp_path):
    studies, table, roles = read(
        tmp_path, ("1.dcm", "P1", "S1", None, None), ("2.dcm", "P2", "S2", None, None)
    )
    crosswalk.write_crosswalk(tmp_path, crosswalk.entries_of(studies, table, roles, tmp_path))
    gone = crosswalk.forget_patient(tmp_path, Identity(KEY).keyed("patient", "P1"))
    assert [each.original_clip for each in gone] == ["1.dcm"]
    assert b"P1" not in (tmp_path / "crosswalk.csv").read_bytes()
    assert [each.original_patient for each in crosswalk.read_crosswalk(tmp_path)] == ["P2"]


def test_a_crosswalk_in_the_shards_or_open_to_others_is_refused(tmp_path):
    out = tmp_path / "out"
    for folder in (out, out / "private"):
        with pytest.raises(ConfigError, match="inside the output folder"):
            crosswalk.prepare_folder(folder, out)
    assert not out.exists()
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="mode 755.: chmod 700"):
        crosswalk.prepare_folder(tmp_path / "open", out)


def test_another_table_is_no_crosswalk(tmp_path):
    with pytest.raises(DataError, match="holds no crosswalk.csv"):
        crosswalk.read_crosswalk(tmp_path)
    (tmp_path / "crosswalk.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="must have the columns clip,study"):
        crosswalk.read_crosswalk(tmp_path)


def test_rare_unknown_strings_are_listed_with_the_films_that_hold_them(tmp_path):
    common = "Sévère sténose (80 %) de l'IVA moyenne. Wonderwire used."
    rows = [(f"{n}.dcm", f"P{n}", f"S{n}", common, "diagnostic") for n in range(3)]
    rows.append(("9.dcm", "P0", "S9", "Vu avec Tremblay, dossier 55512, voisine; Dr Roy.", "Gagnon"))
    studies, _, _ = read(tmp_path, *rows)
    rare = rare_strings(studies, below=3)
    listed = {(each.string, each.kind, each.found_in, each.patients) for each in rare}
    assert listed == {
        ("Tremblay", "capitalised", "report", 1),
        ("Gagnon", "capitalised", "status", 1),
        ("voisine", "word", "report", 1),
    }
    clip = Identity(KEY).keyed("clip", "9.dcm")
    assert all(each.clips == (clip,) for each in rare)
    assert "Wonderwire" in {each.string for each in rare_strings(studies, below=4)}
    write_review(tmp_path, rare)
    lines = list(csv.DictReader((tmp_path / "review.csv").open()))
    assert [line["string"] for line in lines] == ["Gagnon", "Tremblay", "voisine"]
    assert mode(tmp_path / "review.csv") == 0o600


def test_texts_that_differ_in_identifiers_only_are_one_report(tmp_path):
    rows = [(f"{n}.dcm", "P1", "S1", f"Dr {name}, 0{n}/09/2021. CTO of the mid RCA.", None) for n, name in ((1, "Roy"), (2, "Gagné"))]  # fmt: skip
    columns = tuple(dict(zip(COLUMNS, row, strict=True)) for row in rows)
    studies, _ = read_studies(
        Table(COLUMNS, columns), find_roles(COLUMNS, {}, None), tmp_path, Identity(KEY), "study"
    )
    assert {film.text for film in studies[0].films} == {"Dr [NAME], [DATE]. CTO of the mid RCA."}
