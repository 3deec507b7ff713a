"""Evaluated splits with captions, built by hand."""

from collections.abc import Sequence

import numpy as np

from deepcoro.evaluated import Evaluated, TrainingReports


def unit_rows(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def captioned(
    references: Sequence[str | None],
    captions: Sequence[str],
    training: TrainingReports | None = None,
    sides: Sequence[str | None] = (),
    patients: Sequence[str] = (),
) -> Evaluated:
    """One film a report (None = without one); each distinct report has an axis of the space, and its films lie on it."""
    texts = list(dict.fromkeys(text for text in references if text is not None))
    count = len(references)
    own = np.array([-1 if text is None else texts.index(text) for text in references])
    space = np.eye(max(len(texts), 2), dtype=np.float32)
    return Evaluated(
        split="test",
        units=np.arange(count),
        clips=[f"c{film}" for film in range(count)],
        studies=[f"s{film}" for film in range(count)],
        patients=list(patients) or [f"p{film}" for film in range(count)],
        films=space[np.maximum(own, 0)],
        texts=texts,
        text_embeddings=space[: len(texts)],
        text_of_film=own,
        labels={"side": list(sides) or [None] * count},
        prompts={},
        captions=list(captions),
        training=training,
    )


def trained_on(texts: Sequence[str], embeddings: np.ndarray, **modal: str) -> TrainingReports:
    """Training reports whose most common one is the first, unless a side has another."""
    return TrainingReports(list(texts), embeddings, {None: texts[0], **modal})
