"""Identities planted wherever there is room for one; every byte that comes out is searched for each, through every wrapping."""

import base64
import csv
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from PIL import Image, PngImagePlugin

from deepcoro.angiography.demo_key import demo_key
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import read_films
from deepcoro.ingest.identity import Identity
from tests.data.studies import contents
from tests.ingest import films
from tests.ingest.films import PLANTED
from tests.ingest.identities import (
    EXTRA,
    REPORT,
    SECRETS,
    found_in,
    textured,
    write_full_dicom,
    write_full_video,
)
from tests.launch import exit_code, main_on_this_rank, tiny

TOOL = Path(__file__).resolve().parents[2] / "tools" / "shard_dataset.py"
KEY = "0123456789abcdef0123456789abcdef"
FINDINGS = ("CTO of the mid RCA.", "No disease of the mid LAD.", "Sténose sévère (70-80 %) : IVA moyenne.")


def film_files(folder: Path) -> list[Path]:
    """Whole films of every kind, in folders and files named after people."""
    folder.mkdir(parents=True)
    made = [
        write_full_dicom(folder / "BOUCHARD-0.dcm", 0),
        write_full_dicom(folder / "BOUCHARD-1", 1, films.RLE),
        write_full_dicom(folder / "20210917093012-2.dcm", 2, films.JPEG_BASELINE, NumberOfFrames=9),
        write_full_dicom(folder / f"{PLANTED['SOPInstanceUID']}.dcm", 3, films.IMPLICIT),
        write_full_video(folder / "MRN-7734501.avi", 4),
        write_full_video(folder / "OKAFOR.mp4", 5),
        folder / "LAVOIE.npy",
        folder / "NGUYEN.npz",
    ]
    np.save(made[6], textured(6))
    made[6].write_bytes(made[6].read_bytes() + EXTRA["npy header"].encode())
    np.savez(made[7], **{EXTRA["npz member"]: textured(7)})
    return made


def broken_files(folder: Path, whole: bytes) -> list[Path]:
    """Films that cannot be used, each in its own way, named and filled with identities."""
    bad = {
        "OKAFOR-cut.dcm": whole[: len(whole) // 3],
        "OKAFOR-vr.dcm": whole.replace(b"\x08\x00\x16\x00UI\x1c\x00", b"\x08\x00\x16\x00UI\xff\x0f"),
        "OKAFOR-length.dcm": whole.replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00US\x20\x00"),
        "OKAFOR-bad.avi": b"RIFF" + b"OKAFOR" * 50,
        "OKAFOR-bad.mp4": b"TREMBLAY" * 50,
        "OKAFOR-bad.npz": b"PK\x03\x04" + b"TREMBLAY" * 20,
        "OKAFOR-bad.npy": b"\x93NUMPY\x01\x00\x46\x00{'descr': 'TREMBLAY', 'fortran_order': False, 'shape': (3,), }".ljust(90) + b"\n",
        "OKAFOR.txt": b"TREMBLAY",
    }  # fmt: skip
    for name, payload in bad.items():
        (folder / name).write_bytes(payload)
    files = [folder / name for name in bad]
    files.append(write_full_dicom(folder / "OKAFOR-sc.dcm", 8, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))
    files.append(write_full_dicom(folder / "OKAFOR-burnt.dcm", 9, BurnedInAnnotation="YES"))
    files.append(write_full_dicom(folder / "OKAFOR-time.dcm", 10, StudyTime="TREMBLAY at nine"))
    files.append(write_full_dicom(folder / "OKAFOR-rows.dcm", 11, Rows=4096))
    return [*files, folder / "BOUCHARD-gone.dcm"]


def rows_of(paths: list[Path], table_folder: Path) -> list[dict]:
    """Two films a study; cells that no one asked for, and cells of the columns that are taken, name people."""
    splits = ("train", "train", "val", "test", "train")
    return [
        {
            "FileName": str(path.relative_to(table_folder)), "PatientID": f"{PLANTED['PatientID']}-{number // 2}",
            "StudyInstanceUID": f"{PLANTED['StudyInstanceUID']}.{number // 2}", "Split": splits[number // 2 % 5],
            "Report": REPORT + FINDINGS[number % 3], "side": ("left", "Mme TREMBLAY")[number == 3], "view": ("RAO Caudal", "Dr LAVOIE")[number % 2],
            "fps": "15", "cto": number % 2, "dominance": "right", "status": ("diagnostic", "vu par Dr LAVOIE", "PCI le 17 septembre 2021")[number % 3],
            "syntax_record": ("12", "7734501")[number % 2], "birth": PLANTED["PatientBirthDate"], "comment": "voisine du maire", "operator": "OKAFOR^ADA",
        }
        for number, path in enumerate(paths)
    ]  # fmt: skip


def write_table(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def shard(table: Path, output: Path, *words: object, key: str = KEY) -> subprocess.CompletedProcess:
    key_file = output.parent / f"{output.name}.key"
    key_file.write_text(key)
    command = [sys.executable, TOOL, "--csv", table, "--output", output, "--key_file", key_file, *words]
    return subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=900)


@pytest.fixture
def run(monkeypatch, capsys, caplog, tmp_path):
    """The command in this process: exit code, and all that it said and logged."""
    caplog.set_level("DEBUG")

    def run(table: Path, output: Path, *words: object, key: bool = True) -> tuple[int, str]:
        (tmp_path / "id.key").write_text(KEY)
        keyed = ["--key_file", tmp_path / "id.key"] if key else []
        given = ["--csv", table, "--output", output, *keyed, "--workers", "1", *words]
        monkeypatch.setattr(sys, "argv", ["shard_dataset", *map(str, given)])
        spec = importlib.util.spec_from_file_location("shard_dataset", TOOL)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        try:
            code = module.main()
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        return code, "".join(capsys.readouterr()) + caplog.text

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """`planted/`: films and table; `out/`: the shards; `stdout`, `stderr`: what the command said."""
    folder = tmp_path_factory.mktemp("place")
    source = folder / "planted" / "TREMBLAY-GENEVIEVE"
    paths = film_files(source)
    bad = broken_files(source, paths[0].read_bytes())
    table = write_table(folder / "planted" / "films.csv", rows_of([*paths, *bad], folder / "planted"))
    with table.open("a", encoding="utf-8") as file:
        file.write("TREMBLAY,OKAFOR,too few cells\n")
    labels = ("--label_columns", "cto", "dominance", "status", "syntax_record", "--allow_constant_labels")
    done = shard(table, folder / "out", *labels, "--workers", "2", "--clips_per_shard", "4")
    assert done.returncode == 0, done.stderr.decode()
    (folder / "stdout").write_bytes(done.stdout)
    (folder / "stderr").write_bytes(done.stderr)
    return folder


def search(written: dict[str, bytes]) -> dict[str, set[str]]:
    return {name: found for name, payload in written.items() if (found := found_in(name, payload))}


def test_the_films_hold_all_that_is_looked_for(place):
    """Else the search below would prove nothing."""
    files = contents(place / "planted")
    planted = set().union(*(found_in(name, data) for name, data in files.items()))
    assert set(SECRETS) == planted and len(PLANTED) + len(EXTRA) >= 50


def test_nothing_planted_leaves_in_shards_tables_and_words(place):
    manifest = schema.read_manifest(place / "out")
    assert manifest.counts.clips >= 8 and manifest.counts.rejected_clips >= 10
    written = contents(place / "out") | {name: (place / name).read_bytes() for name in ("stdout", "stderr")}
    assert len(written) > 8 and not search(written)
    assert b"frames could be decoded, its header says 9" in written["stderr"]  # what a worker logs is shown


def test_what_was_meant_to_stay_is_there(place):
    tars = b"".join(path.read_bytes() for path in (place / "out").glob("*.tar")).decode("latin-1")
    assert all(sentence.encode().decode("latin-1") in tars for sentence in FINDINGS)
    table = read_films(place / "out")
    assert {"[NAME]", "[DATE]"} <= {word for cell in table["status"].to_pylist() for word in cell.split()}
    assert (
        "7734501" not in str(table["syntax_record"].to_pylist())
        and None in table["syntax_record"].to_pylist()
    )
    said = (place / "stdout").read_text()
    assert (
        "x NAME" in said
        and "x DATE" in said
        and "x HEALTH_CARD" in said
        and "'syntax_record' left out" in said
    )


def test_lossless_shards_are_searched_through_their_compression(place, tmp_path):
    done = shard(place / "planted" / "films.csv", tmp_path / "out", "--lossless", "--workers", "1", "--label_columns", "cto")  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    written = contents(tmp_path / "out") | {"stdout": done.stdout, "stderr": done.stderr}
    assert not search(written)


def changed(rows: list[dict], **cells: str) -> list[dict]:
    """The second row of the first study differs."""
    return [row | cells if number == 1 else row for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        ({"Split": "Mme TREMBLAY"}, (), "row 2: the split is none of"),
        ({"PatientID": "OKAFOR"}, (), "names 2 patients"),
        ({"Split": "val"}, (), "two splits"),
        ({"Report": "Vu par Dr LAVOIE. CTO of the left main."}, ("--report_scope", "study"), "two texts"),
        ({}, ("--report_column", "Findings"), "'Findings' is not in the table"),
        ({}, ("--crosswalk", "OUT/private"), "inside the output folder"),
        ({}, ("--workers", "1", "--short_side_px", "OUT"), "invalid int value"),
    ],
)
def test_errors_name_nobody(place, tmp_path, change, words, told, run):
    with (place / "planted" / "films.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["FileName"] and row["PatientID"].startswith("MRN")]
    table = write_table(place / "planted" / f"errors{os.getpid()}.csv", changed(rows, **change))
    words = [str(word).replace("OUT", str(tmp_path / "out")) for word in words]
    code, said = run(table, tmp_path / "out", *words)
    table.unlink()
    assert code == 2 and told in said, said
    written = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert not search(written | {"said": said.encode()})


def test_a_table_that_cannot_be_read_is_told_without_its_cells(tmp_path, run):
    for name, payload in (
        ("latin.csv", "FileName,PatientID\nx.dcm,TREMBLAY GENEVIÈVE\n".encode("latin-1")),
        ("quote.csv", b'FileName,StudyInstanceUID\n"TREMBLAY,OKAFOR\n'),
        ("rows.csv", b"FileName,StudyInstanceUID\nTREMBLAY\nOKAFOR,1,2\n"),
    ):
        (tmp_path / name).write_bytes(payload)
        code, said = run(tmp_path / name, tmp_path / "out")
        assert code == 2 and not search({"said": said.encode()}), name


def test_another_secret_gives_other_ids(place, tmp_path):
    words = ("--label_columns", "cto", "--workers", "1", "--clips_per_shard", "4")
    done = shard(place / "planted" / "films.csv", tmp_path / "out", *words, key=KEY[::-1])
    assert done.returncode == 0, done.stderr.decode()
    one, other = read_films(place / "out"), read_films(tmp_path / "out")
    for kind in ("clip", "study", "patient"):
        ids, others = set(one[kind].to_pylist()), set(other[kind].to_pylist())
        assert len(ids) == len(others) and not ids & others
        assert not [name for name, data in contents(tmp_path / "out").items() if any(each.encode() in data for each in ids)]  # fmt: skip
    secret = KEY.encode()
    assert not [name for name, data in contents(place / "out").items() if secret in data or secret.hex().encode() in data]  # fmt: skip


def small_table(folder: Path, num_films: int = 4) -> Path:
    """Films of one study each; the last report names a person without any pattern."""
    folder.mkdir()
    rows = []
    for number in range(num_films):
        np.save(folder / f"{number}.npy", textured(number))
        text = "Dr LAVOIE: CTO of the mid RCA." if number < num_films - 1 else "Avec Zebulon, 55123."
        rows.append({"FileName": f"{number}.npy", "PatientID": f"P{number}", "StudyInstanceUID": f"S{number}", "Split": "train", "Report": text})  # fmt: skip
    return write_table(folder / "films.csv", rows)


def test_the_private_folder_holds_originals_and_rare_words_and_nothing_else_does(tmp_path, run):
    table, private = small_table(tmp_path / "data"), tmp_path / "private"
    code, said = run(table, tmp_path / "out", "--crosswalk", private)
    assert code == 0, said
    assert "scrubbed 1 x NAME" in said and "review   2 unknown strings in fewer than 3 patients" in said
    assert {path.name: path.stat().st_mode & 0o777 for path in private.iterdir()} == {"crosswalk.csv": 0o600, "review.csv": 0o600}  # fmt: skip
    assert private.stat().st_mode & 0o777 == 0o700
    with (private / "crosswalk.csv").open() as file:
        entries = list(csv.DictReader(file))
    films = read_films(tmp_path / "out")
    assert {entry["clip"] for entry in entries} == set(films["clip"].to_pylist())
    assert {entry["original_patient"] for entry in entries} == {"P0", "P1", "P2", "P3"}
    with (private / "review.csv").open() as file:
        assert {row["string"] for row in csv.DictReader(file)} == {"Zebulon", "55123"}
    assert run(table, tmp_path / "out", "--crosswalk", private, "--review_below", "1")[0] == 0
    assert (private / "review.csv").read_text().count("\n") == 1


def test_without_a_private_folder_the_summary_says_how_to_see_the_rare_words(tmp_path, run):
    code, said = run(small_table(tmp_path / "data"), tmp_path / "out")
    assert code == 0 and "2 unknown strings in fewer than 3 patients; give --crosswalk FOLDER" in said
    assert "Zebulon" not in said


def test_scrub_off_keeps_texts_and_says_so(tmp_path, run):
    code, said = run(small_table(tmp_path / "data"), tmp_path / "out", "--scrub", "off")
    assert code == 0 and "scrubbed NOTHING: --scrub off" in said
    assert b"Dr LAVOIE: CTO" in b"".join(path.read_bytes() for path in (tmp_path / "out").glob("*.tar"))


def test_generated_films_are_keyed_with_the_public_key_without_being_told(tmp_path, run, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPCORO_KEY_FILE", raising=False)
    table = small_table(tmp_path / "data")
    (tmp_path / "data" / "recipe.json").write_text("{}")
    (tmp_path / "data" / "demo.key").write_text(demo_key())
    code, said = run(table, tmp_path / "out", key=False)
    assert code == 0 and "PUBLIC key of generated films" in said and not (tmp_path / "home").exists()
    expected = Identity(demo_key().encode()).keyed("patient", "P0")
    assert expected in read_films(tmp_path / "out")["patient"].to_pylist()


@pytest.mark.slow
def test_nothing_planted_is_in_a_run_its_checkpoint_or_its_report(place, tmp_path, caplog, capfd):
    caplog.set_level("DEBUG")
    words = tiny(place / "out", tmp_path / "run", "max_steps=2", "checkpoint.every_steps=1", "batch_size=2")
    assert main_on_this_rank("ddp", *words) == 0
    assert main_on_this_rank("ddp", *words, "run_mode=test", "checkpoint=last") == 0
    assert exit_code(tmp_path / "run") == 0
    out, err = capfd.readouterr()
    written = contents(tmp_path / "run") | {"stdout": out.encode(), "stderr": (err + caplog.text).encode()}
    names = {Path(name).name for name in written}
    assert {"report.html", "state.json", "metrics.jsonl", "config.yaml"} <= names
    # the folder of the shards, where the user put it, is the user's own word
    assert not search(written)


@pytest.mark.parametrize("secret", [PLANTED["PatientName"], EXTRA["private group"], "17 septembre 2021"])
def test_the_search_finds_a_secret_in_every_wrapping(secret, tmp_path):
    """The test of the test."""
    text = f"some words {secret} and more"
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", text, zip=True)
    Image.new("L", (8, 8)).save(tmp_path / "image.png", pnginfo=comment)
    png = (tmp_path / "image.png").read_bytes()
    pyarrow.parquet.write_table(pyarrow.table({"a": [text] * 9}), tmp_path / "t.parquet", compression="zstd")
    wrapped = {
        "plain": text.encode(), "case": text.lower().encode(), "utf16": text.encode("utf-16-le"), "utf16be": text.encode("utf-16-be"),
        "hex": text.encode().hex().encode(), "a.zst": b"head" + zstandard.ZstdCompressor().compress(text.encode() * 3), "image.png": png,
        "t.parquet": (tmp_path / "t.parquet").read_bytes(), "a.json": json.dumps({"é": text}).encode(), "a.jsonl": json.dumps({"é": text}).encode() + b"\n{}\n",
        "page.html": f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'.encode(), secret: b"",
        **{f"base64 {shift}": base64.b64encode(b"x" * shift + text.encode()) for shift in range(3)},
    }  # fmt: skip
    missed = [name for name, payload in wrapped.items() if secret not in found_in(name, payload)]
    assert not missed
    assert not found_in("plain", b"No identity at all; CTO of the mid RCA.")


def test_an_unkeyed_digest_is_a_leak_too():
    for digest in (hashlib.md5, hashlib.sha256):
        assert found_in("x", digest(b"MRN-7734501").hexdigest()[:16].encode()) == {"MRN-7734501"}
