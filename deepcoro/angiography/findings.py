"""What a reader says about one coronary tree: the typed meaning of a side report, and the truth behind a film."""

from dataclasses import dataclass

from deepcoro.angiography.vocabulary import SEGMENTS, Calcification, Dominance, Severity, Side, severity_of

_ORDER = {prefix: position for position, prefix in enumerate(SEGMENTS)}


@dataclass(frozen=True)
class Lesion:
    """The disease of one segment. A stent without stenosis is patent; with stenosis it is in-stent restenosis."""

    segment: str
    stenosis_percent: int = 0
    """Diameter stenosis as read, 0-100; a chronic total occlusion is 100."""
    cto: bool = False
    calcification: Calcification = "none"
    thrombus: bool = False
    stent: bool = False

    def __post_init__(self) -> None:
        if self.segment not in SEGMENTS:
            raise ValueError(f"segment '{self.segment}' is not known; allowed: {list(SEGMENTS)}")
        severity_of(self.stenosis_percent)
        if self.cto and self.stenosis_percent != 100:
            raise ValueError(f"a CTO is a 100 % stenosis; got {self.stenosis_percent}")
        if not (self.stenosis_percent or self.stent or self.thrombus or self.calcification != "none"):
            raise ValueError(f"lesion of '{self.segment}' says nothing; a healthy segment goes into `normal`")

    @property
    def severity(self) -> Severity:
        return severity_of(self.stenosis_percent)


@dataclass(frozen=True)
class SideFindings:
    """All that is said of one tree. A segment neither in `lesions` nor in `normal` is not mentioned, which is not normal.

    `lesions` and `normal` are held in anatomical order, so equal findings compare equal.
    """

    side: Side | None = None
    """None only where a text (say, a generated one) names no tree."""
    dominance: Dominance | None = None
    """None = not mentioned."""
    lesions: tuple[Lesion, ...] = ()
    normal: tuple[str, ...] = ()
    """Segments said to be free of disease."""
    no_significant_stenosis: bool = False
    """The tree as a whole is said to be free of stenosis >= 50 %."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "lesions", tuple(sorted(self.lesions, key=lambda each: _ORDER[each.segment]))
        )
        object.__setattr__(self, "normal", tuple(sorted(self.normal, key=_ORDER.__getitem__)))
        named = [lesion.segment for lesion in self.lesions] + list(self.normal)
        if len(named) != len(set(named)):
            raise ValueError(f"a segment is described twice: {named}")
        if self.no_significant_stenosis and any(lesion.stenosis_percent >= 50 for lesion in self.lesions):
            raise ValueError("no_significant_stenosis contradicts a lesion of 50 % or more")

    @property
    def cto(self) -> bool:
        return any(lesion.cto for lesion in self.lesions)

    def lesion_of(self, segment: str) -> Lesion | None:
        return next((lesion for lesion in self.lesions if lesion.segment == segment), None)
