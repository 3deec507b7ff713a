"""`README.md` of a shared model: the hub's front matter, how to use the folder, what it holds, what it may tell of patients, the model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from deepcoro.page import render_page
from deepcoro.paper.model_card import plain, render_model_card
from deepcoro.report import read_inputs
from deepcoro.sharing.layout import SharedModel

_PAGE = "shared_model.md"
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
    )
    card = render_model_card(run_dir, read_inputs(run_dir))
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{page.rstrip()}\n\n{card}"
