"""Which rank reads which unit when: pure functions of numbers, so that a loader's whole state is one position.

A unit is what one row of a batch holds: a clip, or a study with several. Training is an endless sequence of units
(`order.py`), cut into global batches of consecutive positions (batches straddle epochs: nothing is dropped or padded), and ranks
take rows of the global batch. So the rows of an optimiser step depend on its global batch alone, not on ranks, workers or
accumulation. The idea of a counter as state: MosaicML Streaming; here without canonical nodes or shared memory.
"""

from dataclasses import dataclass

import numpy as np

from deepcoro.config import ConfigError
from deepcoro.data.order import Order


@dataclass(frozen=True)
class Row:
    """One row of a batch."""

    position: int
    """Global position in the endless sequence, or in the evaluation's order; -1 = padding."""
    epoch: int
    """Pass over the data (of its source, of its class) that the position lies in; 0 in evaluation."""
    unit: int
    """Index into the units; -1 = padding."""


PADDING = Row(position=-1, epoch=0, unit=-1)


@dataclass(frozen=True)
class Plan:
    """The order of training, and this rank's share of it."""

    order: Order
    """Which unit stands at each position."""
    batch_size: int
    """Rows per rank and micro-step."""
    gradient_accumulation_steps: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "world_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: at least 1 is needed")
        if self.seed < 0:
            raise ConfigError(f"'seed' = {self.seed}: 0 or more is needed")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} of {self.world_size}: 0 to {self.world_size - 1} are allowed")

    @property
    def seed(self) -> int:
        return self.order.seed

    @property
    def num_units(self) -> int:
        """Positions of one epoch."""
        return self.order.num_units

    @property
    def rows_per_micro_step(self) -> int:
        """Rows that all ranks together take in one micro-step."""
        return self.batch_size * self.world_size

    @property
    def rows_per_step(self) -> int:
        """The global batch: positions that one optimiser step consumes."""
        return self.rows_per_micro_step * self.gradient_accumulation_steps

    def row(self, position: int) -> Row:
        """The row at a global position."""
        return Row(position, *self.order.at(position))


def rows_from(plan: Plan, start_position: int, micro_step: int) -> list[Row]:
    """Rows of the plan's own rank, `micro_step` micro-steps after a start (0, or where a resumed run goes on)."""
    start = start_position + micro_step * plan.rows_per_micro_step + plan.rank * plan.batch_size
    return [plan.row(position) for position in range(start, start + plan.batch_size)]


def evaluation_rows(num_units: int, batch_size: int, world_size: int, rank: int) -> list[list[Row]]:
    """Batches of one rank: every unit once over all ranks, in order, as many batches on each, the tail filled with padding."""
    per_batch = batch_size * world_size
    batches = []
    for start in range(rank * batch_size, -(-num_units // per_batch) * per_batch, per_batch):
        units = range(start, start + batch_size)
        batches.append([Row(unit, 0, unit) if unit < num_units else PADDING for unit in units])
    return batches


def chosen_clips(num_clips: int, num_videos: int, draw: np.random.Generator | None) -> tuple[int, ...]:
    """Clips of a study that a row shows, ascending: all if they fit, else drawn without replacement, or evenly spaced (no `draw`)."""
    if num_clips <= num_videos:
        return tuple(range(num_clips))
    if draw is None:
        return tuple(int((place + 0.5) * num_clips / num_videos) for place in range(num_videos))
    return tuple(sorted(int(clip) for clip in draw.choice(num_clips, num_videos, replace=False)))
