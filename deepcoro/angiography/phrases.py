"""The sentences of a coronary report, as data: the grammar renders them and reads them back.

Slots: {segment} {percent} {severity} {grade} {extent}. The first template of a kind is its canonical form. {extent} is
wording only; it carries no finding. Within a language no sentence may match two kinds.
"""

from dataclasses import dataclass
from typing import Literal

from deepcoro.angiography.vocabulary import SEGMENTS

Kind = Literal[
    "side_left", "side_right", "dominance_right", "dominance_left", "dominance_co", "no_significant_stenosis",
    "normal", "stenosis", "cto", "calcification", "thrombus", "stent_patent", "stent_restenosis",
]  # fmt: skip


@dataclass(frozen=True)
class Language:
    """Words for every slot and templates for every kind of sentence."""

    templates: dict[Kind, tuple[str, ...]]
    segments: dict[str, tuple[str, ...]]
    severities: dict[str, str]
    grades: dict[str, str]
    extents: tuple[str, ...]


ENGLISH = Language(
    templates={
        "side_left": ("Left coronary artery.", "Injection of the left coronary artery.", "LCA angiogram."),
        "side_right": ("Right coronary artery.", "Injection of the right coronary artery.", "RCA angiogram."),
        "dominance_right": ("Right-dominant circulation.", "The circulation is right dominant."),
        "dominance_left": ("Left-dominant circulation.", "The circulation is left dominant."),
        "dominance_co": ("Co-dominant circulation.", "The circulation is balanced."),
        "no_significant_stenosis": (
            "No significant stenosis.",
            "There is no haemodynamically significant narrowing.",
            "No obstructive disease.",
        ),
        "normal": (
            "No disease of the {segment}.",
            "No narrowing in the {segment}.",
            "There is a smooth {segment}, TIMI 3.",
        ),
        "stenosis": (
            "{severity} stenosis ({percent}) of the {segment}.",
            "There is a {percent} {extent} narrowing of the {segment}.",
            "A {severity} {extent} lesion, about {percent}, is seen in the {segment}.",
        ),
        "cto": (
            "Chronic total occlusion of the {segment}.",
            "CTO of the {segment}.",
            "There is a chronically occluded {segment}, TIMI 0.",
        ),
        "calcification": (
            "{grade} calcification of the {segment}.",
            "Calcification of the {segment} is {grade}.",
        ),
        "thrombus": (
            "Thrombus in the {segment}.",
            "Intraluminal filling defect in the {segment}, suggestive of thrombus.",
        ),
        "stent_patent": ("Patent stent in the {segment}.", "A stent in the {segment} is widely patent."),
        "stent_restenosis": (
            "Stent in the {segment} with {percent} in-stent restenosis.",
            "In-stent restenosis of {percent} in the {segment}.",
        ),
    },
    segments={prefix: (segment.name,) for prefix, segment in SEGMENTS.items()},
    severities={"mild": "mild", "moderate": "moderate", "severe": "severe", "critical": "critical"},
    grades={"mild": "mild", "moderate": "moderate", "severe": "heavy"},
    extents=("focal", "tubular", "diffuse"),
)

ABBREVIATED = Language(
    templates={
        **ENGLISH.templates,
        "normal": ("{segment}: no disease.", "{segment}: OK."),
        "stenosis": ("{segment}: {percent}.", "{segment}: {percent} {extent} stenosis."),
        "cto": ("{segment}: CTO.", "{segment}: chronic occlusion."),
        "calcification": ("{segment}: {grade} calcification.",),
        "thrombus": ("{segment}: thrombus.",),
        "stent_patent": ("{segment}: patent stent.",),
        "stent_restenosis": ("{segment}: ISR {percent}.",),
    },
    segments={prefix: (segment.short,) for prefix, segment in SEGMENTS.items()},
    severities=ENGLISH.severities,
    grades=ENGLISH.grades,
    extents=ENGLISH.extents,
)

FRENCH = Language(
    templates={
        "side_left": ("Coronaire gauche.", "Injection de la coronaire gauche."),
        "side_right": ("Coronaire droite.", "Injection de la coronaire droite."),
        "dominance_right": ("Dominance droite.", "Réseau à dominance droite."),
        "dominance_left": ("Dominance gauche.", "Réseau à dominance gauche."),
        "dominance_co": ("Réseau équilibré.", "Codominance."),
        "no_significant_stenosis": ("Pas de sténose significative.", "Absence de lésion obstructive."),
        "normal": ("Pas de lésion : {segment}.", "Absence de rétrécissement : {segment}."),
        "stenosis": (
            "Sténose {severity} ({percent}) : {segment}.",
            "Lésion {extent} de {percent} : {segment}.",
        ),
        "cto": ("Occlusion chronique : {segment}.",),
        "calcification": ("Calcifications {grade} : {segment}.",),
        "thrombus": ("Thrombus intraluminal : {segment}.",),
        "stent_patent": ("Stent perméable : {segment}.",),
        "stent_restenosis": ("Resténose intra-stent de {percent} : {segment}.",),
    },
    segments={
        "prox_rca": ("coronaire droite proximale",),
        "mid_rca": ("coronaire droite moyenne",),
        "dist_rca": ("coronaire droite distale",),
        "pda": ("interventriculaire postérieure",),
        "posterolateral": ("rétroventriculaire",),
        "left_main": ("tronc commun",),
        "prox_lad": ("IVA proximale",),
        "mid_lad": ("IVA moyenne",),
        "dist_lad": ("IVA distale",),
        "D1": ("première diagonale",),
        "D2": ("deuxième diagonale",),
        "prox_lcx": ("circonflexe proximale",),
        "mid_lcx": ("circonflexe moyenne",),
        "dist_lcx": ("circonflexe distale",),
        "om1": ("première marginale",),
        "om2": ("deuxième marginale",),
        "bx": ("bissectrice",),
        "lvp": ("postérolatérale gauche",),
    },
    severities={"mild": "minime", "moderate": "modérée", "severe": "sévère", "critical": "critique"},
    grades={"mild": "minimes", "moderate": "modérées", "severe": "importantes"},
    extents=("focale", "tubulaire", "diffuse"),
)

LANGUAGES: tuple[Language, ...] = (ENGLISH, ABBREVIATED, FRENCH)
