"""The numbers of a training step, read from the device: the one place of the loop that waits for it."""

import math

import torch

from deepcoro import distributed
from deepcoro.fields.report import padded_token_fraction
from deepcoro.model import Batch
from deepcoro.optim import lr_of_places
from deepcoro.run_state import Run
from deepcoro.step import Record


def read_numbers(training: Run, record: Record, window: list[Batch]) -> dict[str, float]:
    """What is logged of the step that is done: losses, norm, learning rates, data. Also reads which steps were skipped. Collective.

    DataError when more samples could not be read than are allowed. What a skipped step has no finite value of is left out.
    """
    damage = training.stream.damage
    own_bad = torch.tensor([float(damage.own)], device=training.engine.device)
    packed = torch.cat([own_bad, *record.sums.values(), *record.metrics.values()]).float()
    totals = distributed.sum_over_ranks(packed).tolist()
    numbers = _of_objectives(training, record, totals[1:])
    if record.grad_norm is not None:
        numbers["train/grad_norm"] = float(record.grad_norm)
    training.skipped.read(training.stream.samples_of)
    numbers["train/skipped_steps"] = float(len(training.skipped.steps))
    numbers["train/rollbacks"] = float(len(training.skipped.rollbacks))
    weights, lr = record.loss_weights, dict.fromkeys(training.config.own_lr, 0.0) | lr_of_places(record.lr)
    numbers |= {f"lr/{place}": rate for place, rate in lr.items()}
    numbers |= {f"loss_weight/{name}": weights.get(name, 0.0) for name in training.config.schedules}
    if "report" in window[0]:
        numbers["speed/padded_token_fraction"] = padded_token_fraction([batch["report"] for batch in window])
    position = training.position
    numbers["epoch"] = position / training.plan.num_units
    numbers |= damage.agree(round(totals[0]), position)
    numbers |= {f"data/{key}": value for key, value in training.plan.order.counters(position).items()}
    return {key: value for key, value in numbers.items() if math.isfinite(value)}


def _of_objectives(training: Run, record: Record, totals: list[float]) -> dict[str, float]:
    """`totals`: sums of the losses' parts, then of the metrics, over all ranks."""
    remaining = iter(totals)
    counts = {name: record.counts[name].tolist() for name in record.sums}
    parts = {
        name: [next(remaining) / max(count, 1) for count in of_parts] for name, of_parts in counts.items()
    }
    losses = {name: sum(of_parts) for name, of_parts in parts.items()}
    numbers = {"train/loss": sum(record.loss_weights[name] * loss for name, loss in losses.items())}
    numbers |= {f"train/{name}/loss": loss for name, loss in losses.items()}
    for name in losses:
        named = getattr(training.engine.model.objectives[name], "parts", {})
        numbers |= {
            f"train/{name}/{part}": loss / weight
            for (part, weight), loss, count in zip(named.items(), parts[name], counts[name], strict=False)
            if count
        }
    return numbers | {f"train/{key}": next(remaining) / distributed.world_size() for key in record.metrics}
