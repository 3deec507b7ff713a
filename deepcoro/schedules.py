"""The blocks of the configuration that say when: which objective takes part from which step to which, what is frozen until when.

Every moment is either a number of optimiser steps (`..._step`, `..._steps`) or a share of the run (`..._fraction`), never one number that
could mean both. `timetable.Timetable` turns them into steps.
"""

import pydantic

from deepcoro.config import Block

_Step = pydantic.Field(default=None, ge=0)
_Fraction = pydantic.Field(default=None, ge=0, le=1)


class Schedule(Block):
    """When an objective takes part. Before its start and from its end on it does not exist: nothing of it is computed on any rank,
    its own parameters neither move nor decay and have no moments.
    """

    start_step: int | None = _Step
    """Optimiser steps done before the objective begins; its own parameters then start with zero moments. Unset = start_fraction."""
    start_fraction: float | None = _Fraction
    """The same as a share of the run's steps: 0.8 = in the last fifth, as SigLIP 2 (arXiv:2502.14786) does. Unset = from the first step."""
    end_step: int | None = _Step
    """Optimiser steps done when the objective ends. Unset = end_fraction."""
    end_fraction: float | None = _Fraction
    """The same as a share of the run's steps. Unset = it stays to the last step."""
    warmup_steps: int | None = _Step
    """Steps from the start on over which the learning rate of the objective's own parameters rises linearly, on top of the run's
    schedule. Unset = warmup_fraction."""
    warmup_fraction: float | None = _Fraction
    """The same as a share of the run's steps. Unset = no warm-up of its own."""
    ramp_steps: int | None = _Step
    """Steps from the start on over which the weight of the loss goes linearly from ramp_from to 1 times its loss_weights. Unset = ramp_fraction."""
    ramp_fraction: float | None = _Fraction
    """The same as a share of the run's steps. Unset = the whole weight from the start."""
    ramp_from: float = pydantic.Field(default=0.0, ge=0)
    """Where the ramp begins, in shares of the objective's loss_weights; above 1 the weight falls."""

    @pydantic.model_validator(mode="after")
    def _one_unit_each(self) -> "Schedule":
        for steps, fraction in _PAIRS:
            _refuse_both(self, steps, fraction)
        return self

    def start(self, max_steps: int) -> int:
        """Steps done before the objective begins."""
        return _steps(self.start_step, self.start_fraction, max_steps, 0)

    def end(self, max_steps: int) -> int:
        """Steps done when the objective ends."""
        return _steps(self.end_step, self.end_fraction, max_steps, max_steps)

    def warmup(self, step: int, max_steps: int) -> float:
        """Share of its learning rate that the objective's own parameters have at `step` (0-based)."""
        length = _steps(self.warmup_steps, self.warmup_fraction, max_steps, 0)
        return _risen(step - self.start(max_steps), length)

    def ramp(self, step: int, max_steps: int) -> float:
        """Share of its weight that the objective's loss has at `step`."""
        length = _steps(self.ramp_steps, self.ramp_fraction, max_steps, 0)
        return self.ramp_from + (1 - self.ramp_from) * _risen(step - self.start(max_steps), length)


_PAIRS = (
    ("start_step", "start_fraction"),
    ("end_step", "end_fraction"),
    ("warmup_steps", "warmup_fraction"),
    ("ramp_steps", "ramp_fraction"),
)


class FreezePhase(Block):
    """What of the towers is frozen until a moment of the run."""

    until_step: int | None = pydantic.Field(default=None, ge=1)
    """Optimiser steps done when the phase ends. Either this or until_fraction."""
    until_fraction: float | None = pydantic.Field(default=None, gt=0, le=1)
    """The same as a share of the run's steps."""
    video: float | None = _Fraction
    """Fraction of the video tower that is FROZEN, counted as video_freeze_ratio; unset = that one."""
    text: float | None = _Fraction
    """Fraction of the text tower that is FROZEN, counted as text_freeze_ratio; unset = that one."""

    @pydantic.model_validator(mode="after")
    def _has_an_end(self) -> "FreezePhase":
        _refuse_both(self, "until_step", "until_fraction")
        if self.until_step is None and self.until_fraction is None:
            raise ValueError("a phase of freeze needs until_step or until_fraction")
        return self

    def end(self, max_steps: int) -> int:
        """Steps done when the phase ends."""
        return _steps(self.until_step, self.until_fraction, max_steps, max_steps)


def _refuse_both(block: Block, steps: str, fraction: str) -> None:
    if getattr(block, steps) is not None and getattr(block, fraction) is not None:
        raise ValueError(f"{steps} and {fraction} say the same in two units; give one of them")


def _steps(steps: int | None, fraction: float | None, max_steps: int, default: int) -> int:
    if steps is not None:
        return steps
    return default if fraction is None else round(fraction * max_steps)


def _risen(done: int, length: int) -> float:
    """Height of a line from 0 to 1 over `length` steps; the first step already has its share."""
    return 1.0 if done >= length else (done + 1) / length
