"""One optimiser step over the micro-batches of a window; it knows no paradigm and reads on one screen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepcoro import distributed
from deepcoro.engine import Engine
from deepcoro.model import Batch, to_device


@dataclass
class Record:
    """What one optimiser step left on the device, not yet read."""

    sums: dict[str, Tensor]
    counts: dict[str, Tensor]
    metrics: dict[str, Tensor]
    grad_norm: Tensor | None
    lr: dict[str, float]
    loss_weights: Mapping[str, float]


def train_step(
    engine: Engine,
    window: list[Batch],
    step: int,
    lr: dict[str, float],
    loss_weights: Mapping[str, float],
) -> Record:
    """Optimiser step `step` (0-based) with the learning rate of each group; only objectives that `loss_weights` names compute.

    Every objective is normalised by its targets in the whole window on all ranks: the loss does not depend on how the
    global batch is cut into ranks and micro-steps (the contrastive one does, through who is whose negative).
    """
    config = engine.config
    objectives = {name: engine.model.objectives[name] for name in loss_weights}
    counts = {
        name: distributed.sum_over_ranks(sum(objective.count(batch) for batch in window).to(engine.device))
        for name, objective in objectives.items()
    }
    engine.set_lr(lr)
    engine.model.train()
    sums = {name: torch.zeros(1, device=engine.device) for name in objectives}
    metrics, grad_norm = {}, None
    # Both backends divide by the accumulation count and average over ranks; the sum of shares wants neither.
    undo = distributed.world_size() * len(window)
    for micro_step, batch in enumerate(window):
        torch.manual_seed(_seed_of(config.seed, step, micro_step, distributed.rank()))
        with engine.micro_step():
            results = engine.wrapped(to_device(batch, engine.device), task="losses", active=objectives)
            loss = torch.zeros(1, device=engine.device)
            for name, result in results.items():
                share = result.pop("sum")
                sums[name] += share.detach()
                metrics |= {f"{name}/{key}": value for key, value in result.items()}
                loss = loss + loss_weights[name] * undo * share / counts[name].clamp(min=1)
            grad_norm = engine.backward(loss.squeeze(0))
    engine.move_teachers(objectives)
    return Record(sums, counts, metrics, grad_norm, lr, loss_weights)


def _seed_of(*numbers: int) -> int:
    """Dropout and drop-path depend on these alone, so a resumed run repeats them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
