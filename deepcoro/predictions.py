"""What the model said of each film, as a table that a spreadsheet opens.

One row a film. `ground_truth_idx`, `predicted_idx_1..5` and `sim_1..5` mean what they mean in the tables of earlier tools:
row numbers of the companion table of distinct texts (`Index`, `Text`) and cosine similarities, best first. `ground_truth_indices` and
`ground_truth_texts` are what those tools called the same where a film may have several texts.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepcoro import atomic
from deepcoro.kernels.tied_ranks import nearest
from deepcoro.sample import text_id

NUM_PREDICTED = 5


@dataclass(frozen=True)
class Predictions:
    """Films with what was predicted for them. Sequences hold one entry per film, in one order."""

    clips: Sequence[str]
    """Keyed ids of the films (of the studies, where a sample is a study)."""
    studies: Sequence[str]
    """Keyed ids of the studies."""
    split: str
    films: np.ndarray
    """L2-normalised embeddings [film, dim]."""
    texts: Sequence[str]
    """Distinct texts that were searched."""
    text_embeddings: np.ndarray
    """L2-normalised embeddings [text, dim]; width 0 where films and texts share no space."""
    text_of_film: np.ndarray
    """Row of each film's own text; -1 = none."""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Column -> number of each film, as metrics give them; NaN = none."""
    labels: Mapping[str, Sequence] = field(default_factory=dict)
    """Label column -> value of each film; None = not assessed."""
    captions: Sequence[str] = ()
    """The report that the model wrote of each film; empty where it writes none."""
    heads: Mapping[str, Sequence] = field(default_factory=dict)
    """Column -> cell of each film (deepcoro.head_columns)."""
    video_names: Sequence[Sequence[str]] = ()
    """The films that each row shows; empty = not told."""
    epoch: int | None = None
    """Epochs that the checkpoint had finished; None = it does not say."""
    tables: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    """What metrics say of other things than films, by the name of the table: rows with the same keys; None = an empty cell."""


def predictions_rows(predictions: Predictions) -> list[dict[str, object]]:
    """One row per film. An empty cell is a value that does not exist: no report, label not assessed, fewer texts than five."""
    columns, similarities = _nearest(predictions)
    return [
        _identity(predictions, film)
        | ({"epoch": predictions.epoch} if predictions.heads else {})
        | ({"video_name": str(list(predictions.video_names[film]))} if predictions.video_names else {})
        | ({"caption": predictions.captions[film]} if predictions.captions else {})
        | _nearest_texts(predictions.texts, columns[film].tolist(), similarities[film].tolist())
        | {name: cells[film] for name, cells in predictions.heads.items()}
        | _findings(predictions, film)
        for film in range(len(predictions.clips))
    ]


def _nearest(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Of films and texts that share no space, none."""
    if predictions.films.shape[1] != predictions.text_embeddings.shape[1]:
        none = np.zeros((len(predictions.clips), 0))
        return none.astype(np.int64), none
    return nearest(predictions.films, predictions.text_embeddings, NUM_PREDICTED)


def _identity(predictions: Predictions, film: int) -> dict[str, object]:
    own = int(predictions.text_of_film[film])
    text = predictions.texts[own] if own >= 0 else None
    return {
        "clip": predictions.clips[film],
        "study": predictions.studies[film],
        "split": predictions.split,
        "text_id": text_id(text) if text is not None else None,
        "ground_truth_idx": own if text is not None else None,
        "ground_truth_text": text,
        "ground_truth_indices": own if text is not None else None,
        "ground_truth_texts": text,
    }


def _nearest_texts(texts: Sequence[str], columns: list[int], similarities: list[float]) -> dict[str, object]:
    places = range(1, NUM_PREDICTED + 1)
    known = dict(enumerate(zip(columns, similarities, strict=True), start=1))
    return (
        {f"predicted_idx_{place}": known[place][0] if place in known else None for place in places}
        | {f"sim_{place}": f"{known[place][1]:.6f}" if place in known else None for place in places}
        | {f"predicted_text_{place}": texts[known[place][0]] if place in known else None for place in places}
    )


def _findings(predictions: Predictions, film: int) -> dict[str, object]:
    return {name: _number(values[film]) for name, values in predictions.scores.items()} | {
        f"label_{name}": _cell(values[film]) for name, values in predictions.labels.items()
    }


def _number(value: float) -> str | None:
    return None if np.isnan(value) else f"{value:.6f}"


def _cell(value: object) -> object:
    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    return None if is_nan else value


def write_predictions(folder: Path, name: str, predictions: Predictions) -> Path:
    """Writes `{name}.csv`, `{name}_unique_texts.csv` and `{name}_{table}.csv` of each table with rows (`name` is `{data}_{split}`); returns
    the first.
    """
    path = folder / f"{name}.csv"
    atomic.write_text(path, table(predictions_rows(predictions)))
    texts = [{"Index": row, "Text": text} for row, text in enumerate(predictions.texts)]
    atomic.write_text(folder / f"{name}_unique_texts.csv", table(texts))
    for title, rows in predictions.tables.items():
        if rows:
            atomic.write_text(folder / f"{name}_{title}.csv", table(rows))
    return path


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys as comma-separated text; no rows give no text."""
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
