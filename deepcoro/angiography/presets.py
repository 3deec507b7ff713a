"""How large, how real and how hard a generated data set is."""

from typing import Literal

from pydantic import Field

from deepcoro.angiography.grammar import Style
from deepcoro.angiography.vocabulary import Calcification
from deepcoro.config import Block, ConfigError

_MAJOR = ("prox_rca", "mid_rca", "dist_rca", "prox_lad", "mid_lad", "prox_lcx", "mid_lcx")
_COMMON = (
    *_MAJOR,
    "left_main",
    "dist_lad",
    "dist_lcx",
    "D1",
    "D2",
    "om1",
    "om2",
    "pda",
    "posterolateral",
    "lvp",
    "bx",
)

FilmFormat = Literal["avi", "dicom_explicit", "dicom_rle", "dicom_j2k"]


class Preset(Block):
    """One kind of generated data set. Everything drawn is a pure function of (seed, patient, study, view)."""

    name: str
    """As given on the command line."""
    patients: int = Field(ge=1)
    """Number of patients where none is asked for."""
    size_px: int
    """Height and width of the films."""
    frames: tuple[int, int]
    """Fewest and most frames of a film."""
    frame_rate_fps: float
    """Acquisition rate; 15 is usual, 7.5 is a low-dose protocol."""
    films_per_side: tuple[int, int]
    """Fewest and most films of one tree in one study."""
    vessel_scale: float = 1.0
    """Factor on vessel diameters: above 1 the vessels survive at 64 px, and are no longer life-size."""
    finding_boost: float = 1.0
    """Factor on the mass of calcium and stents, which are invisible below about 224 px."""
    twigs: float = 1.0
    """Fraction of the unnamed twigs that is drawn."""
    ball_step: float = 1.0
    """Factor on the distance between the balls that vessels are drawn with; small films need fewer."""
    clutter: float = 0.0
    """Chance of leads, and less often of sternal wires."""
    heart_rate_bpm: tuple[float, float] = (55.0, 100.0)
    """Lowest and highest heart rate; equal numbers fix it."""
    is_steady: bool = False
    """No breathing, table movement or early beats."""
    cto_prevalence: float
    """Chance that a tree has a chronic total occlusion."""
    lesion_prevalence: float
    """Chance that a tree without occlusion has a stenosis."""
    max_lesions: int
    """Most lesions of one tree."""
    lesion_segments: tuple[str, ...] = _COMMON
    """Where lesions may sit."""
    stenosis_percent: tuple[int, ...]
    """Diameter stenoses to draw from."""
    reader_noise_percent: float = 0.0
    """Standard deviation of the reader around the truth (published readers differ by 7 to 26 %)."""
    lesion_length_mm: tuple[float, float] = (8.0, 24.0)
    """Shortest and longest lesion; long ones survive at 64 px."""
    calcification: float = 0.0
    """Chance that a lesion is calcified."""
    calcification_grades: tuple[Calcification, ...] = ("mild", "moderate", "severe")
    """Grades to draw from."""
    extras: float = 0.0
    """Sets the chance of stents, thrombus, slit-like lumens, and of collaterals beyond an occlusion."""
    dominance: tuple[float, float, float]
    """Shares of right, left and co-dominant hearts; 0.842, 0.109, 0.048 in 12,558 angiograms."""
    other_films: tuple[int, int] = (0, 0)
    """Fewest and most films per study of anything but a native coronary: access, ventricle, aorta, graft, instruments."""
    interventions: float = 0.0
    """Chance that a stenosis of 50 % or more is treated in the same study: wire, balloon, stent, control injection."""
    one_sided: float = 0.08
    """Share of studies that image one tree only; the other tree is then not assessed."""
    repeats: float = 0.13
    """Share of patients with a second study."""
    report_styles: tuple[Style, ...] = ("canonical",)
    """Wordings to draw from, per report."""
    explicit_negatives: float = 0.0
    """Chance that a report lists the healthy segments."""
    splits: tuple[float, float, float] = (0.80, 0.08, 0.12)
    """Shares of patients in train, val and test."""
    formats: dict[FilmFormat, float] = {
        "avi": 0.70,
        "dicom_explicit": 0.20,
        "dicom_rle": 0.06,
        "dicom_j2k": 0.04,
    }
    """Shares of the film formats in a mixed data set."""


TINY = Preset(
    name="tiny", patients=24, size_px=64, frames=(10, 10), frame_rate_fps=5.0, films_per_side=(2, 2),
    vessel_scale=1.8, finding_boost=8.0, twigs=0.3, ball_step=2.0, heart_rate_bpm=(70.0, 70.0), is_steady=True,
    cto_prevalence=0.35, lesion_prevalence=0.5, max_lesions=1, lesion_segments=_MAJOR, stenosis_percent=(80,),
    dominance=(0.7, 0.3, 0.0), repeats=0.15, splits=(0.6, 0.2, 0.2),
)  # fmt: skip
SMALL = Preset(
    name="small", patients=100, size_px=112, frames=(16, 16), frame_rate_fps=7.5, films_per_side=(2, 3),
    vessel_scale=1.4, finding_boost=4.0, twigs=0.6, ball_step=1.6, clutter=0.1, cto_prevalence=0.15, lesion_prevalence=0.6,
    max_lesions=2, stenosis_percent=(30, 50, 60, 70, 80, 90), reader_noise_percent=4.0, calcification=0.25, extras=0.25,
    dominance=(0.842, 0.109, 0.049), report_styles=("canonical", "paraphrased"), explicit_negatives=0.3,
)  # fmt: skip
SMALL_LIFE_SIZE = SMALL.model_copy(update={"name": "small_life_size", "size_px": 224, "vessel_scale": 1.0})
DEMO = Preset(
    name="demo", patients=740, size_px=128, frames=(18, 18), frame_rate_fps=7.5, films_per_side=(2, 2),
    vessel_scale=1.8, finding_boost=16.0, twigs=0.4, ball_step=1.8, cto_prevalence=0.35, lesion_prevalence=0.7, max_lesions=3,
    lesion_segments=_MAJOR, stenosis_percent=(90,), lesion_length_mm=(24.0, 36.0), calcification=0.5, calcification_grades=("severe",),
    dominance=(0.7, 0.3, 0.0), one_sided=0.05,
    splits=(0.81, 0.04, 0.15),
    formats={"avi": 0.80, "dicom_explicit": 0.14, "dicom_rle": 0.03, "dicom_j2k": 0.03},
)  # fmt: skip
CONTENT = Preset(
    name="content", patients=150, size_px=96, frames=(12, 12), frame_rate_fps=5.0, films_per_side=(1, 1),
    vessel_scale=1.5, finding_boost=24.0, twigs=0.5, ball_step=1.8, clutter=0.15, cto_prevalence=0.1, lesion_prevalence=0.75,
    max_lesions=2, lesion_segments=_MAJOR, stenosis_percent=(50, 70, 80, 90), calcification=0.2, extras=0.25, dominance=(0.842, 0.109, 0.049),
    other_films=(3, 5), interventions=0.6, one_sided=0.1, repeats=0.0, splits=(0.7, 0.15, 0.15),
)  # fmt: skip
FULL = Preset(
    name="full", patients=50, size_px=512, frames=(40, 90), frame_rate_fps=15.0, films_per_side=(3, 5),
    clutter=0.25, cto_prevalence=0.08, lesion_prevalence=0.6, max_lesions=3,
    stenosis_percent=(20, 30, 40, 50, 60, 70, 80, 90, 95), reader_noise_percent=8.0, calcification=0.4, extras=0.35,
    dominance=(0.842, 0.109, 0.049), explicit_negatives=0.5,
    report_styles=("canonical", "paraphrased", "abbreviated", "french"),
)  # fmt: skip

# A second study would have to know of the first one's stents: where there are interventions there are no repeats.
PRESETS: dict[str, Preset] = {
    preset.name: preset for preset in (TINY, SMALL, SMALL_LIFE_SIZE, DEMO, CONTENT, FULL)
}


def preset_named(name: str) -> Preset:
    if name not in PRESETS:
        raise ConfigError(f"preset '{name}' is not known; allowed: {sorted(PRESETS)}")
    return PRESETS[name]
