"""What the columns beside a film say of a finding, without a look at the film: the baseline that a model of films has to beat."""

from collections.abc import Sequence

import numpy as np
import pyarrow
from jaxtyping import Float

from deepcoro.bootstrap import mean_intervals, patient_rows
from deepcoro.config import ConfigError
from deepcoro.data.collection import Collection
from deepcoro.statistics.ranking import auroc, auroc_interval

COLUMNS = (
    "num_frames",
    "height",
    "width",
    "channels",
    "frame_rate_fps",
    "side",
    "view",
    "primary_angle_deg",
    "secondary_angle_deg",
)
_RARE = 10
"""A word of fewer training films is no column of its own."""
_MOST_FILMS = 200_000


def metadata_baseline(
    shards: Collection, label: str, split: str, num_samples: int = 1000, seed: int = 0
) -> tuple[dict[str, float], list[str]]:
    """Flat numbers of one label, film by film: AUROC of a logistic regression for yes/no, mean absolute error of a ridge regression for
    other numbers beside that of the training median. A sentence where there is none. ConfigError on a label that the data lack.
    """
    table = shards.films.read(list(dict.fromkeys(("patient", *COLUMNS, label))))
    values = _numbers(table[label], label)
    train, held = (_films(shards, each, values) for each in ("train", split))
    if len(train) > _MOST_FILMS:
        train = np.sort(np.random.default_rng(seed).choice(train, _MOST_FILMS, replace=False))
    features = _features(table, [name for name in COLUMNS if name != label], train)
    patients = [table["patient"][int(film)].as_py() for film in held]
    if np.isin(values[train], (0.0, 1.0)).all() and len(train):
        return _yes_or_no(label, features, values, (train, held), patients, (num_samples, seed))
    return _amount(label, features, values, (train, held), patients, (num_samples, seed))


def _numbers(column: pyarrow.ChunkedArray, label: str) -> Float[np.ndarray, " film"]:
    """NaN = not assessed; of two words the later in the alphabet is 1."""
    if not pyarrow.types.is_string(column.type):
        return column.to_numpy().astype(float)
    words = column.to_pylist()
    known = sorted({word for word in words if word is not None})
    if len(known) != 2:
        raise ConfigError(
            f"label '{label}' has the words {known}; a baseline is made of numbers or of two words"
        )
    return np.array([np.nan if word is None else float(word == known[1]) for word in words])


def _films(shards: Collection, split: str, values: np.ndarray) -> np.ndarray:
    """Assessed films of a split."""
    films = shards.units(split, False, 1).film
    return films[~np.isnan(values[films])]


def _features(
    table: pyarrow.Table, names: Sequence[str], train: np.ndarray
) -> Float[np.ndarray, "film feature"]:
    """Numbers in units of their training deviation, missing ones at the mean and told; a column for each frequent word."""
    parts = []
    for name in names:
        column = table[name]
        if pyarrow.types.is_string(column.type):
            words = np.array([word or "" for word in column.to_pylist()])
            known, counts = np.unique(words[train], return_counts=True)
            parts += [(words == word).astype(float) for word in known[counts >= _RARE]]
            continue
        values = column.to_numpy().astype(float)
        missing = np.isnan(values)
        seen = values[train][~missing[train]]
        mean, spread = (seen.mean(), seen.std() or 1.0) if len(seen) else (0.0, 1.0)
        scaled = np.where(missing, 0.0, (values - mean) / spread)
        parts += [scaled, scaled**2, missing.astype(float)]
    return np.stack(parts, axis=1)


def _yes_or_no(
    label: str,
    features: Float[np.ndarray, "film feature"],
    values: Float[np.ndarray, " film"],
    films: tuple[np.ndarray, np.ndarray],
    patients: Sequence[str | None],
    sampling: tuple[int, int],
) -> tuple[dict[str, float], list[str]]:
    from sklearn.linear_model import LogisticRegression

    train, held = films
    positive = values[held] == 1
    if len(np.unique(values[train])) < 2 or len(np.unique(positive)) < 2:
        return {}, [f"metadata/{label}: one class only in training or in the split"]
    model = LogisticRegression(max_iter=2000).fit(features[train], values[train])
    scores = model.decision_function(features[held])
    numbers = {
        f"{label}/auroc": auroc(scores, positive),
        f"{label}/num": float(len(held)),
        f"{label}/num_positive": float(positive.sum()),
    }
    bounds = auroc_interval(scores, positive, patient_rows(patients, len(held)), *sampling)
    if bounds is not None:
        numbers |= {f"{label}/auroc_ci_low": bounds[0], f"{label}/auroc_ci_high": bounds[1]}
    return numbers, []


def _amount(
    label: str,
    features: Float[np.ndarray, "film feature"],
    values: Float[np.ndarray, " film"],
    films: tuple[np.ndarray, np.ndarray],
    patients: Sequence[str | None],
    sampling: tuple[int, int],
) -> tuple[dict[str, float], list[str]]:
    from sklearn.linear_model import Ridge

    train, held = films
    if not len(train) or not len(held):
        return {}, [f"metadata/{label}: no assessed film in training or in the split"]
    predicted = Ridge(alpha=1.0).fit(features[train], values[train]).predict(features[held])
    errors = np.stack(
        [np.abs(predicted - values[held]), np.abs(np.median(values[train]) - values[held])], axis=1
    )
    bounds = mean_intervals(errors, np.arange(len(held)), patient_rows(patients, len(held)), *sampling)
    numbers = {f"{label}/num": float(len(held))}
    for name, value, (low, high) in zip(("mae", "mae_of_median"), errors.mean(axis=0), bounds, strict=True):
        numbers |= {f"{label}/{name}": float(value)}
        numbers |= {f"{label}/{name}_ci_low": float(low), f"{label}/{name}_ci_high": float(high)}
    return numbers, []
