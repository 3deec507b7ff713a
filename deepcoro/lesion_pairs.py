"""What `tools/counterfactuals.py` found, with what it was found of: numbers of one checkpoint never stand among those of another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepcoro import atomic
from deepcoro.config import Block

FILE = "counterfactuals.json"


class LesionPairs(Block):
    """Numbers of one checkpoint, one data set's split and one kind of pairs."""

    checkpoint: str = ""
    """Step and digest of the weights; empty in files of earlier versions, which kept the numbers alone."""
    split: str = ""
    """Of the generated patients."""
    recipe: dict[str, Any] = {}
    """Of the generated data set."""
    min_stenosis_percent: int | None = None
    """Of lesions that were taken away."""
    max_pairs: int | None = None
    """The most pairs of one make of machine."""
    numbers: dict[str, float]
    """`TARGET/visible/share_raised`, `TARGET/VENDOR/visible/share_raised`, ..."""

    def facts(self) -> dict[str, Any]:
        """What the numbers are of."""
        return self.model_dump(exclude={"numbers"})

    def is_of(self, document: Mapping[str, Any]) -> bool:
        """Whether an evaluation (`document` of results/) was of the same checkpoint and of the same part of the patients."""
        return (self.checkpoint, self.split) == (document.get("checkpoint"), document.get("split"))

    def title(self) -> str:
        """The facts in words."""
        if not self.checkpoint:
            return "of an unknown checkpoint, as earlier versions kept them"
        data = f"{self.recipe.get('preset')} (seed {self.recipe.get('seed')})"
        return f"{self.checkpoint}, {self.split} of {data}, lesions of {self.min_stenosis_percent} % or more"


def read_lesion_pairs(run_dir: Path) -> list[LesionPairs]:
    """Everything that was asked of a run, the newest last; none where nobody asked."""
    path = run_dir / FILE
    kept = json.loads(path.read_text()) if path.is_file() else []
    if isinstance(kept, dict):
        return [LesionPairs(numbers=kept)]
    return [LesionPairs.model_validate(each) for each in kept]


def add_lesion_pairs(run_dir: Path, found: LesionPairs) -> None:
    """Beside what is there; numbers of the very same facts are joined, the new ones standing where both have them."""
    known = read_lesion_pairs(run_dir)
    numbers = {
        key: value for each in known if each.facts() == found.facts() for key, value in each.numbers.items()
    }
    others = [each for each in known if each.facts() != found.facts()]
    joined = found.model_copy(update={"numbers": numbers | found.numbers})
    kept = [each.model_dump() for each in (*others, joined)]
    atomic.write_text(run_dir / FILE, json.dumps(kept, indent=1))
