"""`README.md` of a shared model: the hub's front matter, how to use the folder, what it holds, what it may tell of patients, the model card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deepcoro.aggregates import shareable
from deepcoro.page import render_page
from deepcoro.paper.model_card import numbers_of, plain, render_model_card
from deepcoro.report import read_inputs
from deepcoro.report_aggregates import too_few
from deepcoro.sharing.layout import SharedModel

_PAGE = "shared_model.md"
_RATES = {
    "copied/verbatim": (
        "Captions that are a training report word for word; beside them the films' own reports",
        "_reports",
        "copied/num",
    ),
    "copied/longest_run": (
        "Longest run of a caption's words within one training report, share of its words; of the own reports",
        "_reports",
        "copied/num",
    ),
    "linked/same_study/rate": (
        "Films whose nearest other film, by embedding, is of the same study; at random",
        "_chance",
        "linked/same_study/num",
    ),
    "linked/other_study/rate": (
        "Films whose nearest film of all other studies is of the same patient; at random",
        "_chance",
        "linked/other_study/num",
    ),
}
"""Number under `privacy/` -> what it is and what stands beside it, the suffix of that, the cases behind both."""
_TAGS = ("deepcoro", "medical-imaging", "cardiology", "video")


@dataclass(frozen=True)
class Extras:
    """What only the command knows."""

    license_name: str = "unknown"
    """As the hub spells licenses."""
    along: Sequence[str] = ()
    """Files that went along because somebody asked for them."""


def render_card(run_dir: Path, about: SharedModel, extras: Extras) -> str:
    """The whole page."""
    config = about.run_config()
    inputs = read_inputs(run_dir)
    kinds = sorted({objective.type for objective in config.objectives.values()})
    front = {
        "license": extras.license_name,
        "library_name": "deepcoro",
        "pipeline_tag": "feature-extraction",
        "tags": [*_TAGS, *(kind.replace("_", "-") for kind in kinds)],
    }
    page = render_page(
        _PAGE,
        {"plain": plain},
        name=about.name,
        has_texts="contrastive" in kinds,
        has_captions="captioning" in kinds,
        has_heads="linear_probing" in kinds,
        from_scratch=bool(config.towers.text and config.towers.text.from_scratch),
        about=about,
        along=extras.along,
        privacy=privacy_of(inputs.documents, about.digest),
    )
    card = render_model_card(run_dir, inputs)
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{page.rstrip()}\n\n{card}"


@dataclass(frozen=True)
class Rate:
    """One row of what the weights may tell."""

    what: str
    value: float
    interval: str
    beside: float
    num: int


@dataclass(frozen=True)
class Measured:
    """What one evaluation of the exported checkpoint measured."""

    split: str
    data: str
    rates: Sequence[Rate]
    num_training_reports: int | None


def privacy_of(documents: Sequence[Mapping[str, Any]], digest: str) -> Measured | None:
    """Of the test split, else of val; None where nothing was measured with this very checkpoint, or on too few to be told."""
    found = [each for each in documents if str(each.get("checkpoint", "")).endswith(f"({digest})")]
    for document in sorted(found, key=lambda each: each.get("split") != "test"):
        numbers = {} if too_few(document.get("data_summary") or {}) else shareable(numbers_of(document))
        rates = list(_rates(numbers))
        if rates:
            reports = numbers.get("privacy/copied/num_training_reports")
            known = None if reports is None else int(reports)
            return Measured(str(document.get("split")), str(document.get("data")), rates, known)
    return None


def _rates(numbers: Mapping[str, float]) -> Iterator[Rate]:
    for name, (what, suffix, num) in _RATES.items():
        key = f"privacy/{name}"
        if key not in numbers:
            continue
        bounds = [numbers.get(f"{key}_ci_{end}") for end in ("low", "high")]
        interval = "" if None in bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
        yield Rate(what, numbers[key], interval, numbers[key + suffix], int(numbers[f"privacy/{num}"]))
