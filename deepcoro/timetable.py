"""What trains at which step: phases of the run as a pure function of the step, and a model put into one of them.

Within a phase the same objectives are active and the same parameters train. DDP and ZeRO are told once what trains, so a new phase
is a new engine around a new model, made from a checkpoint as a resumed run is; that is why resuming is exact in any phase.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from deepcoro.config import ConfigError
from deepcoro.run_config import RunConfig


@dataclass(frozen=True)
class Phase:
    """A stretch of steps in which the same things train."""

    start: int
    """Optimiser steps done when it begins."""
    active: tuple[str, ...]
    """Objectives that take part."""
    frozen: tuple[tuple[str, float], ...]
    """Of each tower that `freeze` speaks of the fraction frozen."""


class Timetable:
    """The run's schedules in steps. Raises ConfigError for a schedule that cannot be kept."""

    def __init__(self, config: RunConfig, max_steps: int):
        self._config, self._max_steps = config, max_steps
        self._spans = {
            name: (schedule.start(max_steps), min(schedule.end(max_steps), max_steps))
            for name, schedule in config.schedules.items()
        }
        self._ends = [phase.end(max_steps) for phase in config.freeze]
        self._refuse_impossible()
        moments = {0, *self._ends, *(moment for span in self._spans.values() for moment in span)}
        self.phases: list[Phase] = []
        for step in sorted(moment for moment in moments if moment < max_steps):
            active, frozen = self._active(step), self._frozen(step)
            if not self.phases or (active, frozen) != (self.phases[-1].active, self.phases[-1].frozen):
                self.phases.append(Phase(step, active, frozen))
            if not active:
                raise ConfigError(f"schedules leave no objective active at step {step} of {max_steps}")

    def at(self, step: int) -> Phase:
        """The phase of the step that comes after `step` done ones; after the last step its own."""
        return next(phase for phase in reversed(self.phases) if phase.start <= step)

    def begins_at(self, step: int) -> bool:
        """Whether another phase begins once `step` steps are done."""
        return step > 0 and self.at(step).start == step and step < self._max_steps

    def beginning_at(self, step: int) -> list[str]:
        """Objectives whose first step is the one that comes after `step` done ones."""
        return [name for name in self.at(step).active if self._spans.get(name, (0,))[0] == step]

    def loss_weights(self, step: int) -> dict[str, float]:
        """Weight of the loss of every objective that takes part."""
        weights = {}
        for name in self.at(step).active:
            schedule = self._config.schedules.get(name)
            ramp = 1.0 if schedule is None else schedule.ramp(step, self._max_steps)
            weights[name] = self._config.loss_weights.get(name, 1.0) * ramp
        return weights

    def warmups(self, step: int) -> dict[str, float]:
        """Share of its learning rate that each scheduled objective's own parameters have; 0 while it takes no part."""
        active = self.at(step).active
        return {
            name: schedule.warmup(step, self._max_steps) if name in active else 0.0
            for name, schedule in self._config.schedules.items()
        }

    def history(self, step: int) -> list[Any]:
        """The phases that steps before `step` were in, for a checkpoint: a resumed run must have had the same past."""
        past = [phase for phase in self.phases if phase.start < step] or self.phases[:1]
        return [[phase.start, list(phase.active), [list(each) for each in phase.frozen]] for phase in past]

    def _active(self, step: int) -> tuple[str, ...]:
        spans = {name: self._spans.get(name, (0, self._max_steps)) for name in self._config.objectives}
        return tuple(name for name, (start, end) in spans.items() if start <= step < end)

    def _frozen(self, step: int) -> tuple[tuple[str, float], ...]:
        if not self._config.freeze:
            return ()
        number = sum(end <= step for end in self._ends)
        phase = self._config.freeze[number] if number < len(self._ends) else None
        towers = self._config.towers
        own = {
            "video": getattr(towers.video, "video_freeze_ratio", 0.0),
            "text": getattr(towers.text, "text_freeze_ratio", 0.0),
        }
        given = {tower: getattr(phase, tower, None) for tower in own}
        return tuple((tower, own[tower] if given[tower] is None else given[tower]) for tower in own)

    def _refuse_impossible(self) -> None:
        for name, (start, end) in self._spans.items():
            if start >= end:
                raise ConfigError(
                    f"schedules.{name} starts at step {start} and ends at step {end} of a run of {self._max_steps}: it would "
                    "never take part; let it start earlier, or take it out of objectives"
                )
        if any(later <= earlier for earlier, later in zip(self._ends, self._ends[1:], strict=False)):
            raise ConfigError(
                f"the phases of freeze end at steps {self._ends}; each has to end after the one before"
            )


def enter_phase(model: nn.Module, timetable: Timetable, step: int) -> dict[str, int]:
    """Leaves gradient to what trains after `step` steps, and says of each such parameter at which step it began to (its AdamW moments
    are as old). The model is as it was built.

    Objectives that take no part do not train, and what no active objective reads does not either: it would get no gradient.
    """
    built = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    since: dict[str, int] = {}
    for phase in timetable.phases:
        if phase.start > step:
            break
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in built)
        _freeze(model, phase)
        trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        since = {name: since.get(name, phase.start) for name in trains}
    return since


def _freeze(model: nn.Module, phase: Phase) -> None:
    for tower, ratio in phase.frozen:
        model.towers[tower].freeze(ratio)
    active = [model.objectives[name] for name in phase.active]
    reads = set().union(*(objective.reads for objective in active))
    idle = [objective for name, objective in model.objectives.items() if name not in phase.active]
    if "text" not in reads and "text" in model.towers:
        idle.append(model.towers["text"])
    if "study" not in reads:
        idle.append(model.pooler)
    if not reads & {"study", "clips", "visible"}:
        idle.append(model.towers["video"])
    for module in idle:
        module.requires_grad_(False)
