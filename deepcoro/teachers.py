"""Starts the teachers of a model, and moves them after an optimiser step wherever the engine keeps their weights."""

from collections.abc import Collection, Iterator

import torch
from jaxtyping import Bool
from torch import Tensor, nn


def start_teachers(model: nn.Module, beginning: Collection[str]) -> None:
    """The `teacher` of each objective that begins becomes the video tower as it is. For a model that no engine has divided yet."""
    for name in beginning:
        teacher = getattr(model.objectives[name], "teacher", None)
        if teacher is not None:
            teacher.encoder.load_state_dict(model.towers["video"].state_dict())


@torch.no_grad()
def move_teachers(
    model: nn.Module,
    zero_stage: int,
    active: Collection[str] | None = None,
    took_step: Bool[Tensor, ""] | None = None,
) -> None:
    """Each `teacher` of an `active` objective (None = all are) keeps `momentum` of itself and takes the rest from the video tower.
    Collective under ZeRO-3.

    Those of the others are left alone: they are made anew when their objective begins. After a step that did not count (`took_step`,
    on the device; None = it did) all stay where they are.
    """
    for name, objective in model.objectives.items():
        teacher = getattr(objective, "teacher", None)
        if teacher is None or (active is not None and name not in active):
            continue
        followers = list(teacher.encoder.parameters())
        pairs = zip(followers, model.towers["video"].parameters(), strict=True)
        for follower, leader in _pieces(pairs, zero_stage):
            share = 1 - teacher.momentum
            if took_step is not None:
                share = share * took_step.to(follower)
            follower.lerp_(leader.to(follower.dtype), share)
        if zero_stage == 3:
            _read_pieces_again(followers)


def _pieces(
    pairs: Iterator[tuple[nn.Parameter, nn.Parameter]], zero_stage: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Under ZeRO-3 what this rank keeps of both: tensors of one shape are cut alike, so the mean of pieces is the piece of the mean."""
    if zero_stage < 3:
        return pairs
    return ((follower.ds_tensor, leader.ds_tensor) for follower, leader in pairs)


def _read_pieces_again(parameters: list[nn.Parameter]) -> None:
    """Small tensors also stand whole on every rank, made from the pieces before those moved."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    whole = [each for each in parameters if each.ds_status == ZeroParamStatus.AVAILABLE]
    if whole:
        whole[0].partition(whole)
        whole[0].all_gather(whole)
