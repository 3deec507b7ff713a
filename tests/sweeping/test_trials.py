"""Sweeps of a trainer that is done in a moment: the same trials however often they are stopped, none twice, and what comes of failures."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepcoro.config import ConfigError, DataError
from deepcoro.run_config import load_run_config
from deepcoro.sweeping import summary
from deepcoro.sweeping.trials import Sweep, Trials
from deepcoro.sweeping.worker import Place, Worker, places_of
from tests.sweeping import fast_trainer
from tests.sweeping.test_sweep_file import sweep_file

LR = {"optim.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1}}
TWO = LR | {"seed": {"values": [0, 1, 2]}}


def made(folder: Path, count: int | None = 12, parameters: dict[str, Any] = TWO, **more: Any) -> Sweep:
    return Sweep("demo/tiny", (), sweep_file(parameters, **more), folder, count=count)


def fast(sweep: Sweep, place: Place, words: Sequence[str]) -> list[str]:
    return [sys.executable, "-S", fast_trainer.__file__, *words]


def worker(sweep: Sweep, places: Sequence[Place] = ((),), max_restarts: int = 1) -> Worker:
    working = Worker(sweep, places, fast, lambda trials: None, max_restarts)
    working.look_every_s = 0.02
    return working


def work(sweep: Sweep, step_s: float) -> None:
    """In a process of its own."""
    os.environ["STEP_S"] = str(step_s)
    os._exit(worker(sweep).run())


def began(sweep: Sweep, step_s: float = 0.1) -> multiprocessing.Process:
    # forked, so that it need not import everything again
    process = multiprocessing.get_context("fork").Process(target=work, args=(sweep, step_s))
    process.start()
    return process


def wait_for(holds: Any, patience_s: float = 300) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def starts(sweep: Sweep) -> dict[int, list[int]]:
    """Of each trial, the steps at which it was started."""
    found = {}
    for folder in sorted((sweep.folder / "trials").iterdir()):
        lines = (folder / "starts.txt").read_text().splitlines()
        found[int(folder.name)] = [int(line.split()[1]) for line in lines]
    return found


def results(sweep: Sweep) -> list[tuple]:
    trials = Trials(sweep).study.get_trials()
    return [(each.number, each.state.name, each.user_attrs["values"], each.value) for each in trials]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_sweep_killed_midway_and_continued_is_the_sweep_that_never_was_killed(
    tmp_path: Path, method: str
) -> None:
    whole, killed = (made(tmp_path / name, method=method) for name in ("whole", "killed"))
    assert worker(whole).run() == 0
    process = began(killed)
    middle = killed.run_dir(5) / "progress.txt"
    wait_for(middle.is_file)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(Trials(killed).of_state("COMPLETE")) == 5
    assert worker(killed).run() == 0
    assert results(killed) == results(whole)
    assert len(results(killed)) == 12 and {state for _, state, _, _ in results(killed)} == {"COMPLETE"}
    again = starts(killed)
    assert all(again[number] == [0] for number in again if number != 5), "what was done is not done again"
    assert len(again[5]) <= 2 and again[5][-1] > 0, "the killed one goes on from its checkpoint"


def test_a_sweep_that_is_asked_to_stop_lets_its_run_save_and_goes_on(tmp_path: Path) -> None:
    sweep = made(tmp_path, 3)
    process = began(sweep)
    wait_for((sweep.run_dir(1) / "progress.txt").is_file)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75
    assert [each.number for each in Trials(sweep).of_state("RUNNING")] == [1]
    assert worker(sweep).run() == 0
    assert [state for _, state, _, _ in results(sweep)] == ["COMPLETE"] * 3
    steps = [json.loads(line)["step"] for line in (sweep.run_dir(1) / "metrics.jsonl").open()]
    assert steps == [1, 2, 3, 4]


def test_two_workers_share_the_trials_and_run_none_twice(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    both = [began(sweep, 0.02) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert starts(sweep) == {number: [0] for number in range(12)}
    assert [state for _, state, _, _ in results(sweep)] == ["COMPLETE"] * 12


def test_a_trial_is_not_taken_while_the_run_of_its_dead_worker_lives(tmp_path: Path) -> None:
    sweep = made(tmp_path, 1)
    first, second = Trials(sweep), Trials(sweep)
    held = first.claim()
    assert held.number == 0 and second.claim() is None
    alive = os.fork()
    if alive == 0:  # the run: it inherits the lock, as it does from Popen
        signal.pause()
    held.let_go()
    try:
        assert second.claim() is None
    finally:
        os.kill(alive, signal.SIGKILL)
        os.waitpid(alive, 0)
    again = second.claim()
    assert again.number == 0 and again.values == held.values
    again.let_go()


def test_one_worker_keeps_each_group_of_gpus_busy(tmp_path: Path) -> None:
    seen: list[Place] = []

    def watched(sweep: Sweep, place: Place, words: Sequence[str]) -> list[str]:
        seen.append(place)
        return fast(sweep, place, words)

    sweep = made(tmp_path, 6)
    working = Worker(sweep, places_of([0, 1, 2, 3], 2), watched, lambda trials: None)
    working.look_every_s = 0.02
    assert working.run() == 0
    assert set(seen) == {(0, 1), (2, 3)} and len(seen) == 6
    assert places_of([], 1) == [()]
    with pytest.raises(ConfigError, match="3 GPUs cannot be shared by --gpus_per_trial 2"):
        places_of([0, 1, 2], 2)


def test_a_grid_is_run_in_order_and_to_its_end(tmp_path: Path) -> None:
    sweep = made(
        tmp_path, None, {"optim.lr": {"values": [1e-4, 1e-3]}, "seed": {"min": 0, "max": 1}}, method="grid"
    )
    held = Trials(sweep).claim()
    held.let_go()  # its worker dies at once
    assert worker(sweep).run() == 0
    values = [given for _, _, given, _ in results(sweep)]
    assert values == [{"optim.lr": lr, "seed": seed} for lr in (1e-4, 1e-3) for seed in (0, 1)]
    assert Trials(sweep).best().number == 2, "the earlier of two that are alike"


def test_more_trials_may_follow_and_another_sweep_may_not(tmp_path: Path) -> None:
    assert worker(made(tmp_path, 1)).run() == 0
    assert worker(made(tmp_path, 2)).run() == 0
    assert len(results(made(tmp_path, 2))) == 2
    with pytest.raises(ConfigError, match="holds a sweep with another sweep; choose another --output"):
        Trials(made(tmp_path, 2, LR))
    with pytest.raises(ConfigError, match="say how many trials with --count"):
        Trials(made(tmp_path, None))


def test_a_sweep_begun_before_there_was_a_key_goes_on_and_what_differs_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Trials(made(tmp_path))
    path = tmp_path / "sweep.json"
    whole = json.loads(path.read_text())
    old = json.loads(path.read_text())
    del old["config"]["optim"]["weight_decay"], old["config"]["ema"], old["sweep"]["early_terminate"]
    path.write_text(json.dumps(old))
    with caplog.at_level("INFO"):
        Trials(made(tmp_path))
    assert "begun before there was optim.weight_decay, ema, early_terminate; their defaults" in caplog.text
    assert json.loads(path.read_text()) == whole, "they are kept from now on"

    old["config"]["optim"]["lr"] = 0.5
    path.write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"another config; .*: optim\.lr was 0\.5 and is [0-9.]+$"):
        Trials(made(tmp_path))
    path.write_text(json.dumps(whole | {"config": whole["config"] | {"gone": 1}}))
    with pytest.raises(ConfigError, match=r"unknown key 'gone'.*the version it was begun with"):
        Trials(made(tmp_path))


def test_a_trial_that_falls_behind_ends_early_and_the_best_does_not(tmp_path: Path) -> None:
    stop = {"type": "hyperband", "min_iter": 1, "eta": 2}
    grid = {"optim.lr": {"values": [1e-3, 1e-1, 1e-2]}}
    sweep = made(tmp_path, None, grid, method="grid", early_terminate=stop)
    (tmp_path / "trials").mkdir(parents=True)
    (tmp_path / "trials" / "crash.json").write_text(json.dumps({"0001": "waits", "0002": "waits"}))
    assert worker(sweep).run() == 0
    assert [state for _, state, _, _ in results(sweep)] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert len((sweep.run_dir(1) / "progress.txt").read_text().splitlines()) < fast_trainer.STEPS
    assert Trials(sweep).best().number == 0


def test_a_target_ends_the_sweep(tmp_path: Path) -> None:
    grid = {"optim.lr": {"values": [1e-1, 1e-3, 1e-2]}}
    metric = {"name": "val/loss", "goal": "minimize", "target": 0.5}
    sweep = made(tmp_path, None, grid, method="grid", metric=metric)
    assert worker(sweep).run() == 0
    assert len(results(sweep)) == 2


def test_a_killed_run_goes_on_and_a_bad_one_is_told_with_its_reason(tmp_path: Path) -> None:
    sweep = made(tmp_path, 4)
    (tmp_path / "trials").mkdir(parents=True)
    (tmp_path / "trials" / "crash.json").write_text(json.dumps({"0001": "killed once", "0002": "bad data"}))
    assert worker(sweep).run() == 0
    assert [state for _, state, _, _ in results(sweep)] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    found = starts_of_folders(sweep)
    assert found[1] == [0, 2] and found[2] == [0]
    assert Trials(sweep).study.get_trials()[2].user_attrs["reason"] == "the disk is full"


def starts_of_folders(sweep: Sweep) -> dict[int, list[int]]:
    (sweep.folder / "trials" / "crash.json").unlink()
    return starts(sweep)


def test_a_sweep_of_which_every_trial_fails_stops(tmp_path: Path) -> None:
    sweep = made(tmp_path, 12, metric={"name": "val/los", "goal": "minimize"})
    with pytest.raises(DataError, match=r"all 3 trials failed.*no 'val/los'; it has \['val/loss'\]"):
        worker(sweep).run()
    assert len(Trials(sweep).of_state("FAIL")) == 3


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    sweep = made(tmp_path_factory.mktemp("done"), summary._FEWEST)
    assert worker(sweep).run() == 0
    return sweep


def test_the_summary_shows_every_trial_and_its_best_config_loads(done: Sweep) -> None:
    trials = Trials(done)
    written = summary.write_summary(done, trials)
    assert [path.name for path in written] == ["trials.csv", "best_config.yaml", "summary.html"]
    page = (done.folder / "summary.html").read_text()
    assert page.count("<svg") == 2 and "<td>optim.lr</td>" in page
    assert page.count("<td>complete</td>") == summary._FEWEST and "src=" not in page
    best = min(trials.study.get_trials(), key=lambda each: each.value)
    config = load_run_config(done.folder / "best_config.yaml", [])
    assert config.optim.lr == best.user_attrs["values"]["optim.lr"]
    assert config.seed == best.user_attrs["values"]["seed"]
    assert config.run_dir == done.folder / "best"
    assert len((done.folder / "trials.csv").read_text().splitlines()) == 1 + summary._FEWEST
    first = (done.folder / "best_config.yaml").read_text().splitlines()[0]
    assert first.startswith("# tools/runner.sh --base_config ") and yaml.safe_load(first) is None


def test_importance_finds_the_key_that_matters(tmp_path: Path) -> None:
    sweep = made(tmp_path, 40)
    trials = Trials(sweep)
    assert summary.importance(trials) == []
    while held := trials.claim():
        trials.tell(held, "COMPLETE", float(held.trial.params["optim.lr"]))
    (first, share), *_ = summary.importance(trials)
    assert first == "optim.lr" and share > 0.7
