"""AdamW's parameter groups and the learning rate as a pure function of the optimiser step."""

import math
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from deepcoro.mvit.attention import DepthwiseFilter
from deepcoro.run_config import Optim

# Kernels and matrices shrink under weight decay; norms, biases, scalars, class tokens and tables of positions or words do not.
DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, DepthwiseFilter)

NONE: Mapping = MappingProxyType({})


def build_optimizer(
    model: nn.Module,
    optim: Optim,
    own_lr: Mapping[str, float] = NONE,
    since: Mapping[str, int] = NONE,
    own_groups: Mapping[str, Mapping[str, float]] = NONE,
) -> torch.optim.AdamW:
    """Every trainable parameter in exactly one group; empty groups are dropped (DeepSpeed cannot take one).

    Fused: each parameter and its moments are read and written once a step, and the count of steps is read on no host.
    """
    groups = parameter_groups(model, optim, own_lr, since, own_groups)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


class _Place(NamedTuple):
    """Where a parameter goes: its group without weight decay's twin and the step it trains since."""

    label: str
    peak_lr: float
    weight_decay: float
    objective: str | None
    """Whose schedule the learning rate follows."""


def parameter_groups(
    model: nn.Module,
    optim: Optim,
    own_lr: Mapping[str, float] = NONE,
    since: Mapping[str, int] = NONE,
    own_groups: Mapping[str, Mapping[str, float]] = NONE,
) -> list[dict]:
    """Groups named `default`, `text`, with layer decay `video/layer_NN` and `text/layer_NN`, and their `_no_decay` twins; the order
    of parameters is the model's. `peak_lr` in each is what its learning rate warms up to.

    The parameters of an objective that `own_lr` names are groups of its name; those below a path that `own_groups` names
    (`OBJECTIVE.heads.HEAD` -> `lr`, `weight_decay`) are groups `OBJECTIVE/HEAD`. Those that train only `since` a later step are groups
    apart, named `...@STEP`: AdamW counts a group's steps, and under ZeRO a group is one flat tensor.
    """
    decayed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, DECAYED) and module.weight.ndim > 1
    }
    places = _places(model, optim, own_lr)
    _set_apart(places, own_groups)
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        place = places[name]
        start = since.get(name, 0)
        label = place.label if id(parameter) in decayed else f"{place.label}_no_decay"
        label = f"{label}@{start}" if start else label
        decay = place.weight_decay if id(parameter) in decayed else 0.0
        fresh = {"name": label, "place": place.label, "objective": place.objective, "since": start}
        fresh |= {"params": [], "weight_decay": decay, "lr": place.peak_lr, "peak_lr": place.peak_lr}
        groups.setdefault(label, fresh)["params"].append(parameter)
    _assert_each_once(model, groups)
    return [groups[label] for label in sorted(groups)]


def _places(model: nn.Module, optim: Optim, own_lr: Mapping[str, float]) -> dict[str, _Place]:
    """Of every parameter."""
    text_lr, decay_of = optim.lr if optim.text_lr is None else optim.text_lr, optim.weight_decay
    text, default = _Place("text", text_lr, decay_of, None), _Place("default", optim.lr, decay_of, None)
    places = {
        name: text if name.startswith("towers.text.") else default for name, _ in model.named_parameters()
    }
    for tower, lr, decay in (
        ("video", optim.lr, optim.layer_decay),
        ("text", text_lr, optim.text_layer_decay),
    ):
        if decay == 1 or tower not in model.towers:
            continue
        layers = model.towers[tower].parameter_layers()
        top = max(layers.values())
        for name, layer in layers.items():
            label = f"{tower}/layer_{layer:02d}"
            places[f"towers.{tower}.{name}"] = _Place(label, lr * decay ** (top - layer), decay_of, None)
    for objective, lr in own_lr.items():
        for name, _ in model.objectives[objective].named_parameters():
            places[f"objectives.{objective}.{name}"] = _Place(objective, lr, decay_of, objective)
    return places


def _set_apart(places: dict[str, _Place], own_groups: Mapping[str, Mapping[str, float]]) -> None:
    """Puts the parameters below each path into a group of their own; paths that lie below others win."""
    for path in sorted(own_groups, key=lambda path: path.count(".")):
        objective, _, below = path.partition(".")
        label = f"{objective}/{below.rpartition('.')[2]}" if below else objective
        own = own_groups[path]
        for name, place in places.items():
            if name.startswith(f"objectives.{path}."):
                lr, decay = own.get("lr", place.peak_lr), own.get("weight_decay", place.weight_decay)
                places[name] = _Place(label, lr, decay, objective)


def _assert_each_once(model: nn.Module, groups: dict[str, dict]) -> None:
    times = Counter(id(parameter) for group in groups.values() for parameter in group["params"])
    expected = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert set(times) == expected, "a trainable parameter is in no group"
    assert max(times.values(), default=1) == 1, "a parameter is in two groups"


def lr_factor(step: int, max_steps: int, optim: Optim) -> float:
    """Share of the peak at optimiser step `step` (0-based): linear warm-up, then cosine to final_lr_fraction at max_steps."""
    warmup = optim.warmup_steps
    if warmup is None:
        warmup = round(optim.warmup_fraction * max_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(max_steps - warmup, 1), 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return optim.final_lr_fraction + (1 - optim.final_lr_fraction) * cosine


def lr_of_groups(
    step: int, max_steps: int, optim: Optim, groups: list[dict], warmups: Mapping[str, float] = NONE
) -> dict[str, float]:
    """Learning rate of each group, by its name. `warmups`: what share of it the groups of an objective have."""
    factor = lr_factor(step, max_steps, optim)
    return {
        group["name"]: group["peak_lr"] * factor * warmups.get(group["objective"], 1.0) for group in groups
    }


def lr_of_places(lr: Mapping[str, float]) -> dict[str, float]:
    """Learning rates for the log: a place's groups, decayed or not, trained since when they will, have the same."""
    return {name.partition("@")[0].removesuffix("_no_decay"): rate for name, rate in lr.items()}
