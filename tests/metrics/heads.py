"""A hand-made split that heads have spoken of."""

from collections.abc import Mapping, Sequence

import numpy as np

from deepcoro.evaluated import Evaluated, Head

BINARY, REGRESSION = "binary_classification", "regression"
MULTICLASS, ORDINAL = "multiclass_classification", "ordinal_classification"


def evaluated(
    heads: Mapping[str, Head], said: Mapping[str, np.ndarray], labels: Mapping[str, Sequence], **changes
) -> Evaluated:
    """One study a row, two of each patient; `heads` and `said` by head of the objective `probe`."""
    count = len(next(iter(labels.values())))
    known = {
        "split": "test",
        "units": np.arange(count),
        "clips": [f"c{row}" for row in range(count)],
        "studies": [f"s{row}" for row in range(count)],
        "patients": [f"p{row // 2}" for row in range(count)],
        "films": np.zeros((count, 4), np.float32),
        "texts": [],
        "text_embeddings": np.zeros((0, 0), np.float32),
        "text_of_film": np.full(count, -1),
        "labels": labels,
        "prompts": {},
        "heads": {f"probe/{name}": head for name, head in heads.items()},
        "rows": {
            f"probe/{name}/prediction": np.asarray(each, np.float32).reshape(count, -1)
            for name, each in said.items()
        },
    }
    return Evaluated(**known | changes)


def findings(num_heads: int = 3, count: int = 80, seed: int = 0) -> Evaluated:
    """Binary heads `a_cto`, `b_cto`, ... that know something, half of the labels missing."""
    generator = np.random.default_rng(seed)
    heads, said, labels = {}, {}, {}
    for number in range(num_heads):
        name = f"{chr(ord('a') + number)}_cto"
        truth = (generator.random(count) < 0.4).astype(float)
        logits = 1.5 * (2 * truth - 1) + generator.normal(0, 1.5, count)
        heads[name], said[name] = Head(BINARY, name, 2), 1 / (1 + np.exp(-logits))
        labels[name] = [
            None if missing else value
            for missing, value in zip(generator.random(count) < 0.5, truth, strict=True)
        ]
    return evaluated(heads, said, labels)


def known(data: Evaluated, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with the label, what was said of them and the truth."""
    rows = np.array([row for row, value in enumerate(data.labels[name]) if value is not None])
    truth = np.array([float(data.labels[name][row]) for row in rows])
    return rows, data.rows[f"probe/{name}/prediction"][rows].astype(np.float64), truth
