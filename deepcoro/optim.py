"""AdamW's parameter groups and the learning rate as a pure function of the optimiser step."""

import math
from collections import Counter

import torch
from torch import nn

from deepcoro.run_config import Optim

# Kernels and matrices shrink under weight decay; norms, biases, scalars, class tokens and tables of positions or words do not.
DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def build_optimizer(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """Every trainable parameter in exactly one group; empty groups are dropped (DeepSpeed cannot take one)."""
    groups = parameter_groups(model, optim)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)


def parameter_groups(model: nn.Module, optim: Optim) -> list[dict]:
    """Groups named `default`, `text` and their `_no_decay` twins; the order of parameters is the model's."""
    decayed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, DECAYED) and module.weight.ndim > 1
    }
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tower = "text" if name.startswith("towers.text.") else "default"
        label = tower if id(parameter) in decayed else f"{tower}_no_decay"
        decay = optim.weight_decay if id(parameter) in decayed else 0.0
        group = groups.setdefault(
            label, {"name": label, "params": [], "weight_decay": decay, "lr": peak_lr(label, optim)}
        )
        group["params"].append(parameter)
    _assert_each_once(model, groups)
    return [groups[label] for label in sorted(groups)]


def _assert_each_once(model: nn.Module, groups: dict[str, dict]) -> None:
    times = Counter(id(parameter) for group in groups.values() for parameter in group["params"])
    expected = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert set(times) == expected, "a trainable parameter is in no group"
    assert max(times.values(), default=1) == 1, "a parameter is in two groups"


def peak_lr(label: str, optim: Optim) -> float:
    if label.startswith("text") and optim.text_lr is not None:
        return optim.text_lr
    return optim.lr


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


def lr_of_groups(step: int, max_steps: int, optim: Optim, labels: list[str]) -> dict[str, float]:
    return {label: peak_lr(label, optim) * lr_factor(step, max_steps, optim) for label in labels}
