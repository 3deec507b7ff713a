"""One optimiser step over the micro-batches of a window; it knows no paradigm and reads on one screen."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deepcoro import distributed
from deepcoro.engine import Engine
from deepcoro.finite import RunningStatistics, with_its_gradient
from deepcoro.gradient_cache import Embedded, window_gradients
from deepcoro.model import Batch, soon_on, to_device


@dataclass
class Record:
    """What one optimiser step left on the device, not yet read."""

    counts: dict[str, Tensor]
    lr: dict[str, float]
    loss_weights: Mapping[str, float]
    sums: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    grad_norm: Tensor | None = None
    took_step: Tensor | None = None
    """[] bool, the same on every rank: false where loss or gradient were not finite, and so nothing has changed."""

    def normalised(self, name: str, share: Tensor) -> Tensor:
        """A share's part in the loss of the window, [1]; over micro-batches and ranks the parts add up to it."""
        part = self.loss_weights[name] * (share / self.counts[name].clamp(min=1)).sum().reshape(1)
        return with_its_gradient(part)

    def add(self, name: str, result: dict[str, Tensor]) -> None:
        """An objective's share of a micro-batch or of the window, with its metrics."""
        share = result["sum"].detach()
        self.sums[name] = self.sums[name] + share if name in self.sums else share
        self.metrics |= {f"{name}/{key}": value for key, value in result.items() if key != "sum"}


def train_step(
    engine: Engine,
    window: list[Batch],
    step: int,
    lr: dict[str, float],
    loss_weights: Mapping[str, float],
) -> Record:
    """Optimiser step `step` (0-based) with the learning rate of each group; only objectives that `loss_weights` names compute.

    Every objective is normalised by its targets in the whole window on all ranks: the loss does not depend on how the
    global batch is cut into ranks and micro-steps (without `gradient_cache` the contrastive one does, through who is whose negative).
    Where the loss or the gradient is not finite on any rank, nothing changes on any of them, and `Record.took_step` is false.
    """
    record = Record(_counts(engine, window, loss_weights), lr, loss_weights)
    engine.set_lr(lr)
    engine.model.train()
    statistics = RunningStatistics(engine.model)
    cached = [{} for _ in window]
    if engine.config.gradient_cache and len(window) > 1:
        cached = _cache(engine, window, step, record)
    # Both backends divide by the accumulation count and average over ranks; the sum of shares wants neither.
    undo = distributed.world_size() * len(window)
    for micro_step, batch in enumerate(window):
        _seed(engine, step, micro_step)
        with engine.micro_step():
            batch = to_device(batch, engine.device)
            results = engine.wrapped(
                batch, task="losses", active=list(loss_weights), cached=cached[micro_step]
            )
            loss = torch.zeros(1, device=engine.device)
            for name, result in results.items():
                loss = loss + undo * _part_of_loss(record, name, result)
            record.grad_norm = engine.backward(loss.squeeze(0))
    record.took_step = engine.took_step
    statistics.keep_if(engine.took_step)
    engine.move_teachers(list(loss_weights))
    engine.move_averages(step + 1)
    return record


def _part_of_loss(record: Record, name: str, result: dict[str, Tensor]) -> Tensor:
    """What an objective adds to the loss of a micro-batch; one whose window is cached has been recorded."""
    if "surrogate" in result:
        return result["surrogate"]
    record.add(name, result)
    return record.normalised(name, result["sum"])


def _counts(engine: Engine, window: list[Batch], loss_weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Targets of each objective in the window, on all ranks. Counted and summed on the hosts: no rank waits for its device."""
    objectives = engine.model.objectives
    mine = {name: sum(objectives[name].count(batch) for batch in window) for name in loss_weights}
    total = distributed.sum_over_hosts(torch.cat(list(mine.values())).numpy())
    packed = soon_on(torch.from_numpy(total), engine.device)
    return dict(zip(mine, packed.split([len(count) for count in mine.values()]), strict=True))


def _cache(engine: Engine, window: list[Batch], step: int, record: Record) -> list[dict[str, Embedded]]:
    """For each micro-batch the gradients of what the objectives that compare rows embed; their losses over the window are recorded."""
    names = [name for name in record.counts if hasattr(engine.model.objectives[name], "loss_of")]
    cached, embedded = [{} for _ in window], []
    if not names:
        return cached
    for micro_step, batch in enumerate(window):
        _seed(engine, step, micro_step)
        with torch.no_grad():
            batch = to_device(batch, engine.device)
            embedded.append(engine.wrapped(batch, task="embed", active=names))
    for name in names:
        loss_of, normalise = engine.model.objectives[name].loss_of, functools.partial(record.normalised, name)
        results, gradients = window_gradients([each[name] for each in embedded], loss_of, normalise)
        record.add(name, results)
        for of_micro_batch, gradient in zip(cached, gradients, strict=True):
            of_micro_batch[name] = gradient
    return cached


def _seed(engine: Engine, step: int, micro_step: int) -> None:
    """Dropout and drop-path depend on these numbers alone, so a resumed run repeats them, and so does a second pass."""
    numbers = (engine.config.seed, step, micro_step, distributed.rank())
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))
