"""Heads of every kind on made-up clips and labels, and their loss written out head by head, row by row."""

from typing import Any

import torch
from torch.nn import functional

from deepcoro.features import Features, Surroundings, VideoFeatures
from deepcoro.heads import OrdinalHead
from deepcoro.objectives.linear_probing import Config, LinearProbing

DIM = 6
KINDS: dict[str, Any] = {
    "head_structure": {"stenosis": 1, "cto": 1, "grade": 4, "side": 3, "lvef": 1, "rare": 1, "film": 1},
    "loss_structure": {
        "stenosis": {"type": "huber", "delta": 5},
        "lvef": "mse",
        "rare": "focal",
        "film": "bce",
        "side": "ce",
    },
    "head_task": {"cto": "binary_classification", "grade": "ordinal_classification"},
    "head_weights": {"stenosis": 0.02, "lvef": 0.01, "cto": 3.0},
    "class_weights": {"cto": [0.5, 4.0], "side": [1.0, 2.0, 3.0]},
    "level": {"film": "clip", "side": "clip"},
}
"""One head of each task, loss and level."""


def make_objective(
    settings: dict[str, Any] | None = None, dtype: torch.dtype = torch.float64
) -> LinearProbing:
    """Away from its start, so that every head says something."""
    beside = Surroundings(DIM, 8, tokenizer=None, frames=4, size_px=32)
    objective = Config.model_validate(settings or KINDS).build(beside).to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return objective


def make_features(num_rows: int, num_clips: int = 3, dtype: torch.dtype = torch.float64) -> Features:
    """Row r has 1 + r % num_clips clips."""
    generator = torch.Generator().manual_seed(num_rows)
    tokens = torch.randn(num_rows, num_clips, 2, DIM, dtype=torch.float64, generator=generator).to(dtype)
    mask = torch.arange(num_clips) <= torch.arange(num_rows)[:, None] % num_clips
    clips = VideoFeatures(tokens * mask[..., None, None], mask, has_class_token=False)
    return Features(study=clips.aggregate(), clips=clips)


def make_batch(objective: LinearProbing, features: Features, missing: float = 0.5) -> dict[str, Any]:
    """Labels that fit each head, of which the share `missing` is not assessed."""
    mask = features.clips.clip_mask
    generator = torch.Generator().manual_seed(len(mask))
    labels = {}
    for group in objective.groups:
        for name, column in zip(group.names, group.columns, strict=True):
            size = num_classes(objective, name)
            drawn = torch.rand(len(mask), generator=generator)
            values = (drawn * size).floor() if size else drawn * 100
            labels[column] = values.masked_fill(
                torch.rand(len(mask), generator=generator) < missing, torch.nan
            )
    return {"labels": labels, "valid": torch.ones(len(mask), dtype=torch.bool), "clip_mask": mask}


def rows_of(features: Features, batch: dict[str, Any], rows: list[int]) -> tuple[Features, dict[str, Any]]:
    """Some rows of both."""
    clips = VideoFeatures(features.clips.tokens[rows], features.clips.clip_mask[rows], False)
    labels = {column: values[rows] for column, values in batch["labels"].items()}
    return Features(study=features.study[rows], clips=clips), {
        "labels": labels,
        "valid": batch["valid"][rows],
        "clip_mask": batch["clip_mask"][rows],
    }


def num_classes(objective: LinearProbing, name: str) -> int:
    """0 for a number."""
    group = next(group for group in objective.groups if name in group.names)
    head = objective.heads[name]
    if isinstance(head, OrdinalHead):
        return len(head.thresholds) + 1
    return {"binary_classification": 2, "regression": 0}.get(group.task, head.linear.out_features)


def loss_of_label(config: Config, name: str, head: torch.nn.Module, vector: torch.Tensor, label: float):
    """One label of one vector, of the matrices themselves."""
    weights = config.class_weights.get(name)
    weight = 1.0 if weights is None else weights[int(label)]
    kind, truth = config.loss_of(name).type, torch.tensor(label, dtype=vector.dtype)
    if isinstance(head, OrdinalHead):
        steps = functional.softplus(head.thresholds[1:]) + 1e-3
        thresholds = [head.thresholds[0] + steps[:number].sum() for number in range(len(steps) + 1)]
        above = [1.0, *(torch.sigmoid(head.score.weight[0] @ vector - each) for each in thresholds), 0.0]
        return -weight * torch.log(above[int(label)] - above[int(label) + 1])
    outputs = (head.linear.weight @ vector + head.linear.bias) * head.unit
    if kind == "huber":
        return functional.huber_loss(outputs[0], truth, delta=config.loss_of(name).delta)
    if kind == "mse":
        return (outputs[0] - truth) ** 2
    if kind == "mae":
        return (outputs[0] - truth).abs()
    if len(outputs) == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs])
    chance = outputs.softmax(0)[int(label)]
    missed = (1 - chance) ** config.loss_of(name).gamma if kind == "focal" else 1.0
    return -weight * missed * chance.log()


def loss_by_hand(objective: LinearProbing, config: Config, features: Features, batch: dict[str, Any]):
    """Sum over heads of weight times the mean over the labels that are known; how many are, by head."""
    total, counts = torch.zeros((), dtype=torch.float64), {}
    for name, head in objective.heads.items():
        losses = []
        for row, label in enumerate(batch["labels"][config.column_of(name)].tolist()):
            if label != label or not batch["valid"][row]:
                continue
            mask = features.clips.clip_mask[row]
            vectors = [features.study[row]]
            if config.level.get(name) == "clip":
                vectors = list(features.clips.tokens[row, mask].mean(1))
            each = [loss_of_label(config, name, head, vector, label) for vector in vectors]
            losses.append(sum(each) / len(each))
        counts[name] = len(losses)
        if losses:
            total = total + config.head_weights.get(name, 1.0) * sum(losses) / len(losses)
    return total, counts
