"""What a film of the catheter laboratory shows: the words for it, and which films besides diagnostic injections a study has.

The twelve structures and the three states of a procedure are those of the users' tables. How the others look (props.py,
chambers.py, limbs.py) was drawn by eye; no cardiologist has seen them.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from deepcoro.angiography.disease import Disease
from deepcoro.angiography.findings import Lesion
from deepcoro.angiography.lumen import LesionShape
from deepcoro.angiography.presets import Preset
from deepcoro.angiography.vocabulary import Projection, Side

MainStructure = Literal[
    "Left Coronary",
    "Right Coronary",
    "Other",
    "Graft",
    "Catheter",
    "Femoral",
    "LV",
    "TAVR",
    "Aorta",
    "Radial",
    "TEE probe",
    "Pigtail",
]
Status = Literal["diagnostic", "PCI", "POST_PCI"]
MAIN_STRUCTURES: tuple[MainStructure, ...] = get_args(MainStructure)
STATUSES: tuple[Status, ...] = get_args(Status)
CORONARY: dict[Side, MainStructure] = {"left": "Left Coronary", "right": "Right Coronary"}

_ACCESS: tuple[MainStructure, ...] = ("Femoral", "Radial")
"""Filmed before anything else."""
_PLAIN: tuple[MainStructure, ...] = ("Other", "Catheter", "TEE probe", "Pigtail")
"""Filmed without contrast."""
_PROJECTIONS: dict[MainStructure, tuple[Projection, ...]] = {
    "LV": (Projection(-30.0, 0.0), Projection(-30.0, 0.0), Projection(55.0, 20.0)),
    "Aorta": (Projection(40.0, 0.0), Projection(45.0, 10.0)),
    "TAVR": (Projection(0.0, 0.0), Projection(10.0, -15.0), Projection(-20.0, 10.0)),
    "Graft": (Projection(-30.0, 0.0), Projection(40.0, 20.0), Projection(90.0, 0.0)),
    "Femoral": (Projection(0.0, 0.0), Projection(-30.0, 0.0)),
    "Radial": (Projection(0.0, 0.0),),
}
_ANY_PROJECTION = (Projection(0.0, 0.0), Projection(-30.0, 0.0), Projection(40.0, 0.0))


@dataclass(frozen=True)
class Content:
    """What one film shows. Only a diagnostic injection of a coronary tree is assessed for stenoses."""

    main_structure: MainStructure
    contrast_agent: bool = True
    status: Status = "diagnostic"
    wire_to: str | None = None
    """Segment in which a guide wire lies."""
    balloon: LesionShape | None = None
    """Where in that segment a balloon is inflated."""

    @property
    def is_assessed(self) -> bool:
        is_coronary = self.main_structure in CORONARY.values()
        return is_coronary and self.contrast_agent and self.status == "diagnostic"


DIAGNOSTIC: dict[Side, Content] = {side: Content(structure) for side, structure in CORONARY.items()}


@dataclass(frozen=True)
class Scene:
    """One film besides the diagnostic injections: its content, its tree as it is then, and the angles if they are its own."""

    content: Content
    side: Side
    lesions: tuple[tuple[Lesion, LesionShape], ...]
    projection: Projection | None = None


def before_injections(preset: Preset, diseases: dict[Side, Disease], rng: np.random.Generator) -> list[Scene]:
    """Access shots, then films of other structures, drawn evenly from the ten that are no native coronary."""
    fewest, most = preset.other_films
    if not most:
        return []
    others = [each for each in MAIN_STRUCTURES if each not in CORONARY.values()]
    drawn = [others[index] for index in rng.integers(0, len(others), int(rng.integers(fewest, most + 1)))]
    return [_scene(each, diseases, rng) for each in sorted(drawn, key=lambda each: each not in _ACCESS)]


def _scene(structure: MainStructure, diseases: dict[Side, Disease], rng: np.random.Generator) -> Scene:
    choices = _PROJECTIONS.get(structure, _ANY_PROJECTION)
    projection = choices[int(rng.integers(len(choices)))]
    side: Side = "left" if structure == "Graft" or rng.random() < 0.5 else "right"
    has_contrast = structure not in _PLAIN and not (structure == "TAVR" and rng.random() < 0.5)
    return Scene(Content(structure, has_contrast), side, diseases[side].lesions, projection)


def interventions(
    preset: Preset, diseases: dict[Side, Disease], sides: tuple[Side, ...], rng: np.random.Generator
) -> list[Scene]:
    """A dilatation in the order of the table: wire crossed, balloon inflated, stent left behind, control injection."""
    if rng.random() >= preset.interventions:
        return []
    for side in sides:
        lesions = diseases[side].lesions
        for index, (lesion, shape) in enumerate(lesions):
            if lesion.stenosis_percent >= 50 and not lesion.cto:
                stented = replace(lesion, stenosis_percent=0, stent=True, thrombus=False)
                after = (*lesions[:index], (stented, shape), *lesions[index + 1 :])
                return _dilatation(side, lesions, after, shape, lesion.segment, rng)
    return []


def _dilatation(
    side: Side,
    before: tuple[tuple[Lesion, LesionShape], ...],
    after: tuple[tuple[Lesion, LesionShape], ...],
    shape: LesionShape,
    segment: str,
    rng: np.random.Generator,
) -> list[Scene]:
    during = Content(CORONARY[side], status="PCI", wire_to=segment)
    without = replace(during, contrast_agent=False)
    wire_out = segment if rng.random() < 0.3 else None
    return [
        Scene(during, side, before),
        Scene(replace(without, balloon=shape), side, before),
        Scene(without, side, after),
        Scene(Content(CORONARY[side], status="POST_PCI", wire_to=wire_out), side, after),
    ]
