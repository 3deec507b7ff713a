"""Does a model need what it is shown? The same evaluation with the first frame alone, frames out of order, or a clip taken away.

A model that scores as well on one still frame reads no motion; one that loses nothing without the clip that it attends to most does not use
it. The altered films go through the whole evaluation, so every metric has its counterpart: captions where they are asked for, since writing
takes long; errors of masked modelling have none, since they say nothing of patients, and on a still film hidden cells are copies.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from deepcoro.build import Parts, build_metrics
from deepcoro.calibrated import Calibration
from deepcoro.config import ConfigError
from deepcoro.evaluate import evaluate_split
from deepcoro.evaluated import Evaluated
from deepcoro.run_config import RunConfig
from deepcoro.scored import ScoredRows, score_rows

Batch = dict[str, Any]
Change = Callable[[nn.Module, Batch], Batch]
_SEED = 0


class Altered(nn.Module):
    """A model that is shown something else than it is given."""

    def __init__(self, model: nn.Module, change: Change) -> None:
        super().__init__()
        self.model, self.change = model, change

    @property
    def objectives(self) -> nn.ModuleDict:
        return self.model.objectives

    def forward(self, batch: Batch, **more: Any) -> dict[str, Any]:
        if "video" in batch:
            batch = self.change(self.model, batch)
        return self.model(batch, **more)


def first_frame(model: nn.Module, batch: Batch) -> Batch:
    """Every frame is the first one: a picture, before much contrast has come."""
    return batch | {"video": batch["video"][:, :, :1].expand_as(batch["video"]).contiguous()}


def middle_frame(model: nn.Module, batch: Batch) -> Batch:
    """Every frame is the middle one: a picture with contrast in it."""
    middle = batch["video"].shape[2] // 2
    return batch | {"video": batch["video"][:, :, [middle]].expand_as(batch["video"]).contiguous()}


def shuffled_frames(model: nn.Module, batch: Batch) -> Batch:
    """The frames in an order that makes no sense, the same for all films: none stays in its place."""
    draw = torch.Generator().manual_seed(_SEED)
    places = order = torch.arange(batch["video"].shape[2])
    while len(places) > 1 and (order == places).any():
        order = torch.randperm(len(places), generator=draw)
    return batch | {"video": batch["video"][:, :, order]}


def without_top_clip(model: nn.Module, batch: Batch) -> Batch:
    """Without the clip of each study that the pooler weighs most; a study of one clip stays whole."""
    return without_clips(batch, clip_weights(model, batch).argmax(dim=1))


def without_random_clip(model: nn.Module, batch: Batch) -> Batch:
    """Without one clip drawn by the study's position."""
    numbers = [
        int(np.random.default_rng([_SEED, abs(int(position))]).integers(max(int(count), 1)))
        for position, count in zip(batch["position"], batch["clip_mask"].sum(dim=1), strict=True)
    ]
    mask = batch["clip_mask"]
    place = mask.int().cumsum(dim=1) - 1
    chosen = torch.tensor(numbers, device=mask.device)[:, None]
    return without_clips(batch, ((place == chosen) & mask).int().argmax(dim=1))


CHANGES: dict[str, Change] = {
    "first_frame": first_frame,
    "middle_frame": middle_frame,
    "shuffled_frames": shuffled_frames,
}
CLIP_CHANGES: dict[str, Change] = {
    "without_top_clip": without_top_clip,
    "without_random_clip": without_random_clip,
}


@torch.no_grad()
def clip_weights(model: nn.Module, batch: Batch) -> Float[Tensor, "study clip"]:
    """How the pooler divides its attention over the clips. ConfigError for one that does not weigh them."""
    if not model.pooler.weighs_clips:
        raise ConfigError(
            f"pooler {type(model.pooler).__name__} does not weigh clips; take pooler.type=attention to ask which clip matters"
        )
    return model.pooler.clip_weights(model.clip_features(batch), batch.get("views"))


def without_clips(batch: Batch, slots: Tensor) -> Batch:
    """The batch without the clip in the given slot of each row; a row's last clip stays."""
    mask: Bool[Tensor, "study slot"] = batch["clip_mask"]
    chosen = nn.functional.one_hot(slots, mask.shape[1]).bool()
    chosen &= mask & (rearrange(mask.sum(dim=1), "study -> study 1") > 1)
    return batch | {"clip_mask": mask & ~chosen, "video": batch["video"][~chosen[mask]]}


def compared_objectives(config: RunConfig, captions: bool) -> list[str]:
    """Objectives whose numbers have a counterpart with less to see; those that write only where `captions` are asked for."""
    left_out = {"masked_modeling"} | (set() if captions else {"captioning"})
    return [name for name, each in config.objectives.items() if each.type not in left_out]


def measure_changes(
    model: nn.Module,
    config: RunConfig,
    parts: Parts,
    split: str,
    changes: Mapping[str, Change],
    captions: bool = False,
    known: Calibration | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, ScoredRows], Evaluated]:
    """Numbers and answers of the evaluation as it is (`whole`) and under each change, and the split as it is. Collective. `known`: what val
    chose for the model as it is; decisions with less to see are made at the same thresholds.
    """
    active = compared_objectives(config, captions)
    numbers, rows, evaluated = {}, {}, {}
    for name, shown in {
        "whole": model,
        **{name: Altered(model, each) for name, each in changes.items()},
    }.items():
        metrics = build_metrics(config)
        evaluated[name], numbers[name], _ = evaluate_split(
            shown, config, parts, split, active, known, metrics
        )
        rows[name] = score_rows(evaluated[name], metrics)
    return numbers, rows, evaluated["whole"]
