"""What the training loop holds and hands around."""

from dataclasses import dataclass, field

from deepcoro.build import Parts
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.engine import Engine
from deepcoro.run_config import RunConfig
from deepcoro.skipped import Skipped
from deepcoro.timetable import Timetable


@dataclass
class Progress:
    """How far the run is; saved with every checkpoint."""

    step: int = 0
    """Optimiser steps done."""
    best: float | None = None
    """Best value of evaluate.best_metric so far."""
    best_step: int = 0
    """Step that had it."""
    evaluations_since_best: int = 0
    """Evaluations without a better one."""


@dataclass
class Run:
    """Everything the loop touches."""

    config: RunConfig
    parts: Parts
    engine: Engine | None
    """Of the phase that the run is in; None before the first."""
    stream: TrainingStream
    plan: Plan
    max_steps: int
    timetable: Timetable
    skipped: Skipped
    flops_per_sample: float | None = None
    """Of forward and backward; None where the device's peak is not known."""
    progress: Progress = field(default_factory=Progress)

    @property
    def position(self) -> int:
        """Of the first row that the steps done so far have not read."""
        return self.stream.position_after(self.progress.step)


@dataclass(frozen=True)
class Due:
    """What the timetable asks for after a step; the same on every rank."""

    log: bool
    ended_epoch: int | None
    """The epoch (0, 1, ...) that the step finished."""
    evaluation: bool
    checkpoint: bool
    """Whatever the saver says of steps and minutes."""
    next_phase: bool
