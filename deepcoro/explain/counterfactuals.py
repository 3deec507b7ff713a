"""The same scene with and without one lesion, which only a generator can film: does the score rise with the lesion, and with nothing else?

Patient, anatomy, heartbeat, contrast, angle, background and noise of the two films of a pair are the same to the bit; the lesion is bare (no
calcium, thrombus or stent on it), so that taking it away moves no other random number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from deepcoro.angiography.cohort import vendor_numbers
from deepcoro.angiography.detector import VENDORS, Vendor
from deepcoro.angiography.film import Film, Injection, render_film
from deepcoro.angiography.findings import Lesion
from deepcoro.angiography.folder import Recipe, plans_of
from deepcoro.bootstrap import means_with_intervals, patient_rows
from deepcoro.explain.targets import Target
from deepcoro.fields import video
from deepcoro.model import to_device
from deepcoro.vessel_error import as_shown, batch_of

CHANGED_GREY, CHANGED_SHARE = 25, 4e-4
"""A lesion is visible where it changes such a share of one frame (20 px at 224 px) by so many grey levels."""
SEEN_FRACTION = 0.5
"""And where contrast shows at least so much of its segment inside the field."""
_BATCH = 16


@dataclass(frozen=True)
class Pair:
    """One scene, described twice, and once more with other noise and background for comparison."""

    patient: str
    lesion: Lesion
    with_lesion: Injection
    without: Injection
    is_decisive: bool
    """Without it no lesion that was asked for is left in the tree: the right answer to "is there one?" changes."""

    @property
    def other_noise(self) -> Injection:
        """The scene without the lesion in another film: how much scores differ for no reason."""
        return replace(self.without, film_seed=(*self.without.film_seed, 1))


@dataclass(frozen=True)
class Scored:
    """What a model says of a pair."""

    patient: str
    is_visible: bool
    is_decisive: bool
    with_lesion: float
    without: float
    other_noise: float


def pairs_of(recipe: Recipe, split: str, vendor: str | None, min_stenosis_percent: int) -> Iterator[Pair]:
    """Every film of a data set's split with a lesion of at least so many per cent, once a lesion; all as if filmed by one `vendor` where it is given."""
    make: Vendor | None = None if vendor is None else VENDORS[vendor_numbers((vendor,))[0]]
    for plan in (each for each in plans_of(recipe, split) if each.content.is_assessed):
        injection = replace(plan.injection, bits=8)
        injection = injection if make is None else replace(injection, vendor=make)
        yield from _pairs(plan.study.patient.patient_id, injection, min_stenosis_percent)


def _pairs(patient: str, injection: Injection, min_stenosis_percent: int) -> Iterator[Pair]:
    for index, (lesion, shape) in enumerate(injection.lesions):
        if lesion.stenosis_percent < min_stenosis_percent:
            continue
        bare = replace(lesion, calcification="none", thrombus=False, stent=False)
        others = (*injection.lesions[:index], *injection.lesions[index + 1 :])
        with_lesion = (*injection.lesions[:index], (bare, shape), *injection.lesions[index + 1 :])
        is_decisive = all(other.stenosis_percent < min_stenosis_percent for other, _ in others)
        yield Pair(
            patient,
            bare,
            replace(injection, lesions=with_lesion),
            replace(injection, lesions=others),
            is_decisive,
        )


def is_visible(with_lesion: Film, without: Film, segment: str) -> bool:
    """Whether somebody who knows where to look could see the lesion. Of an occlusion the segment is judged as it is without it."""
    difference = np.abs(with_lesion.pixels.astype(int) - without.pixels.astype(int))
    changed = (difference >= CHANGED_GREY).mean(axis=(1, 2)).max()
    return bool(changed >= CHANGED_SHARE and without.visible.get(segment, 0.0) >= SEEN_FRACTION)


def score_pairs(model: nn.Module, field: video.Config, target: Target, pairs: Sequence[Pair]) -> list[Scored]:
    """Renders and scores each pair, three films each. The model must be in eval mode."""
    scored = []
    for start in range(0, len(pairs), _BATCH):
        chosen = pairs[start : start + _BATCH]
        injections = [each for pair in chosen for each in (pair.with_lesion, pair.without, pair.other_noise)]
        films = [render_film(each) for each in injections]
        shown = [
            as_shown(film.pixels, each.frame_rate_fps, field)
            for film, each in zip(films, injections, strict=True)
        ]
        scores = rearrange(_scores(model, target, shown, injections), "(pair three) -> pair three", three=3)
        for pair, with_lesion, without, (one, other, noise) in zip(
            chosen, films[::3], films[1::3], scores.tolist(), strict=True
        ):
            seen = is_visible(with_lesion, without, pair.lesion.segment)
            scored.append(Scored(pair.patient, seen, pair.is_decisive, one, other, noise))
    return scored


@torch.no_grad()
def _scores(
    model: nn.Module,
    target: Target,
    films: Sequence[UInt8[Tensor, "frame height width"]],
    injections: Sequence[Injection],
) -> Float[Tensor, " film"]:
    """Each film is a sample of its own."""
    batch = batch_of(films, injections) | {"position": torch.arange(len(films))}
    device = next(model.parameters()).device
    return target.score(model, to_device(batch, device)).cpu()


def measure(scored: Sequence[Scored], num_samples: int = 1000, seed: int = 0) -> dict[str, float]:
    """Shares of pairs in which the lesion raises the score (a tie counts half) with intervals over patients: of visible pairs, of the
    decisive ones among them (where other lesions stay, a score may be as high without this one), of pairs that are not visible, and the
    control, where nothing but noise and background changes.
    """
    groups = {
        "visible": [each for each in scored if each.is_visible],
        "decisive": [each for each in scored if each.is_visible and each.is_decisive],
        "not_visible": [each for each in scored if not each.is_visible],
    }
    numbers: dict[str, float] = {"num_pairs": float(len(scored))}
    for name, group in groups.items():
        numbers[f"{name}/num_pairs"] = float(len(group))
        if not group:
            continue
        rises = np.array([each.with_lesion - each.without for each in group])
        noise = np.array([each.other_noise - each.without for each in group])
        columns = {
            "share_raised": _raised(rises),
            "mean_rise": rises,
            "share_raised_by_noise": _raised(noise),
            "mean_noise": np.abs(noise),
        }
        patients = patient_rows([each.patient for each in group], len(group))
        told = {f"{name}/{key}": column.astype(float) for key, column in columns.items()}
        numbers |= means_with_intervals(told, patients, num_samples, seed)
    return numbers


def _raised(rises: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
    return np.where(rises == 0, 0.5, (rises > 0).astype(float))
