"""Optimiser steps that did not count, because loss or gradient were not finite: which, with whose samples, and when they are too many.

Flags stay on the device until the run reads its numbers anyway; all ranks hold the same ones, so all decide alike.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pydantic
import torch
from jaxtyping import Bool
from torch import Tensor

from deepcoro import atomic, distributed
from deepcoro.config import Block, DataError

logger = logging.getLogger(__name__)

FILE = "non_finite.json"
_NAMED = 8


class Config(Block):
    """A step whose loss or gradient is not finite is skipped on all ranks; what comes of it when there are many."""

    max_skipped: int = pydantic.Field(default=5, ge=0)
    """Skipped steps allowed in any window_steps; with one more the run goes back to its last good checkpoint and on with other samples."""
    window_steps: int = pydantic.Field(default=100, ge=1)
    """Optimiser steps that max_skipped is counted in."""
    max_rollbacks: int = pydantic.Field(default=2, ge=0)
    """How often a run goes back; then it stops and names the samples of the skipped steps."""


class Skipped:
    """The account of a run, the same on every rank; rank 0 also writes it to run_dir/non_finite.json."""

    def __init__(self, config: Config, run_dir: Path):
        self.steps: list[int] = []
        """Numbers, as in metrics.jsonl, of the steps of this run that did not count; as of the last `read`."""
        self.rollbacks: list[dict[str, Any]] = []
        self._config, self._path = config, run_dir / FILE
        self._unread: list[tuple[int, Tensor]] = []
        self._samples: dict[int, list[str]] = {}
        self._began = 0

    def note(self, step: int, took_step: Bool[Tensor, ""]) -> None:
        """Takes the flag of a step as it lies on the device."""
        self._unread.append((step, took_step))

    def read(self, samples_of: Callable[[int], list[str]]) -> None:
        """Reads the flags that were noted: waits for the device. `samples_of` a step gives the keys of its samples."""
        if not self._unread:
            return
        numbers, flags = zip(*self._unread, strict=True)
        self._unread = []
        took = torch.stack(flags).tolist()
        fresh = [number for number, counted in zip(numbers, took, strict=True) if not counted]
        if not fresh:
            return
        self.steps += fresh
        self._samples |= {step: samples_of(step) for step in fresh}
        self._write()
        if distributed.rank() == 0:
            logger.warning("loss or gradient not finite: skipped step %s", ", ".join(map(str, fresh)))

    @property
    def too_many(self) -> list[int]:
        """The steps of the first window that holds more than are allowed since the run last went back; else none."""
        counted = [step for step in self.steps if step > self._began]
        allowed, window = self._config.max_skipped, self._config.window_steps
        for first, last in zip(counted, counted[allowed:], strict=False):
            if last - first < window:
                return [step for step in counted if first <= step <= last]
        return []

    def stop_if_often(self) -> None:
        """DataError with the samples of the skipped steps when the run has gone back as often as it may."""
        if len(self.rollbacks) >= self._config.max_rollbacks:
            self._stop()

    def go_back(self, from_step: int, to_step: int, rows: tuple[int, int]) -> None:
        """The run continues from `to_step`, and not with the `rows` (positions, the end excluded) that it has read since."""
        lost = [step for step in self.steps if step > to_step]
        entry = {"from_step": from_step, "to_step": to_step, "rows_not_read_again": list(rows)}
        self.rollbacks.append(entry | {"skipped_steps": self._named(lost)})
        self._keep_until(to_step)
        self._write()

    def state(self) -> dict[str, Any]:
        """For a checkpoint, after `read`; plain JSON values."""
        return {"steps": self.steps, "rollbacks": self.rollbacks}

    def restore(self, state: dict[str, Any] | None, step: int) -> int:
        """Goes on from a checkpoint of `step` that holds `state` (None: from the beginning). Returns the position up to which rows are
        not to be read: the run may have gone back to that checkpoint, of which only the file can know. Collective.
        """
        told = distributed.broadcast_object(self._file() if distributed.rank() == 0 else None)
        if state is None:
            self._path.unlink(missing_ok=True)  # of a run that left no checkpoint
            return 0
        state = {"steps": [], "rollbacks": []} | state
        self.rollbacks = [each for each in told["rollbacks"] if each["to_step"] <= step] or state["rollbacks"]
        self.steps = list(state["steps"])
        self._samples = {int(number): names for number, names in told["steps"].items()}
        self._keep_until(step)
        last = self.rollbacks[-1] if self.rollbacks else {"to_step": -1}
        return last["rows_not_read_again"][1] if last["to_step"] == step else 0

    def _file(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.is_file() else {"rollbacks": [], "steps": {}}

    def _keep_until(self, step: int) -> None:
        self.steps = [each for each in self.steps if each <= step]
        self._samples = {each: names for each, names in self._samples.items() if each in self.steps}
        self._unread, self._began = [], step

    def _named(self, steps: list[int]) -> dict[str, list[str]]:
        return {str(step): self._samples.get(step, []) for step in steps}

    def _write(self) -> None:
        if distributed.rank() == 0:
            told = {"steps": self._named(self.steps), "rollbacks": self.rollbacks}
            atomic.write_text(self._path, json.dumps(told, indent=1) + "\n")

    def _stop(self) -> NoReturn:
        steps = self.too_many
        names = sorted({name for step in steps for name in self._samples.get(step, [])})
        more = f" and {len(names) - _NAMED} more ({FILE} names all)" if len(names) > _NAMED else ""
        raise DataError(
            f"loss or gradient were not finite at steps {', '.join(map(str, steps))}, more often than non_finite.max_skipped "
            f"{self._config.max_skipped} in {self._config.window_steps} steps, after going back {len(self.rollbacks)} times; their samples: "
            f"{', '.join(names[:_NAMED])}{more}. Look at these films; non_finite.max_rollbacks may be raised, a lower optim.lr or max_grad_norm "
            "needs a new run_dir. No checkpoint holds such a step",
            topic="not-finite",
        )
