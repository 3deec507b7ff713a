"""The facts of this machine, and the tool as it is called."""

import json
import stat
from pathlib import Path

import pytest

from deepcoro.config import find_config
from deepcoro.doctor import films, kernels, machine, ranks, software
from deepcoro.doctor.examine import need_of
from deepcoro.run_config import RunConfig, load_run_config
from tests.tools.command import call_tool

LEVELS = {"ok", "note", "slow", "broken"}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_run_config(find_config("demo/tiny"), [f"run_dir={tmp_path / 'run'}"])


def test_facts_of_this_machine_are_plausible(tmp_path: Path) -> None:
    found = machine.machine(tmp_path / "not" / "yet" / "there")
    assert found.cores >= 1 and found.memory_gb > 0 and found.disk_gb > 0
    assert software.software(bool(found.gpus)).versions["torch"] is not None


def test_a_machine_where_nothing_can_be_asked_gives_facts_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    monkeypatch.setattr(machine.Path, "read_text", lambda *_, **__: "max")
    found = machine.machine(tmp_path)
    assert found.driver is None and found.disk_gb is None and found.memory_gb > 0
    without = software.software(False)
    assert without.compiler is None and without.nvcc is None


def test_kernels_of_a_config_are_those_that_training_takes(config: RunConfig) -> None:
    found = kernels.kernels(config)
    assert found.asked == "auto" and len(found.choices) >= 2
    for choice in found.choices:
        assert choice.width >= 8 and choice.kernel not in {each.split(":")[0] for each in choice.refused}
    assert kernels.kernels(load_run_config(find_config("clip/timm_config"), [])).tower == "video_timm"


def test_a_config_needs_what_its_batches_and_checkpoints_take() -> None:
    words = [
        "batch_size=4",
        "data.num_workers=3",
        "data.fields.video.frames=8",
        "data.fields.video.size_px=100",
    ]
    config = load_run_config(find_config("demo/tiny"), words)
    need = need_of(config, num_ranks=2)
    assert (need.ranks, need.workers) == (2, 3)
    assert need.loader_gb == pytest.approx(3 * 3 * 4 * 8 * 100 * 100 / 1e9)
    assert need.checkpoints_gb > 0
    assert need_of(config, 2, counts_model=False).checkpoints_gb == 0


def test_the_rate_a_run_logged_counts_without_its_waits(config: RunConfig) -> None:
    assert films._logged_rate(config.run_dir) is None
    config.run_dir.mkdir()
    line = {"step": 1, "speed/step_s": 2.0, "speed/data_wait_s": 1.0, "speed/samples_per_s": 10.0}
    (config.run_dir / "metrics.jsonl").write_text(
        json.dumps(line) + "\n" + json.dumps({"step": 2, "val/x": 1.0}) + "\n"
    )
    (config.run_dir / "run_record.json").write_text(json.dumps({"starts": [{"processes": 2}]}))
    assert films.wanted_rate(config) == (10.0, f"a rank of {config.run_dir}")


def test_without_a_log_operations_are_counted(config: RunConfig) -> None:
    wanted, by = films.wanted_rate(config)
    assert wanted > 0 and by


def test_shards_that_are_not_there_are_a_finding(config: RunConfig) -> None:
    bad = load_run_config(find_config("demo/tiny"), ["data.shards=nowhere"])
    assert "nowhere holds no manifest.json" in films.films(bad, 0.1).error


def rank_of(source: str, folder: Path) -> str:
    """A program in the place of Python."""
    path = folder / "python"
    path.write_text(f"#!/usr/bin/env bash\n{source}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_rank_that_fails_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ranks.sys, "executable", rank_of("echo noise >&2; echo no network >&2; exit 3", tmp_path)
    )
    assert ranks.talk(0, 20.0) == ranks.Talk("gloo", 2, None, "no network")


def test_ranks_that_hang_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks.sys, "executable", rank_of("exec sleep 60", tmp_path))
    assert ranks.talk(3, 0.3) == ranks.Talk("nccl", 3, None, "no answer within 0.3 s")


def test_the_tool_prints_findings_and_says_by_its_exit_code_whether_one_hinders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranks, "talk", lambda *_: ranks.Talk("gloo", 2, 1.0))
    words = ("demo/tiny", f"run_dir={tmp_path}", "--json")
    code, out, _ = call_tool("doctor", words, monkeypatch, capsys)
    told = {each["about"]: each for each in json.loads(out)}
    assert {each["level"] for each in told.values()} <= LEVELS
    assert {"GPUs", "packages", "cores", "/dev/shm", "attention", "ranks", "shards"} <= set(told)
    assert code == int(any(each["level"] == "broken" for each in told.values()))
    monkeypatch.setattr(ranks, "talk", lambda *_: ranks.Talk("gloo", 2, None, "no way"))
    code, out, _ = call_tool("doctor", words[:2], monkeypatch, capsys)
    assert code == 1 and "broken  ranks: 2 ranks over gloo cannot talk: no way" in out


def test_a_config_at_fault_is_2_and_missing_packages_are_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, _, error = call_tool("doctor", ("demo/tinny",), monkeypatch, capsys)
    assert code == 2 and "did you mean 'demo/tiny'?" in error
    monkeypatch.setattr(software, "_version", lambda name: None)
    code, out, _ = call_tool("doctor", (), monkeypatch, capsys)
    assert code == 1 and out.startswith("broken  packages: missing: torch")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_ranks_talk_and_real_shards_are_read(tiny_shards: Path, tmp_path: Path) -> None:
    found = ranks.talk(0, 600.0)
    assert found.error == "" and found.gb_per_s > 0
    words = [f"data.shards={tiny_shards}", f"run_dir={tmp_path}", "data.num_workers=1"]
    read = films.films(load_run_config(find_config("demo/tiny"), words), seconds=1.0)
    assert read.error == "" and read.clips_per_s > 0 and read.bad == 0 and read.wanted_clips_per_s > 0
