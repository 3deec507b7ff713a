"""The command that withdraws a patient: shards, caches, results, crosswalk, checkpoints."""

import csv
import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from deepcoro.data import manifest as schema
from deepcoro.data.writer import write_dataset
from deepcoro.ingest import crosswalk
from deepcoro.ingest.identity import Identity
from deepcoro.sample import patient_digest
from tests.data.studies import SMALL, contents, make_studies
from tests.launch import SILENT, main_on_this_rank, tiny
from tests.tools.command import call_tool, load_tool

KEY = b"0123456789abcdef0123456789abcdef"
ORIGINAL = "MRN-7734501"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words: object):
        return call_tool("remove_patient", words, monkeypatch, capsys)

    return run


@pytest.fixture
def studies(tmp_path):
    made = make_studies(tmp_path / "films", 4)
    keyed = Identity(KEY)
    return [
        study.__class__(study.study, study.split, study.films, keyed.keyed("patient", ORIGINAL if n == 1 else f"P{n}"))
        for n, study in enumerate(made)
    ]  # fmt: skip


@pytest.fixture
def place(tmp_path, studies) -> Path:
    """Shards, key, cache, run folder and crosswalk that all know the patient."""
    keyed, gone = Identity(KEY), studies[1]
    settings = SMALL.model_copy(update={"key_check": keyed.keyed("key", "check")})
    manifest = write_dataset(studies, tmp_path / "shards", settings)
    (tmp_path / "id.key").write_bytes(KEY)
    (tmp_path / "id.key").chmod(0o600)
    for number, shard in enumerate(manifest.shards):
        (tmp_path / "cache" / shard.sha256).mkdir(parents=True)
        (tmp_path / "cache" / shard.sha256 / "tar").write_bytes((tmp_path / "shards" / shard.name).read_bytes())  # fmt: skip
        (tmp_path / "cache" / f"{number}-{shard.sha256}.part").write_bytes(b"x")
    make_run(tmp_path / "run", studies)
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    entries = [
        crosswalk.Entry(film.clip, study.study, str(study.patient), film.path.name, "S", ORIGINAL if study is gone else "other", str(film.path))
        for study in studies for film in study.films
    ]  # fmt: skip
    crosswalk.write_crosswalk(folder, entries)
    (folder / "review.csv").write_text("string\n")
    return tmp_path


def make_run(folder: Path, studies) -> None:
    for step, patients in ((1, studies[:1]), (2, studies)):
        (folder / "checkpoints" / f"step_{step}").mkdir(parents=True)
        state = {"data": {"training_patients": [patient_digest(str(each.patient)) for each in patients]}}
        (folder / "checkpoints" / f"step_{step}" / "state.json").write_text(json.dumps(state))
    (folder / "predictions").mkdir()
    rows = [f"{study.study}.000,{study.study},a text" for study in studies]
    (folder / "predictions" / "shards_test.csv").write_text("clip,study,ground_truth_text\n" + "\n".join(rows))  # fmt: skip
    (folder / "predictions" / "shards_test_unique_texts.csv").write_text("Index,Text\n0,Text 1.\n")
    (folder / "predictions" / "shards_val.csv").write_text(f"clip\n{studies[0].study}.000\n")
    (folder / "report.html").write_text(f"<td>{studies[1].study}.001</td>")
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    table = pyarrow.table({"clip": [f"{s.study}.000" for s in studies], "embedding": [np.ones(3).tolist() for _ in studies]})  # fmt: skip
    pyarrow.parquet.write_table(table.replace_schema_metadata({"model": "m"}), folder / "bank.parquet")


def test_withdrawing_without_purge_touches_tables_only(place, run, studies):
    before = contents(place)
    code, out, err = run("--patient", ORIGINAL, "--key_file", place / "id.key", "--runs", place / "run", "--", place / "shards")  # fmt: skip
    assert code == 0, err
    assert (
        "1 studies withdrawn, version 2" in out and f"saw the patient: {place}/run/checkpoints/step_2" in out
    )
    assert "step_1" not in out
    after = contents(place)
    changed = {name for name in before if before[name] != after.get(name)}
    assert {Path(name).name for name in changed if ".progress" not in name} == {
        "films.parquet", "splits.csv", "manifest.json", "shard-000000.index.json",
    }  # fmt: skip


def test_a_purge_leaves_no_byte_anywhere_and_lists_what_cannot_forget(place, run, studies):
    gone = studies[1]
    words = ("--purge", "--crosswalk", place / "private", "--cache", place / "cache", "--runs", place / "run", "--", place / "shards")  # fmt: skip
    code, out, err = run("--keyed", gone.patient, *words)
    assert code == 0, err
    assert "1 shards rewritten, version 3" in out and "2 cached files deleted" in out
    assert f"rows taken out of {place}/run/bank.parquet" in out and f"deleted {place}/run/report.html" in out
    assert "saw the patient" in out and "step_2" in out
    left = {name: data for name, data in contents(place).items() if not name.startswith("films/")}
    for needle in (gone.patient, gone.study, *(film.clip for film in gone.films), ORIGINAL, "Text 1."):
        assert not [name for name, data in left.items() if needle.encode() in data], needle
    assert "cache/" + schema.read_manifest(place / "shards").shards[1].sha256 + "/tar" in left
    kept = ("run/config.yaml", "run/metrics.jsonl", "run/predictions/shards_val.csv")
    assert all(name in left for name in kept) and "run/predictions/shards_test_unique_texts.csv" not in left
    bank = pyarrow.parquet.read_table(place / "run" / "bank.parquet")
    assert bank["clip"].to_pylist() == [f"{s.study}.000" for s in studies if s is not gone]
    assert bank.schema.metadata[b"model"] == b"m"


def test_another_machine_cleans_its_cache_after_the_purge(place, run, studies):
    assert run("--keyed", studies[1].patient, "--purge", place / "shards")[0] == 0
    code, out, _ = run("--keyed", studies[1].patient, "--purge", "--cache", place / "cache", "--", place / "shards")  # fmt: skip
    assert code == 0 and "2 cached files deleted" in out and "0 shards rewritten" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keyed", "f" * 16], "is in none of the folders"),
        (["--patient", "nobody", "--key_file", "id.key"], "is in none of the folders"),
        (["--patient", ORIGINAL, "--key_file", "other.key"], "keyed with another secret"),
        (["--keyed", "f" * 16, "--cache", "nowhere", "--"], "is no folder"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_changes(place, run, words, message, monkeypatch):
    monkeypatch.chdir(place)
    Path("other.key").write_bytes(KEY[::-1])
    before = contents(place)
    code, out, err = run(*words, "shards")
    assert code == 2 and message in err and contents(place) == before
    assert ORIGINAL not in err and "nobody" not in err


def test_the_examples_of_the_help_are_commands_that_parse(monkeypatch):
    tool = load_tool("remove_patient")
    commands = [line for line in tool.EXAMPLES.replace("\\\n", " ").splitlines() if "python " in line]
    assert len(commands) == 2
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
        assert tool.parse_arguments().folders == [Path("shards/mine")]


def test_the_crosswalk_alone_can_name_a_patient_of_whom_no_film_was_taken(place, run, studies):
    entry = crosswalk.Entry("c" * 16, "s" * 16, "a" * 16, "x.dcm", "S", "P", "/x.dcm")
    crosswalk.merge_crosswalk(place / "private", [entry])
    code, _, err = run("--keyed", "a" * 16, "--crosswalk", place / "private", place / "shards")
    assert code == 0, err
    with (place / "private" / "crosswalk.csv").open() as file:
        assert "a" * 16 not in {row["patient"] for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_real_run_is_found_cleaned_and_not_gone_on_with(tiny_shards, tmp_path, run, capsys):
    shards, run_dir = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(tiny_shards, shards)
    words = tiny(shards, run_dir, *SILENT, "max_steps=1", "checkpoint.every_steps=1")
    assert main_on_this_rank("ddp", *words) == 0
    assert main_on_this_rank("ddp", *tiny(shards, run_dir, "run_mode=test", "checkpoint=last")) == 0
    rows = {row.split: row for row in schema.read_splits(shards)}
    for split, saw in (("train", True), ("test", False)):
        patient, study = str(rows[split].patient), rows[split].study
        held = [name for name, data in contents(run_dir).items() if study.encode() in data]
        assert bool(held) == (split == "test")  # predictions name the test films
        code, out, err = run("--keyed", patient, "--purge", "--runs", run_dir, "--", shards)
        assert code == 0, err
        assert ("saw the patient: " in out and "step_1" in out) == saw
        assert not [name for name, data in contents(run_dir).items() if study.encode() in data]
    capsys.readouterr()
    resumed = tiny(shards, run_dir, *SILENT, "max_steps=2", "checkpoint.every_steps=1")
    assert main_on_this_rank("ddp", *resumed) == 2
    assert "fingerprint" in capsys.readouterr().err
    fresh = tiny(shards, tmp_path / "fresh", *SILENT, "max_steps=1", "checkpoint.every_steps=1")
    assert main_on_this_rank("ddp", *fresh) == 0
