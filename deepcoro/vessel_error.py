"""Errors of masked modelling on the pixels of arteries, which only the generator of demo films knows: its films, made anew."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, UInt8
from torch import Tensor, nn

from deepcoro.angiography.film import Injection, render_film, vessel_thickness_mm
from deepcoro.angiography.folder import Recipe, plans_of
from deepcoro.fields import video, view
from deepcoro.metrics import reconstruction
from deepcoro.model import to_device
from deepcoro.sample import ClipRecord

THICKNESS_MM = 0.5
"""A pixel shows an artery where the beam meets at least so much blood, at full contrast."""


@torch.no_grad()
def vessel_error(
    model: nn.Module, field: video.Config, recipe: Recipe, split: str, batch_size: int = 16
) -> tuple[dict[str, float], list[str]]:
    """Metrics of `reconstruction` over the films of a split, also `..._on_vessels`, and notes.

    The films are those of the data set `recipe`, rendered again in 8 bits and scaled as the video field scales them; they have
    not been through the shards' JPEG, and they are hidden by other draws, so errors differ a little from those of shards.
    """
    model.eval()
    device = next(model.parameters()).device
    guessing = [name for name, objective in model.objectives.items() if "visible" in objective.reads]
    rows: dict[str, list[Tensor]] = {}
    patients: list[str] = []
    for position, batch, owners in _batches(field, recipe, split, batch_size):
        batch["position"] = torch.arange(position, position + len(owners))
        for name, values in model(to_device(batch, device), task="evaluate", active=guessing).items():
            rows.setdefault(name, []).append(values.float().cpu())
        patients += owners
    numbers: dict[str, float] = {}
    notes: list[str] = [] if patients else [f"no film of the generator's split '{split}'"]
    gathered = {name: torch.cat(values).numpy() for name, values in rows.items()}
    for name in [key.removesuffix("/error") for key in gathered if key.endswith("/error")]:
        metric = reconstruction.Config(objective=name).build()
        found, said = metric.compute(gathered, patients)
        numbers, notes = numbers | found, notes + said
    return numbers, notes


def _batches(
    field: video.Config, recipe: Recipe, split: str, batch_size: int
) -> Iterator[tuple[int, dict[str, Tensor], list[str]]]:
    described = injections_of(recipe, split)
    position = 0
    while chosen := list(itertools.islice(described, batch_size)):
        injections, owners = zip(*chosen, strict=True)
        pixels, vessels = zip(*(shown_film(each, field) for each in injections), strict=True)
        yield position, batch_of(pixels, injections) | {"vessels": torch.stack(vessels)}, list(owners)
        position += len(owners)


def injections_of(recipe: Recipe, split: str) -> Iterator[tuple[Injection, str]]:
    """What each film of a data set's split shows, and its patient."""
    for plan in plans_of(recipe, split):
        yield replace(plan.injection, bits=8), plan.study.patient.patient_id


def shown_film(
    injection: Injection, field: video.Config
) -> tuple[UInt8[Tensor, "frame height width"], Bool[Tensor, "frame height width"]]:
    """One clip as an evaluation shows it, and where arteries are in it."""
    vessels = (vessel_thickness_mm(injection) >= THICKNESS_MM).astype(np.uint8) * 255
    rate_fps = injection.frame_rate_fps
    pixels = as_shown(render_film(injection).pixels, rate_fps, field)
    return pixels, as_shown(vessels, rate_fps, field) > 127


def as_shown(
    film: UInt8[np.ndarray, "frame height width"], frame_rate_fps: float, field: video.Config
) -> UInt8[Tensor, "shown_frame size_px size_px"]:
    """The frames of a film that an evaluation shows, at the size it shows them."""
    record = ClipRecord(
        clip="rendered",
        member="000.mjpg",
        frame_offsets=list(range(len(film) + 1)),
        height=film.shape[1],
        width=film.shape[2],
        frame_rate_fps=frame_rate_fps,
    )
    wanted = video.frame_indices(field, record, None)[0]
    box = video.shown_box(record.height, record.width, field)
    frames = rearrange(torch.from_numpy(film[wanted]), "frame height width -> frame 1 height width")
    return video.fitted(frames, record, box, field)[:, 0]


def batch_of(
    films: Sequence[UInt8[Tensor, "frame height width"]], injections: Sequence[Injection]
) -> dict[str, Tensor]:
    """What a model reads of rendered films, each a row of its own; the angles are known, and stand where the field `view` gives them."""
    everything = torch.ones(len(films), dtype=torch.bool)
    angles = [[[each.carm.primary_deg, each.carm.secondary_deg]] for each in injections]
    return {
        "video": rearrange(torch.stack(list(films)), "clip frame height width -> clip 1 frame height width"),
        "clip_mask": rearrange(everything, "row -> row 1"),
        "valid": everything,
        **view.ViewField().collate(angles, num_videos=1),
    }
