"""The command that makes shards, as a user meets it."""

import contextlib
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepcoro.data import manifest as schema
from deepcoro.data.film_table import read_films
from deepcoro.data.shards import Shards
from deepcoro.ingest import scrubber
from deepcoro.ingest.scrub import scrub

TOOL = Path(__file__).resolve().parents[2] / "tools" / "shard_dataset.py"


def load_tool():
    spec = importlib.util.spec_from_file_location("shard_dataset", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def key(tmp_path) -> Path:
    (tmp_path / "test.key").write_text("0123456789abcdef0123456789abcdef\n")
    return tmp_path / "test.key"


@pytest.fixture
def run(monkeypatch, capsys, caplog, key):
    """Runs the command in this process; gives exit code, stdout, and stderr with the log (which pytest catches)."""
    caplog.set_level("INFO")

    def run(*words: object):
        monkeypatch.setattr(
            sys, "argv", ["shard_dataset", *map(str, words), "--key_file", str(key), "--workers", "1"]
        )
        caplog.clear()
        code = load_tool().main()
        out, err = capsys.readouterr()
        return code, out, err + caplog.text

    return run


def write_table(folder: Path, rows: list[dict], delimiter: str = ",") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
    table = folder / "dataset.csv"
    table.write_text("\n".join(delimiter.join(map(str, line)) for line in lines) + "\n", encoding="utf-8")
    return table


def make_rows(folder: Path, num_films: int = 12, split: bool = True) -> list[dict]:
    """Two films a study, one study a patient, npy."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_films):
        random = np.random.default_rng(number)
        np.save(folder / f"{number}.npy", random.integers(0, 255, (4, 24, 24), dtype=np.uint8))
        row = {
            "FileName": f"{number}.npy",
            "PatientID": f"P{number // 2}",
            "StudyInstanceUID": f"1.2.{number // 2}",
        }
        if split:
            row["Split"] = ("train", "val", "test")[number // 2 % 3]
        row |= {"Report": f"Report {number // 2}", "side": "left", "cto": number % 2, "mid_lad_stenosis": -1}
        rows.append(row)
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_row_is_counted_once_in_the_summary(tmp_path, run):
    rows = make_rows(tmp_path / "data")
    (tmp_path / "data" / "3.npy").write_bytes(b"cut")
    rows += [{**rows[0]}, {**rows[0], "FileName": "gone.npy"}, {**rows[0], "FileName": ""}]
    code, out, _ = run("--csv", write_table(tmp_path / "data", rows), "--output", tmp_path / "out")
    assert code == 0 and "rows     15 = 11 sharded + 4 rejected" in out
    assert "(1 skipped, 3 failed)" in out and "1 x duplicate_film (skipped)" in out
    for reason in ("truncated", "missing_file", "path_missing"):
        assert f"1 x {reason} (failed)" in out
    rejected = schema.read_rejected(tmp_path / "out")
    assert [row for row, _, _ in rejected] == [4, 13, 14, 15]
    manifest = schema.read_manifest(tmp_path / "out")
    assert manifest.counts.clips == 11 and manifest.label_columns == ["cto", "mid_lad_stenosis"]


@pytest.mark.parametrize("delimiter", ["α", "\t"])
def test_the_dialect_of_the_table_changes_no_byte(tmp_path, run, delimiter):
    rows = make_rows(tmp_path / "data")
    run("--csv", write_table(tmp_path / "data", rows), "--output", tmp_path / "comma")
    run("--csv", write_table(tmp_path / "data", rows, delimiter), "--output", tmp_path / "other")
    assert contents(tmp_path / "other") == contents(tmp_path / "comma")


def test_without_a_split_column_patients_are_drawn_and_verified(tmp_path, run):
    rows = make_rows(tmp_path / "data", 24, split=False)
    code, out, _ = run("--csv", write_table(tmp_path / "data", rows), "--output", tmp_path / "out")
    manifest = schema.read_manifest(tmp_path / "out")
    assert code == 0 and manifest.patient_split == "verified" and "train: " in out
    assert sum(split.studies for split in manifest.counts.splits.values()) == 12


def test_next_months_table_is_appended_and_nobody_moves(tmp_path, run):
    rows = make_rows(tmp_path / "data", 24, split=False)
    extra = [{**row, "lvef": 55} for row in rows[14:]]
    words = ["--split_shares", "60/20/20", "--output"]
    run("--csv", write_table(tmp_path / "data", rows), *words, tmp_path / "whole")
    table = write_table(tmp_path / "data", rows[:16])
    code, out, _ = run("--csv", table, *words, tmp_path / "out")
    assert code == 0 and "rows     16 = 16 sharded + 0 rejected (0 skipped, 0 failed)" in out
    code, out, err = run("--csv", write_table(tmp_path / "data", extra), *words, tmp_path / "out", "--append")
    assert code == 0, err
    assert "table 1  16 = 16 sharded + 0 rejected" in out
    assert "table 2  10 = 8 sharded + 2 rejected (2 skipped, 0 failed)" in out
    assert schema.read_splits(tmp_path / "out") == schema.read_splits(tmp_path / "whole")
    code, _, err = run("--csv", table, "--split_shares", "70/20/20", "--output", tmp_path / "out")
    assert code == 2 and "'70/20/20' is not three percentages" in err


def test_appended_films_are_stored_as_those_of_the_folder_unless_told_otherwise(tmp_path, run):
    rows = make_rows(tmp_path / "data")
    words = ["--output", tmp_path / "out"]
    run("--csv", write_table(tmp_path / "data", rows[:6]), *words, "--lossless", "--short_side_px", "20")
    later = write_table(tmp_path / "data", rows[6:])
    code, _, err = run("--csv", later, *words, "--append", "--short_side_px", "22")
    assert code == 2 and "the encoding of the folder" in err
    code, _, err = run("--csv", later, *words, "--append")
    assert code == 0, err
    assert schema.read_manifest(tmp_path / "out").encoding == schema.Encoding(
        type="lossless", short_side_px=20
    )
    assert set(read_films(tmp_path / "out")["height"].to_pylist()) == {20}


def test_parts_are_written_by_many_jobs_and_concluded_by_one(tmp_path, run, monkeypatch):
    scrubbed = []
    monkeypatch.setattr(scrubber, "scrub", lambda text: (scrubbed.append(text), scrub(text))[1])
    table = write_table(tmp_path / "data", make_rows(tmp_path / "data", 24))
    run("--csv", table, "--output", tmp_path / "whole", "--clips_per_shard", 4)
    words = ["--csv", table, "--output", tmp_path / "out", "--clips_per_shard", 4]
    scrubbed.clear()
    code, out, _ = run(*words, "--part", "2/2")
    assert len(scrubbed) == 6, "of 12 texts a part scrubs its own"
    assert code == 0 and "part     2 of 2: 12 films sharded, 0 rejected in 3 shards" in out
    code, _, err = run(*words, "--conclude")
    assert code == 2 and "3 of 6 shards are missing" in err and "part 1/2 has not ended" in err
    assert run(*words, "--part", "1/2")[0] == 0
    code, out, _ = run(*words, "--conclude")
    assert code == 0 and "rows     24 = 24 sharded" in out
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    code, _, err = run(*words, "--part", "3/2")
    assert code == 2 and "is not K/N" in err


def test_a_folder_is_verified_by_command(tmp_path, run):
    table = write_table(tmp_path / "data", make_rows(tmp_path / "data"))
    run("--csv", table, "--output", tmp_path / "out")
    code, out, _ = run("--output", tmp_path / "out", "--verify")
    assert code == 0 and "verified 12 films in 1 shards: 0 damaged" in out
    tar = tmp_path / "out" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-3000])
    code, out, err = run("--output", tmp_path / "out", "--verify")
    assert code == 2 and "damaged.csv in the output folder lists them" in err and "damaged" in out


def test_another_key_cannot_append(tmp_path, run, key):
    rows = make_rows(tmp_path / "data", 24)
    run("--csv", write_table(tmp_path / "data", rows[:12]), "--output", tmp_path / "out")
    key.write_text("f" * 32)
    table = write_table(tmp_path / "data", rows[12:])
    code, _, err = run("--csv", table, "--output", tmp_path / "out", "--append")
    assert code == 2 and "keyed with another secret" in err


def test_without_patients_the_split_is_called_unverifiable_loudly(tmp_path, run):
    rows = [{name: row[name] for name in row if name != "PatientID"} for row in make_rows(tmp_path / "data")]
    code, out, err = run("--csv", write_table(tmp_path / "data", rows), "--output", tmp_path / "out")
    assert code == 0 and "PATIENT SPLIT UNVERIFIABLE" in err and "patient split unverifiable" in out
    assert schema.read_manifest(tmp_path / "out").patient_split == "unverifiable"


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda rows: rows, ["--csv", "none.csv"], "none.csv does not exist"),
        (lambda rows: rows, ["--report_column", "Findings"], "'Findings' is not in the table"),
        (lambda rows: rows, ["--jpeg_quality", "101"], "encoding.quality"),
        (lambda rows: [{"Report": "x"}], [], "--path_column"),
        (
            lambda rows: [{**row, "FileName": f"no{row['FileName']}"} for row in rows],
            [],
            "no film could be used",
        ),
        (lambda rows: [{**row, "PatientID": "P0"} for row in rows], [], "in two splits"),
        (
            lambda rows: [{**row, "cto": 0} for row in rows],
            ["--label_columns", "cto"],
            "cto = 0 (4 films); a head learns nothing",
        ),
        (lambda rows: [{**row, "cto": 7} for row in rows], [], "cto (row 1: neither yes nor no)"),
        (lambda rows: [{**row, "CTO": 0} for row in rows], [], "'cto' and 'CTO' both mean 'cto'"),
        (lambda rows: rows, ["--derive", "serious"], "'serious' is no threshold; allowed: ['severe'"),
        (lambda rows: rows, ["--label_rules", "none.yaml"], "none.yaml does not exist"),
        (lambda rows: [{**row, "Split": "exam"} for row in rows], [], "row 1: the split is none of"),
        (
            lambda rows: [{**row, "Report": n} for n, row in enumerate(rows)],
            ["--report_scope", "side"],
            "two texts",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_exit_code_2(tmp_path, run, change, words, message):
    table = write_table(tmp_path / "data", change(make_rows(tmp_path / "data")))
    code, out, err = run("--csv", table, "--output", tmp_path / "out", *words)
    told = [line for line in err.splitlines() if line.startswith("shard_dataset: ")]
    assert code == 2 and out == "" and len(told) == 1 and message in told[0] and "Traceback" not in err
    assert not (tmp_path / "out" / schema.MANIFEST).exists()


def test_an_empty_table_and_a_file_as_output_are_told_too(tmp_path, run):
    (tmp_path / "empty.csv").write_text("")
    code, _, err = run("--csv", tmp_path / "empty.csv", "--output", tmp_path / "out")
    assert code == 2 and "is empty" in err
    table = write_table(tmp_path / "data", make_rows(tmp_path / "data"))
    code, _, err = run("--csv", table, "--output", tmp_path / "empty.csv")
    assert code == 2 and "cannot be made" in err


def test_debug_shows_the_traceback(tmp_path, run):
    with pytest.raises(Exception, match="does not exist"):
        run("--csv", tmp_path / "none.csv", "--output", tmp_path / "out", "--debug")


def test_next_months_table_may_call_its_labels_as_it_did_last_month(tmp_path, run):
    """Stored under their canonical names, and derived ones are derived again."""
    rows = [{**row, "lcx_stenosis": 60 + 3 * n} for n, row in enumerate(make_rows(tmp_path / "data"))]
    words = ["--output", tmp_path / "out", "--derive", "severe", "--label_columns", "lcx_stenosis", "cto"]
    code, out, err = run("--csv", write_table(tmp_path / "data", rows[:8]), *words)
    assert code == 0 and "lcx_stenosis -> prox_lcx_stenosis" in out, err
    code, _, err = run("--csv", write_table(tmp_path / "data", rows[8:]), *words[:4], "--append")
    assert code == 0, err
    manifest = schema.read_manifest(tmp_path / "out")
    assert (
        manifest.label_columns == ["cto", "prox_lcx_stenosis", "prox_lcx_severe"]
        and manifest.counts.clips == 12
    )
    severe = read_films(tmp_path / "out", ["prox_lcx_severe"])["prox_lcx_severe"].to_pylist()
    assert sorted(severe) == [0.0] * 4 + [1.0] * 8


def test_rules_of_a_file_are_followed_and_constant_labels_may_be_allowed(tmp_path, run):
    rows = [{**row, "cto": ""} for row in make_rows(tmp_path / "data")]
    table, rules = write_table(tmp_path / "data", rows), tmp_path / "rules.yaml"
    rules.write_text("rules: {cto: {kind: binary, absent: negative}}\n")
    words = ["--csv", table, "--output", tmp_path / "out", "--label_rules", rules]
    code, _, err = run(*words)
    assert code == 2 and "cto = 0 (4 films); a head learns nothing" in err
    code, _, err = run(*words, "--allow_constant_labels")
    assert code == 0 and "one class only in the training films: cto = 0 (4 films)" in err
    assert read_films(tmp_path / "out", ["cto"])["cto"].to_pylist() == [0.0] * 12


def test_prompts_of_the_predecessor_become_reports(tmp_path, run):
    rows = [{**row, "positive_text_ids": "T1|T2"} for row in make_rows(tmp_path / "data")]
    for row in rows:
        del row["Report"]
    (tmp_path / "texts.csv").write_text("text_id,prompt_text\nT1,Normal LAD\nT2,Normal RCA.\n")
    table = write_table(tmp_path / "data", rows)
    code, _, err = run("--csv", table, "--output", tmp_path / "out", "--texts", tmp_path / "texts.csv")
    assert code == 0, err
    assert Shards.open(tmp_path / "out").study(0).report_of((0,)) == "Normal LAD. Normal RCA."


def test_the_examples_of_the_help_are_commands_that_parse(monkeypatch):
    tool = load_tool()
    commands = re.findall(r"^    (python .*?[^\\])$", tool.EXAMPLES, flags=re.MULTILINE | re.DOTALL)
    assert len(commands) == 9
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command.replace("\\\n", " "))[1:])
        arguments = tool.parse_arguments()
        if arguments.csv is None:
            assert arguments.layout in tool.LAYOUTS or arguments.verify
        else:
            assert arguments.csv.suffix == ".csv"


def assert_group_ends(group: int) -> None:
    """Workers notice that their parent is gone; none is left behind."""
    deadline = time.monotonic() + 300
    while living(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    if living(group):
        os.killpg(group, signal.SIGKILL)
        pytest.fail("worker processes outlived the command")


def living(group: int) -> list[str]:
    """Processes of a group, without those that have ended and that nobody has asked for yet."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended in the meantime
            state, _, of = status.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(status.parent.name)
    return found


_KILLED = """
import os, runpy, signal, sys
from deepcoro.data import writer

def then_killed(*arguments):
    yield next(write(*arguments))
    os.kill(os.getpid(), signal.SIGKILL)

write, writer.write_shards = writer.write_shards, then_killed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The command, killed when the first shard is there: at work for certain, and before its end for certain."""


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path, run, key):
    rows = make_rows(tmp_path / "data", 64)
    table = write_table(tmp_path / "data", rows)
    run("--csv", table, "--output", tmp_path / "whole", "--clips_per_shard", 4)
    out = tmp_path / "killed"
    words = ["--csv", table, "--output", out, "--clips_per_shard", "4", "--key_file", key, "--workers", "2"]
    command = [sys.executable, "-c", _KILLED, TOOL, *words]
    environment = os.environ | {"PYTHONPATH": str(TOOL.parents[1])}
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    ) as process:
        process.wait(900)
    assert process.returncode == -signal.SIGKILL
    assert_group_ends(process.pid)
    written = len(list(out.glob(".progress/*.json")))
    assert 0 < written <= 16 and not (out / schema.MANIFEST).exists()
    code, summary, err = run("--csv", table, "--output", out, "--clips_per_shard", 4)
    assert code == 0 and f"{written} of 16 shards are already complete" in err and "64 sharded" in summary
    assert contents(out) == contents(tmp_path / "whole")


def test_generated_films_are_all_taken_with_side_view_rate_and_labels(tmp_path, run):
    generator = TOOL.with_name("make_demo_data.py")
    words = [tmp_path / "demo", "--preset", "tiny", "--seed", "0", "--patients", "3", "--workers", "1"]
    subprocess.run([sys.executable, generator, *words], check=True, capture_output=True, timeout=900)
    table = tmp_path / "demo" / "dataset.csv"
    words = (
        "--report_scope",
        "side",
        "--allow_constant_labels",
    )  # three patients have one class of calcification
    code, out, err = run("--csv", table, "--output", tmp_path / "out", *words)
    assert code == 0 and " + 0 rejected" in out, out + err
    shards = Shards.open(tmp_path / "out")
    for row in range(shards.manifest.counts.studies):
        study = shards.study(row)
        for number, clip in enumerate(study.clips):
            assert clip.side in ("left", "right") and clip.view and clip.frame_rate_fps
            assert study.report_of((number,)) and clip.labels["cto"] in (0.0, 1.0)
            assert len(shards.read_clip(row, number)) == clip.frame_offsets[-1]
