"""Time in a film: heart beat, breathing, the contrast bolus."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deepcoro.angiography.heart import Heart
from deepcoro.angiography.lumen import BLOOD, CATHETER, FIXED, REFLUX, STILL, WALL, Cloud

_TWIST_RAD = np.deg2rad(8.0)
_BASE_DESCENT_MM = 12.0
_FULL_CONTRACTION = 0.26


@dataclass(frozen=True)
class Rhythm:
    """Beat and breath of one film."""

    heart_rate_bpm: float
    lvef_percent: float
    phase: float
    """Cardiac phase of the first frame, 0-1 from end-diastole."""
    ectopic_s: float | None
    """Time of one early beat; None = regular."""
    breath_mm: float
    """Caudal excursion of the heart; 0 = breath held."""
    breath_hz: float
    breath_phase: float


@dataclass(frozen=True)
class Bolus:
    """One injection."""

    start_s: float
    duration_s: float
    speed_mm_per_s: float
    """Gibson et al. 1996 (TIMI frame counts) gives about 105 in the left tree, 155 in the right."""


NO_BOLUS = Bolus(start_s=1e6, duration_s=1.0, speed_mm_per_s=100.0)
"""Nothing is injected while the film runs."""


def cardiac_phase(rhythm: Rhythm, time_s: Float[np.ndarray, " frame"]) -> Float[np.ndarray, " frame"]:
    """0-1 within each beat; after an early beat (60 % of the interval) the rhythm goes on from there."""
    beats = time_s * rhythm.heart_rate_bpm / 60 + rhythm.phase
    if rhythm.ectopic_s is not None:
        cut = np.floor(rhythm.ectopic_s * rhythm.heart_rate_bpm / 60 + rhythm.phase) + 0.6
        beats = np.where(beats >= cut, beats - cut, beats)
    return beats % 1


def systole(phase: Float[np.ndarray, " frame"]) -> Float[np.ndarray, " frame"]:
    """Contraction 0-1: rises until phase 0.30, holds, falls from 0.35 to 0.60."""
    rise, fall = np.clip(phase / 0.30, 0, 1), np.clip((phase - 0.35) / 0.25, 0, 1)
    return 0.25 * (1 - np.cos(np.pi * rise)) * (1 + np.cos(np.pi * fall))


def contraction_of(lvef_percent: float | int) -> float:
    """Shortening of the heart at end-systole, 0.04-0.26: how the ejection fraction shows in the motion of the vessels."""
    return float(0.04 + (_FULL_CONTRACTION - 0.04) * np.clip((lvef_percent - 15) / 55, 0, 1))


def systolic_shift(cloud: Cloud, heart: Heart, lvef_percent: float | int) -> Float[np.ndarray, "ball 3"]:
    """Where each ball goes from end-diastole to end-systole, mm: radial and axial shortening, descent of the base, twist.

    A catheter's tip rides on the ostium; its motion fades along the shaft.
    """
    contraction = contraction_of(lvef_percent)
    along = cloud.points_mm @ heart.axis
    across = cloud.points_mm - along[:, None] * heart.axis
    descent = _BASE_DESCENT_MM * contraction / _FULL_CONTRACTION * np.clip((40 - along) / 80, 0, 1)
    axial = descent - 0.5 * contraction * along
    twist = _TWIST_RAD * contraction / _FULL_CONTRACTION * np.clip(along / heart.half_length_mm, -0.3, 1)
    shift = axial[:, None] * heart.axis - contraction * across
    shift += twist[:, None] * np.cross(heart.axis, across)
    attached = np.select(
        [np.isin(cloud.kind, (BLOOD, WALL)), cloud.kind == CATHETER, cloud.kind == STILL],
        [1.0, np.exp(-cloud.path_mm / 25), cloud.rides],
        0.0,
    )
    return shift * attached[:, None]


def breath(rhythm: Rhythm, time_s: Float[np.ndarray, " frame"]) -> Float[np.ndarray, " frame"]:
    """Caudal displacement, mm (Shechter et al. 2004: 4.9 +- 1.9 mm)."""
    return rhythm.breath_mm * 0.5 * (1 - np.cos(2 * np.pi * rhythm.breath_hz * time_s + rhythm.breath_phase))


def breath_direction(cloud: Cloud) -> Float[np.ndarray, "ball 3"]:
    """Motion per millimetre of caudal breath: the heart goes down and slightly back; the catheter and the outside do not."""
    moves = np.select(
        [np.isin(cloud.kind, (BLOOD, WALL, REFLUX)), cloud.kind == CATHETER, cloud.kind == STILL],
        [1.0, 0.4, cloud.rides],
        0.0,
    )
    return moves[:, None] * np.array((0.0, 0.2, -1.0))


def _logistic(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value, -30, 30)))


def concentration(
    cloud: Cloud,
    bolus: Bolus,
    time_s: Float[np.ndarray, " frame"],
    squeeze: Float[np.ndarray, " frame"],
) -> Float[np.ndarray, "frame ball"]:
    """Contrast of each ball at each time, 0-1. Coronary flow is faster in diastole: `squeeze` is the systole curve."""
    step_s = np.gradient(time_s) if len(time_s) > 1 else np.ones(1)
    flow = 0.6 + 0.8 * (1 - squeeze)
    flow_time = np.cumsum(flow * step_s) / flow.mean()
    clock = (flow_time - flow_time[0] + time_s[0])[:, None] - bolus.start_s
    since = clock - cloud.path_mm / bolus.speed_mm_per_s
    filled = _bolus_curve(since, bolus.duration_s) * (1 - cloud.blocked)
    fed = np.isfinite(cloud.collateral_s)
    filled[:, fed] += 0.35 * _logistic((since[:, fed] - cloud.collateral_s[fed]) / 0.25) * cloud.blocked[fed]
    # a tube full of saline still shows its wall
    filled[:, cloud.kind == CATHETER] = 0.6 + 0.6 * (
        _logistic(clock / 0.05) - _logistic((clock - bolus.duration_s) / 0.1)
    )
    puff = _bolus_curve(clock, 0.8 * bolus.duration_s) * (0.35 + 0.65 * squeeze[:, None])
    filled[:, cloud.kind == REFLUX] = puff
    filled[:, np.isin(cloud.kind, (WALL, FIXED))] = 1
    return filled


def _bolus_curve(since_s: np.ndarray, duration_s: float) -> np.ndarray:
    """Sharp inflow, slow washout."""
    return np.clip(_logistic(since_s / 0.06) - _logistic((since_s - duration_s) / 0.25), 0, 1)


def event_frames(phase: Float[np.ndarray, " frame"], at: float) -> Int[np.ndarray, " event"]:
    """Frames nearest to the moments where the cardiac phase passes `at`."""
    distance = np.abs((phase - at + 0.5) % 1 - 0.5)
    before, after = np.r_[np.inf, distance[:-1]], np.r_[distance[1:], np.inf]
    return np.flatnonzero((distance < before) & (distance <= after) & (distance < 0.2))
