"""The worker: keeps every group of GPUs busy with one trial each, reads what the runs measure, ends those that fall behind.

One thread looks at all runs in turn. A run is `tools/runner.sh` (`deepcoro.launching`): it passes a signal on so that training saves
first, and returns the run's own exit code.
"""

import json
import logging
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from deepcoro.config import ConfigError, find_config
from deepcoro.launching.command import ROOT
from deepcoro.launching.supervise import end_with_parent
from deepcoro.preemption import EXIT_CODE
from deepcoro.run_config import load_run_config
from deepcoro.sweeping.space import value_text
from deepcoro.sweeping.trials import Held, Sweep, Trials

logger = logging.getLogger(__name__)

Place = tuple[int, ...]
"""GPUs of one trial, as nvidia-smi counts; none: the CPU."""
Command = Callable[[Sweep, Place, Sequence[str]], list[str]]
"""What starts a run with these key=value words on this place."""
_BAD_INPUT = 2
_SUMMARY_EVERY_S = 60.0


def runner(launch: str | None) -> Command:
    """`tools/runner.sh` with these key=value words; `launch`: a name in accelerate_configs/, None = by the number of GPUs."""

    def command(sweep: Sweep, place: Place, words: Sequence[str]) -> list[str]:
        gpus = ",".join(map(str, place)) or "none"
        chosen = ["--launch", launch] if launch else []
        flags = ["--base_config", sweep.config, "--selected_gpus", gpus, "--run_mode", "train"]
        return [sys.executable, "-m", "deepcoro.launching", *flags, *chosen, *words]

    return command


def start_run(words: Sequence[str], folder: Path, lock: int) -> subprocess.Popen:
    """Starts it; what it says goes to `log.txt`. As long as it lives, the trial is taken: it holds the lock as well."""
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C reaches this process alone, which lets the runs save
            preexec_fn=end_with_parent,
        )


def places_of(gpus: Sequence[int], gpus_per_trial: int) -> list[Place]:
    """Groups of GPUs, in order; without GPUs the CPU. ConfigError when they do not come out even."""
    if not gpus:
        return [()]
    if gpus_per_trial < 1 or len(gpus) % gpus_per_trial:
        raise ConfigError(f"{len(gpus)} GPUs cannot be shared by --gpus_per_trial {gpus_per_trial}")
    return [tuple(gpus[at : at + gpus_per_trial]) for at in range(0, len(gpus), gpus_per_trial)]


@dataclass
class _Run:
    """A trial that runs."""

    held: Held
    process: subprocess.Popen
    folder: Path
    size: int = -1
    """Bytes of metrics.jsonl when it was last read."""
    measured: Sequence[float] = ()
    """The metric of each evaluation so far."""
    is_ending: bool = False
    """It was told to stop because it fell behind."""


class Worker:
    """Runs trials until there are none left, or until it is told to stop."""

    look_every_s = 1.0
    """Seconds between two looks at the runs."""

    def __init__(
        self,
        sweep: Sweep,
        places: Sequence[Place],
        command: Command,
        summarise: Callable[[Trials], Any],
        max_restarts: int = 1,
    ):
        """`summarise` is called now and then while trials end, and at the end. A trial whose run was killed starts again from its last
        checkpoint, at most `max_restarts` times.
        """
        self._sweep, self._command, self._summarise = sweep, command, summarise
        self._max_restarts = max_restarts
        self._trials = Trials(sweep)
        self._busy: dict[Place, _Run | None] = dict.fromkeys(places)
        self._asked = 0
        self._preempted = False
        self._others = 0
        self._summarised_at = time.monotonic()

    def run(self) -> int:
        """0: nothing is left to do; 75: told to stop, and the runs have saved. DataError when every trial fails."""
        previous = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self._look():
                time.sleep(self.look_every_s)
        finally:
            for run in filter(None, self._busy.values()):  # we leave by an error: the runs save and end
                run.process.terminate()
            for each, handler in previous.items():
                signal.signal(each, handler)
        self._summarise(self._trials)
        if self._asked or self._preempted:
            logger.info("stopped; the same command goes on")
            return EXIT_CODE
        return 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        for run in filter(None, self._busy.values()):
            run.process.terminate() if self._asked == 1 else run.process.kill()

    def _look(self) -> bool:
        """Looks at every place once; whether there is more to wait for."""
        for place, run in self._busy.items():
            if run is not None and self._watch(run):
                self._busy[place] = None
            if self._busy[place] is None and not (self._asked or self._preempted):
                self._busy[place] = self._next(place)
        return any(self._busy.values()) or self._waits_for_others()

    def _waits_for_others(self) -> bool:
        """A trial that another worker has may yet be left behind: whoever is idle stays to take it up."""
        others = 0 if self._asked or self._preempted else len(self._trials.of_state("RUNNING"))
        if others and others != self._others:
            self._others = others
            logger.info("nothing to begin; %d trials are with other workers", others)
        return others > 0

    def _next(self, place: Place) -> _Run | None:
        """Starts the next trial that can be started."""
        while held := self._trials.claim():
            if "pruned_after" in held.attributes:  # its worker died before it could say so
                self._trials.tell(held, "PRUNED")
                continue
            words = self._sweep.words(held.values, self._sweep.run_dir(held.number))
            try:
                load_run_config(find_config(self._sweep.config), words)
            except ConfigError as error:
                self._end(held, "FAIL", reason=str(error))
                continue
            return self._start(held, place, words)
        return None

    def _start(self, held: Held, place: Place, words: Sequence[str]) -> _Run:
        folder = self._sweep.run_dir(held.number)
        folder.mkdir(parents=True, exist_ok=True)
        where = f"GPUs {','.join(map(str, place))}" if place else "the CPU"
        logger.info("trial %d on %s: %s", held.number, where, _shown(held.values))
        process = start_run(self._command(self._sweep, place, words), folder, held.lock)
        if self._asked:  # it came between the claim and the start
            process.terminate()
        return _Run(held, process, folder)

    def _watch(self, run: _Run) -> bool:
        """Reads what was measured; whether the run is over and its trial told."""
        status = run.process.poll()
        self._read(run)
        if status is None:
            return False
        if run.is_ending:
            self._end(run.held, "PRUNED", reason=f"behind after {run.held.attributes['pruned_after']}")
        elif status == 0:
            self._tell_value(run.held, run.measured)
        elif self._asked:
            run.held.let_go()
        elif status == EXIT_CODE:  # somebody else asked the run to stop, as a scheduler does
            self._preempted = True
            run.held.let_go()
        else:
            self._tell_failure(run, status)
        return True

    def _read(self, run: _Run) -> None:
        """Ends the run when what it measured since the last look puts it behind."""
        path = run.folder / "metrics.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        if size == run.size:
            return
        run.size, run.measured = size, measured_in(path, self._sweep.file.metric.name)
        if run.is_ending or self._asked:
            return
        if run.held.report(run.measured) and run.process.poll() is None:
            run.is_ending = True
            run.process.terminate()

    def _tell_value(self, held: Held, measured: Sequence[float]) -> None:
        numbers = [value for value in measured if math.isfinite(value)]
        metric = self._sweep.file.metric
        if numbers:
            self._end(held, "COMPLETE", min(numbers, key=metric.cost))
        elif measured:
            self._end(held, "FAIL", reason="the metric was never a finite number")
        else:
            found = _evaluated(self._sweep.run_dir(held.number))
            self._end(held, "FAIL", reason=f"metrics.jsonl has no '{metric.name}'; {found}")

    def _tell_failure(self, run: _Run, status: int) -> None:
        """What config or data are to blame for would fail again; a killed run goes on from its checkpoint."""
        restarts = run.held.attributes.get("restarts", 0)
        if status != _BAD_INPUT and restarts < self._max_restarts:
            run.held.trial.set_user_attr("restarts", restarts + 1)
            logger.warning("trial %d ended with %d; it goes on from its checkpoint", run.held.number, status)
            run.held.let_go()  # the next claim takes it up
            return
        self._end(run.held, "FAIL", reason=_reason(run.folder, status))

    def _end(self, held: Held, state: str, value: float | None = None, reason: str = "") -> None:
        said = f" = {value:.5g}" if value is not None else ""
        logger.info("trial %d: %s%s%s", held.number, state.lower(), said, f" ({reason})" if reason else "")
        self._trials.tell(held, state, value, reason)
        if time.monotonic() - self._summarised_at > _SUMMARY_EVERY_S:
            self._summarise(self._trials)
            self._summarised_at = time.monotonic()


def measured_in(path: Path, metric: str) -> list[float]:
    """The values of a metric in metrics.jsonl, in order; an unfinished last line does not count."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [float(line[metric]) for line in map(json.loads, lines) if line.get(metric) is not None]


def _evaluated(folder: Path) -> str:
    """What a run did measure on the val split, for whoever misspelt it."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.is_file() else []
    keys = sorted({key for line in lines for key in line if key.startswith("val/")})
    return f"it has {keys}" if keys else "the run evaluated nothing on val"


def _reason(folder: Path, status: int) -> str:
    path = folder / "exit.json"
    told = json.loads(path.read_text())["reason"] if path.is_file() else ""
    return told or f"ended with {status}; see {folder / 'log.txt'}"


def _shown(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={value_text(value)}" for key, value in values.items())
