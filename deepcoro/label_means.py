"""Label columns as numbers, and their means where some are not assessed."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from deepcoro.evaluated import label_word

MOST_WORDS = 20
"""A label of more different words is free text, not a class."""


def numeric_labels(labels: Mapping[str, Sequence]) -> dict[str, Float[np.ndarray, " film"]]:
    """Each label as numbers, NaN = not assessed: `NAME`, or of a label in words `NAME=WORD` (0 or 1). Free text is left out."""
    found: dict[str, np.ndarray] = {}
    for name, values in labels.items():
        words = [label_word(value) for value in values]
        kinds = sorted(set(words) - {None})
        if not any(isinstance(value, str) and value for value in values):
            found[name] = np.array(
                [np.nan if word is None else float(value) for word, value in zip(words, values, strict=True)],
                float,
            )
        elif len(kinds) <= MOST_WORDS:
            found |= {f"{name}={kind}": _is_word(words, kind) for kind in kinds}
    return found


def _is_word(words: Sequence[str | None], kind: str) -> Float[np.ndarray, " film"]:
    return np.array([np.nan if word is None else float(word == kind) for word in words])


def means_of_groups(
    values: Float[np.ndarray, " film"], group_of_film: Int[np.ndarray, " film"], num_groups: int
) -> Float[np.ndarray, " group"]:
    """Mean of the known values of each group; NaN where none is known."""
    known = ~np.isnan(values)
    counts = np.bincount(group_of_film[known], minlength=num_groups)
    sums = np.bincount(group_of_film[known], values[known], minlength=num_groups)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
