"""One film: a described injection in, grey frames and their ground truth out. A pure function of its description."""

from dataclasses import dataclass, field, fields, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from deepcoro.angiography import motion
from deepcoro.angiography.backdrop import draw_backdrop
from deepcoro.angiography.carm import CArm
from deepcoro.angiography.content import DIAGNOSTIC, Content
from deepcoro.angiography.detector import Exposure, Vendor
from deepcoro.angiography.findings import Lesion
from deepcoro.angiography.heart import unit
from deepcoro.angiography.lumen import BLOOD, STILL, Cloud, LesionShape, Scale, fill_tree
from deepcoro.angiography.scene import visible_width
from deepcoro.angiography.splat import Canvas
from deepcoro.angiography.stage import Stage, region_of
from deepcoro.angiography.tree import Detail, Tree, build_tree
from deepcoro.angiography.vocabulary import Dominance, Side

_MIN_MASS = 1e-3
_CHUNK_PX = 2**18
"""Frames are drawn in groups of about this many pixels: small films at once, large ones in what the cache holds."""


@dataclass(frozen=True)
class Injection:
    """Everything that decides the pixels of one film."""

    side: Side
    dominance: Dominance
    has_ramus: bool
    caliber: float
    lesions: tuple[tuple[Lesion, LesionShape], ...]
    anatomy_seed: tuple[int, ...]
    """The same for all films of one tree of one patient, also years later."""
    film_seed: tuple[int, ...]
    """Background, noise and aim of this film."""
    carm: CArm
    vendor: Vendor
    rhythm: motion.Rhythm
    bolus: motion.Bolus
    num_frames: int
    frame_rate_fps: float
    bits: int = 8
    scale: Scale = field(default_factory=Scale)
    clutter: float = 0.0
    pan_mm: tuple[float, float] = (0.0, 0.0)
    """Movement of the table between a third of the film and its end, in detector axes."""
    content: Content | None = None
    """What the film shows; None = a diagnostic injection of the tree."""


@dataclass(frozen=True)
class Film:
    """Frames and what is true about them."""

    pixels: np.ndarray
    """[frame, height, width]; uint8, or uint16 when bits > 8."""
    carm: CArm
    visible: dict[str, float]
    """Segment -> the fraction of it that contrast shows inside the field at its best frame."""
    first_contrast_frame: int | None
    """None where nothing is injected."""
    diastole_frames: list[int]
    systole_frames: list[int]


@dataclass(frozen=True)
class Balls:
    """Projected balls of all frames."""

    column_px: Float[np.ndarray, "frame ball"]
    row_px: Float[np.ndarray, "frame ball"]
    radius_px: Float[np.ndarray, "frame ball"]
    mass: Float[np.ndarray, "frame ball"]
    """Thickness (mm of full contrast) times px^2."""
    contrast: Float[np.ndarray, "frame ball"]


def render_film(injection: Injection) -> Film:
    """Computes the film. At 512 px and 40 frames it takes about 0.1 s of one core."""
    injection, tree, cloud, rng = _staged(injection)
    content = injection.content or DIAGNOSTIC[injection.side]
    time_s = np.arange(injection.num_frames) / injection.frame_rate_fps
    balls = project(injection, tree, cloud, time_s)
    pixels = _expose(injection, balls, time_s, rng)
    phase = motion.cardiac_phase(injection.rhythm, time_s)
    blood = balls.contrast * np.isin(cloud.kind, (BLOOD, STILL))
    return Film(
        pixels=pixels,
        carm=injection.carm,
        visible=_visible(tree, cloud, balls, injection.carm.size_px),
        first_contrast_frame=int(np.argmax(blood.max(axis=1) > 0.5)) if content.contrast_agent else None,
        diastole_frames=motion.event_frames(phase, 0.0).tolist(),
        systole_frames=motion.event_frames(phase, 0.32).tolist(),
    )


def vessel_thickness_mm(injection: Injection) -> Float[np.ndarray, "frame height width"]:
    """Where `render_film(injection)` shows arteries: mm of full contrast in the beam, without catheter, wires, bone and chambers."""
    injection, tree, cloud, _ = _staged(injection)
    time_s = np.arange(injection.num_frames) / injection.frame_rate_fps
    balls = project(injection, tree, cloud, time_s)
    arteries = (cloud.kind == BLOOD) & (cloud.branch >= 0)
    own = Balls(**{each.name: getattr(balls, each.name)[:, arteries] for each in fields(Balls)})
    size = injection.carm.size_px
    thickness = np.zeros((injection.num_frames, size, size), np.float32)
    if not arteries.any():
        return thickness
    canvas = Canvas(size, 1, float(own.radius_px.max()))
    for frame in range(injection.num_frames):
        drawn = _draw(canvas, own, slice(frame, frame + 1))
        if drawn is not None:
            thickness[frame, drawn[0], drawn[1]] = drawn[2][0]
    return thickness


def _staged(injection: Injection) -> tuple[Injection, Tree, Cloud, np.random.Generator]:
    """The injection aimed at what it shows, the balls in its beam, and the generator for all that follows."""
    rng = np.random.default_rng(injection.film_seed)
    tree, vessels = vessels_of(injection)
    content = injection.content or DIAGNOSTIC[injection.side]
    stage = Stage(content, tree, vessels, injection.scale, injection.clutter)
    cloud, centre_mm = stage.set(injection.carm, rng)
    return replace(injection, carm=replace(injection.carm, centre_mm=centre_mm)), tree, cloud, rng


def vessels_of(injection: Injection) -> tuple[Tree, Cloud]:
    """The filled tree of an injection, at rest."""
    detail = Detail(injection.scale.twigs, injection.scale.step)
    anatomy = (injection.side, injection.dominance, injection.has_ramus, detail)
    return _fill(anatomy, injection.anatomy_seed, injection.lesions, injection.scale, injection.caliber)


@lru_cache(maxsize=8)
def _fill(
    anatomy: tuple[Side, Dominance, bool, Detail],
    seed: tuple[int, ...],
    lesions: tuple[tuple[Lesion, LesionShape], ...],
    scale: Scale,
    caliber: float,
) -> tuple[Tree, Cloud]:
    """Cached: the films of one tree follow each other."""
    rng = np.random.default_rng(seed)
    tree = build_tree(*anatomy, rng)
    by_segment = {lesion.segment: (lesion, shape) for lesion, shape in lesions}
    return tree, fill_tree(tree, by_segment, scale, caliber, rng)


def project(injection: Injection, tree: Tree, cloud: Cloud, time_s: Float[np.ndarray, " frame"]) -> Balls:
    """Where every ball is on every frame, how large, and how much contrast it holds."""
    carm, rhythm = injection.carm, injection.rhythm
    squeeze = motion.systole(motion.cardiac_phase(rhythm, time_s)).astype(np.float32)
    sink = motion.breath(rhythm, time_s).astype(np.float32)
    shift = motion.systolic_shift(cloud, tree.heart, rhythm.lvef_percent)
    moving = (cloud.points_mm, shift, motion.breath_direction(cloud))
    rest, beat, breathing = (carm.across(vectors).astype(np.float32) for vectors in moving)
    right, up, depth = (
        rest[axis] + squeeze[:, None] * beat[axis] + sink[:, None] * breathing[axis] for axis in range(3)
    )
    pan = _pan(injection, time_s)
    column, row, scale = carm.pixels(right + pan[:, :1], up + pan[:, 1:], depth)
    contrast = motion.concentration(cloud, injection.bolus, time_s, squeeze).astype(np.float32)
    along = unit(np.gradient(cloud.points_mm, axis=0) + 1e-9)
    radius = visible_width(cloud, carm, along).astype(np.float32) * scale * 1.12 + 0.45
    # a thinly filled arm of balls may end up below a pixel; half a pixel is the least that can be drawn
    return Balls(
        column,
        row,
        np.maximum(radius, 0.75),
        cloud.mass_mm3.astype(np.float32) * contrast * scale**2,
        contrast,
    )


def _pan(injection: Injection, time_s: Float[np.ndarray, " frame"]) -> Float[np.ndarray, "frame 2"]:
    progress = np.clip((time_s / max(time_s[-1], 1e-6) - 0.33) / 0.5, 0, 1)
    return (progress[:, None] * np.array(injection.pan_mm)).astype(np.float32)


def _expose(
    injection: Injection, balls: Balls, time_s: Float[np.ndarray, " frame"], rng: np.random.Generator
) -> np.ndarray:
    """Every frame: vessels drawn as thickness, then exposed over the shifted backdrop."""
    carm, size = injection.carm, injection.carm.size_px
    shifts, pad = _backdrop_shifts(injection, time_s)
    backdrop = draw_backdrop(carm, pad, rng, region_of(injection.content))
    exposure = Exposure(injection.vendor, backdrop, size, rng)
    chunk = min(max(1, _CHUNK_PX // size**2), injection.num_frames)
    canvas = Canvas(size, chunk, float(balls.radius_px.max()))
    pixels = np.empty((injection.num_frames, size, size), np.uint8 if injection.bits == 8 else np.uint16)
    for index in range(injection.num_frames):
        if index % chunk == 0:
            drawn = _draw(canvas, balls, slice(index, index + chunk))
        thickness = None if drawn is None else (*drawn[:2], drawn[2][index % chunk])
        exposure.develop(pixels[index], shifts[index], thickness, injection.bits)
    return pixels


def _draw(
    canvas: Canvas, balls: Balls, frames: slice
) -> tuple[slice, slice, Float[np.ndarray, "frame height width"]] | None:
    """Thickness maps of some frames, in mm of full contrast."""
    frame, ball = np.nonzero(np.abs(balls.mass[frames]) > _MIN_MASS)
    live = (frame + frames.start, ball)
    return canvas.draw(
        frame, balls.column_px[live], balls.row_px[live], balls.radius_px[live], balls.mass[live]
    )


def _backdrop_shifts(
    injection: Injection, time_s: Float[np.ndarray, " frame"]
) -> tuple[list[tuple[int, int]], int]:
    """Whole-pixel shifts (down, right) of the background by breath and table, and the margin that they need."""
    carm = injection.carm
    scale = carm.source_detector_mm / carm.source_isocentre_mm / carm.pitch_mm
    sink = motion.breath(injection.rhythm, time_s)
    pan = _pan(injection, time_s)
    down = np.rint((0.5 * (sink - sink[0]) - pan[:, 1]) * scale).astype(int)
    across = np.rint(pan[:, 0] * scale).astype(int)
    pad = int(max(np.abs(down).max(), np.abs(across).max()))
    return list(zip(down.tolist(), across.tolist(), strict=True)), pad


def _visible(tree: Tree, cloud: Cloud, balls: Balls, size_px: int) -> dict[str, float]:
    column, row = balls.column_px, balls.row_px
    inside = (column >= 0) & (column < size_px) & (row >= 0) & (row < size_px)
    shown = inside & (balls.contrast > 0.3)
    fractions = {}
    for index, branch in enumerate(tree.branches.values()):
        if branch.is_segment:
            own = (cloud.branch == index) & (cloud.kind == BLOOD)
            if not own.any():
                continue
            fractions[branch.name] = round(float(shown[:, own].mean(axis=1).max()), 3)
    return fractions
