"""The classifier's answers as a keyed table that `data.tables` joins: what is not sure stays empty, not assessed."""

import csv
import io
from pathlib import Path

import numpy as np

from deepcoro import atomic
from deepcoro.content.model import ContentModel
from deepcoro.content.pictures import HEADS, Films


def content_table(
    model: ContentModel, films: Films, min_confidence: float | None = None
) -> list[dict[str, str]]:
    """One row a film: `clip`, the answer of every head, its confidence, and the probability of every class.

    `min_confidence` replaces the thresholds that were calibrated on val.
    """
    rows = [{"clip": clip, **dict.fromkeys(HEADS, "")} for clip in films.clips]
    for head, probabilities in model.probabilities(films).items():
        card = model.card.heads[head]
        floor = card.min_confidence if min_confidence is None else min_confidence
        for row, chances in zip(rows, probabilities.numpy().astype(np.float64), strict=True):
            best = int(chances.argmax())
            row[head] = card.classes[best] if chances[best] >= floor else ""
            row[f"{head}_confidence"] = f"{chances[best]:.4f}"
            for name, chance in zip(card.classes, chances, strict=True):
                row[f"{head}_p_{name.replace(' ', '_')}"] = f"{chance:.4f}"
    return rows


def write_content(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes the table whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())
