"""Puts together what stands in the beam of one film: a tree with its catheter, or any other structure of the laboratory."""

from dataclasses import dataclass

import numpy as np

from deepcoro.angiography import chambers, props
from deepcoro.angiography.backdrop import Painter
from deepcoro.angiography.carm import CArm
from deepcoro.angiography.content import Content, MainStructure
from deepcoro.angiography.limbs import forearm, hip
from deepcoro.angiography.lumen import Cloud, Scale, join
from deepcoro.angiography.scene import aim, distractors, free_catheter, furnish
from deepcoro.angiography.tree import Tree

_REGIONS: dict[MainStructure, Painter] = {"Femoral": hip, "Radial": forearm}


def region_of(content: Content | None) -> Painter | None:
    """What paints the background; None = the chest."""
    return None if content is None else _REGIONS.get(content.main_structure)


@dataclass(frozen=True)
class Stage:
    """One film's actors: the patient's tree, and how far from life size they are."""

    content: Content
    tree: Tree
    vessels: Cloud
    scale: Scale
    clutter: float

    def set(self, carm: CArm, rng: np.random.Generator) -> tuple[Cloud, tuple[float, float]]:
        """The balls of the film, and where the table brings the middle of the image (detector axes, mm)."""
        structure = self.content.main_structure
        if structure in ("Left Coronary", "Right Coronary"):
            centre = aim(carm, self.tree, rng)
            cloud = furnish(self.tree, self.vessels, self.clutter, rng)
            return join([cloud, *self._instruments()]), centre
        cloud, middle = getattr(self, f"_{structure.lower().replace(' ', '_')}")(rng)
        leads = [] if structure in _REGIONS else distractors(self.clutter, rng)
        right, up, _ = carm.across(np.asarray(middle, float)[None])
        offset = np.clip(rng.normal(0, 6, 2), -11, 11)
        return join([cloud, *leads]), (float(right[0] + offset[0]), float(up[0] + offset[1]))

    def _instruments(self) -> list[Cloud]:
        """Wire and balloon of an intervention."""
        segment, shape = self.content.wire_to, self.content.balloon
        if segment is None:
            return []
        wire = props.guide_wire(self.tree, segment, self.scale)
        return [wire] if shape is None else [wire, props.balloon(self.tree, self.vessels, segment, shape)]

    @property
    def _root(self) -> np.ndarray:
        return props.root_of(self.tree)

    def _lv(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        loop = props.pigtail(2.0 * self.tree.heart.axis, self.tree, rng)
        return join([chambers.ventricle(self.tree, rng), loop]), 0.5 * self._root

    def _aorta(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        loop = props.pigtail(self._root + (-3.0, -2.0, 14.0), self.tree, rng)
        return join([chambers.aorta(self.tree, rng), loop]), self._root + (4.0, 8.0, 32.0)

    def _graft(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        cloud, start = chambers.graft(self.tree, self.vessels, self.scale.vessel, rng)
        return join([cloud, free_catheter(start, rng)]), 0.4 * start

    def _catheter(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        start = self._root + rng.normal(0, 5, 3) + (0.0, 0.0, rng.uniform(0, 25))
        return free_catheter(start, rng), start + (10.0, 0.0, -20.0)

    def _pigtail(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        in_ventricle = rng.random() < 0.4
        place = 4.0 * self.tree.heart.axis if in_ventricle else self._root + (-2.0, -2.0, 10.0)
        return props.pigtail(place, self.tree, rng), 0.6 * self._root

    def _tavr(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        loop = props.pigtail(self._root + (-9.0, -4.0, 14.0), self.tree, rng)
        parts = [props.valve_frame(self.tree, self.scale, rng), loop]
        if self.content.contrast_agent:
            parts.append(chambers.aorta(self.tree, rng, reach_mm=70))
        return join(parts), self._root + (4.0, 0.0, 4.0)

    def _tee_probe(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        return props.echo_probe(rng), np.array((0.0, 10.0, 22.0))

    def _other(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        return props.pacing_lead(self.tree, rng), np.array((-8.0, 0.0, 5.0))

    def _femoral(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        return chambers.femoral(self.scale.vessel**0.5, rng), np.zeros(3)

    def _radial(self, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
        return chambers.radial(self.scale.vessel, rng), np.zeros(3)
