"""The trials of a sweep in Optuna's SQLite file, shared by every worker of this machine: each trial has one worker, and goes on with another.

Whose trial it is, is said by a lock (`flock`) on a file of the trial, which the worker and the run that it started both hold. The kernel
frees it when the last of them is gone, however they died, so a trial that Optuna calls running and nobody holds is taken up again, under
its own number and in its own folder, from its last checkpoint. Optuna's own means, a heartbeat, guesses from clocks, works inside
`Study.optimize` alone, and puts a dead trial back under another number.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deepcoro import atomic
from deepcoro.config import ConfigError, DataError, find_config
from deepcoro.migration.keys import TABLES
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.sweeping import record
from deepcoro.sweeping.space import product
from deepcoro.sweeping.sweep_file import SweepFile

if TYPE_CHECKING:
    import optuna

STUDY = "sweep"
FAILURES = 3
"""So many failed trials, and none that was of use, end a sweep: the fault is not in the values."""
_STARTUP = 10
"""Random trials before method bayes learns from them."""


@dataclass(frozen=True)
class Sweep:
    """What is varied, over what, and where it goes."""

    config: str
    """File or shipped name of the config."""
    overrides: tuple[str, ...]
    """key=value words laid over it in every trial."""
    file: SweepFile
    folder: Path
    seed: int = 0
    """Of the draws. Trial N of a seed draws alike, whoever draws it; method bayes learns from what was done before, too."""
    count: int | None = None
    """Trials in all; None: the file's run_cap, or the whole grid."""

    def most_trials(self) -> int:
        """Trials in all. ConfigError where nothing bounds them."""
        bounds = [bound for bound in (self.count, self.file.run_cap) if bound is not None]
        if self.file.method == "grid":
            bounds.append(len(product(self.file.space())))
        if not bounds:
            raise ConfigError(f"method {self.file.method} has no end: say how many trials with --count")
        return min(bounds)

    def run_dir(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def words(self, values: Mapping[str, Any], run_dir: Path) -> list[str]:
        """key=value of a run with these values."""
        own = [f"{key}={in_yaml(value)}" for key, value in values.items()]
        return [*self.overrides, *own, f"run_dir={run_dir}"]


def in_yaml(value: Any) -> str:
    """On one line, so that reading it gives the value again: JSON's 1e-05 would be read as a word."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


class Held:
    """A trial that this worker alone may run, until it is let go."""

    def __init__(self, trial: "optuna.trial.Trial", lock: int, values: dict[str, Any]):
        self.trial = trial
        self.lock = lock
        """File descriptor; a run that inherits it holds the trial as well."""
        self.values = values

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def attributes(self) -> dict[str, Any]:
        return self.trial.user_attrs

    def report(self, measured: Sequence[float]) -> bool:
        """Tells Optuna of evaluations that it has not heard of; whether the trial should end. `measured`: all so far."""
        known = self.trial.study.get_trials(deepcopy=False)[self.number].intermediate_values
        for index in range(len(known), len(measured)):
            self.trial.report(measured[index], index + 1)
            if self.trial.should_prune():
                self.trial.set_user_attr("pruned_after", index + 1)
                return True
        return False

    def let_go(self) -> None:
        os.close(self.lock)


class Trials:
    """All trials of a folder. Any number of these may be open at once."""

    def __init__(self, sweep: Sweep):
        """Opens the folder or begins it. ConfigError where it holds another sweep, or Optuna is not installed."""
        _load_optuna()
        self._sweep = sweep
        self._space = sweep.file.space()
        self._most = sweep.most_trials()
        (sweep.folder / "locks").mkdir(parents=True, exist_ok=True)
        with atomic.locked(sweep.folder):
            config = load_run_config(find_config(sweep.config), list(sweep.overrides))
            record.keep_to_record(sweep.folder, config, sweep.file, sweep.seed)
            self.study = _open_study(sweep)

    def claim(self) -> Held | None:
        """A trial that was left behind, else a new one; None where there is neither. DataError when all that there are failed."""
        with atomic.locked(self._sweep.folder):
            for frozen in self.of_state("RUNNING"):
                held = self._take_up(frozen)
                if held is not None:
                    return held
            number = len(self.study.get_trials(deepcopy=False))
            # a worker died between the two lines that begin a trial of a grid
            waiting = self.of_state("WAITING")
            if not waiting and (number >= self._most or self._reached_target()):
                return None
            self._refuse_to_go_on_failing()
            if self._sweep.file.method == "grid" and not waiting:
                point = product(self._space)[number]
                stored = {each.name: each.stored(point[each.name]) for each in self._space}
                self.study.enqueue_trial(stored)
            number = waiting[0].number if waiting else number
            lock = self._lock(number)
            assert lock is not None, f"trial {number} is new and somebody holds it"
            self.study.sampler = self._sampler(number)
            return self._held(self.study.ask(), lock)

    def _take_up(self, frozen: "optuna.trial.FrozenTrial") -> Held | None:
        import optuna

        lock = self._lock(frozen.number)
        if lock is None:
            return None
        now = self.study.get_trials(deepcopy=False)[frozen.number]
        if now.state != optuna.trial.TrialState.RUNNING:  # it ended between our two looks
            os.close(lock)
            return None
        self.study.sampler = self._sampler(frozen.number)
        return self._held(optuna.trial.Trial(self.study, frozen._trial_id), lock)

    def _held(self, trial: "optuna.trial.Trial", lock: int) -> Held:
        """Values are drawn, or found again: an earlier worker may have died before it had drawn all."""
        values = {parameter.name: parameter.suggest(trial) for parameter in self._space}
        trial.set_user_attr("values", values)
        return Held(trial, lock, values)

    def _lock(self, number: int) -> int | None:
        """None where another process holds it."""
        path = self._sweep.folder / "locks" / f"{number:04d}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """A trial draws by its number, so that a sweep that was stopped goes on as if it had not been."""
        import optuna

        seed = (self._sweep.seed * 1_000_003 + number) % 2**32
        if self._sweep.file.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def tell(self, held: Held, state: str, value: float | None = None, reason: str = "") -> None:
        """Ends the trial as COMPLETE, PRUNED or FAIL and lets it go."""
        import optuna

        if reason:
            held.trial.set_user_attr("reason", reason)
        self.study.tell(held.trial, value, state=optuna.trial.TrialState[state])
        held.let_go()

    def of_state(self, *states: str) -> "list[optuna.trial.FrozenTrial]":
        """By number."""
        import optuna

        wanted = tuple(optuna.trial.TrialState[each] for each in states)
        return self.study.get_trials(deepcopy=False, states=wanted)

    def best(self) -> "optuna.trial.FrozenTrial | None":
        """The complete trial with the best value; the earlier of equal ones."""
        metric = self._sweep.file.metric
        return min(self.of_state("COMPLETE"), key=lambda trial: metric.cost(trial.value), default=None)

    def _reached_target(self) -> bool:
        metric, best = self._sweep.file.metric, self.best()
        if metric.target is None or best is None:
            return False
        return metric.cost(best.value) <= metric.cost(metric.target)

    def _refuse_to_go_on_failing(self) -> None:
        failed = self.of_state("FAIL")
        if len(failed) >= FAILURES and not self.of_state("COMPLETE", "PRUNED"):
            raise DataError(
                f"all {len(failed)} trials failed, the last one: {failed[-1].user_attrs.get('reason')}; "
                "put it right and begin with another --output"
            )


def check_examples(sweep: Sweep) -> None:
    """ConfigError for a key that the config does not have, or a value that it does not take, before the first run."""
    for parameter in sweep.file.space():
        try:
            for value in parameter.examples():
                load_run_config(find_config(sweep.config), sweep.words({parameter.name: value}, sweep.folder))
        except ConfigError as error:
            is_old = parameter.name not in RunConfig.model_fields
            if is_old and any(parameter.name in table for table in TABLES.values()):
                raise ConfigError(
                    f"'{parameter.name}' is a key of DeepCORO_CLIP, docs/migrating.md says what it is here: {error}"
                ) from error
            raise


def _load_optuna() -> None:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "sweeps need Optuna: pip install 'deepcoro[sweep]'", topic="missing-packages"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the sweep has lines of its own


def _open_study(sweep: Sweep) -> "optuna.Study":
    import optuna

    # of a machine's own disk: SQLite's locks are not to be trusted on a network file system
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{sweep.folder.resolve() / 'sweep.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    stop = sweep.file.early_terminate
    pruner = optuna.pruners.NopPruner()
    if stop is not None:
        # W&B's hyperband is one ladder of looks, each keeping the best 1/eta: what Optuna calls successive halving
        pruner = optuna.pruners.SuccessiveHalvingPruner(stop.first_look, stop.eta)
    return optuna.create_study(
        storage=storage,
        study_name=STUDY,
        direction=sweep.file.metric.goal,
        pruner=pruner,
        load_if_exists=True,
    )
