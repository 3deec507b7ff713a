"""What the columns beside films say of a finding, without a look at the film: the baseline that a model of films has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow
from jaxtyping import Float, Int

from deepcoro.bootstrap import mean_intervals, patient_rows, patients_counted
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
_MOST_ROWS = 200_000
_SEED = 0


@dataclass(frozen=True)
class Judged:
    """What an evaluation judges: films one by one, or studies by the films that it shows of them."""

    multi_video: bool = False
    num_videos: int = 1
    takes_worst: bool = False
    """Where films of a study have different numbers: the highest counts (`conflict: max`), else none."""


@dataclass(frozen=True)
class _Rows:
    """Rows of a split whose label is known."""

    films: Int[np.ndarray, " film"]
    """Rows of films.parquet, row after row of the split."""
    starts: Int[np.ndarray, " row"]
    """Where each row's films begin."""
    values: Float[np.ndarray, " row"]
    patients: list[str | None]

    def described(self, features: Float[np.ndarray, "film feature"]) -> Float[np.ndarray, "row column"]:
        """The mean over each row's films, and how many these are."""
        counts = np.diff(self.starts, append=len(self.films))[:, None]
        return np.hstack([np.add.reduceat(features[self.films], self.starts) / counts, counts.astype(float)])


def metadata_baseline(
    shards: Collection,
    label: str,
    split: str,
    judged: Judged = Judged(),  # noqa: B008 - frozen
    classes: Sequence[str] = (),
    num_samples: int = 1000,
) -> tuple[dict[str, float], list[str]]:
    """Flat numbers of one label: AUROC of a logistic regression for yes/no and for two words (the later in the alphabet is the yes), for
    more words of each against the rest (`LABEL=WORD/auroc`); mean absolute error of a ridge regression for other numbers, beside that of
    the training median. A sentence where there is none. `classes`: words that count, () = all. ConfigError on a label of one word.
    """
    table = shards.films.read(list(dict.fromkeys(("patient", *COLUMNS, label))))
    values, words = _numbers(table[label], label, classes)
    train, held = (_rows(shards, each, judged, values, bool(words)) for each in ("train", split))
    if not len(train.starts) or not len(held.starts):
        return {}, [f"metadata/{label}: no assessed row in training or in the split"]
    features = _features(table, [name for name in COLUMNS if name != label], train.films)
    described = train.described(features), held.described(features)
    if len(words) > 2:
        numbers, notes = {}, []
        for number, word in enumerate(words):
            of_word = [replace(rows, values=(rows.values == number).astype(float)) for rows in (train, held)]
            found, told = _yes_or_no(f"{label}={word}", described, of_word, num_samples)
            numbers, notes = numbers | found, notes + told
        return numbers, notes
    is_yes_or_no = np.isin(train.values, (0.0, 1.0)).all()
    return (_yes_or_no if is_yes_or_no else _amount)(label, described, (train, held), num_samples)


def _numbers(
    column: pyarrow.ChunkedArray, label: str, classes: Sequence[str]
) -> tuple[Float[np.ndarray, " film"], list[str]]:
    """NaN = not assessed. Words have their place in the alphabet, and are told."""
    if not pyarrow.types.is_string(column.type):
        return column.to_numpy().astype(float), []
    found = column.to_pylist()
    words = sorted({word for word in found if word is not None and (not classes or word in classes)})
    if len(words) < 2:
        raise ConfigError(
            f"label '{label}' has the words {words}; a baseline is made of numbers or of two words or more"
        )
    place = {word: float(number) for number, word in enumerate(words)}
    return np.array([place.get(word, np.nan) for word in found]), words


def _rows(shards: Collection, split: str, judged: Judged, values: np.ndarray, are_words: bool) -> _Rows:
    """Training rows beyond _MOST_ROWS are drawn."""
    units = shards.units(split, judged.multi_video, judged.num_videos)
    chosen = np.arange(len(units))
    if split == "train" and len(chosen) > _MOST_ROWS:
        chosen = np.sort(np.random.default_rng(_SEED).choice(chosen, _MOST_ROWS, replace=False))
    rows = []
    for unit in chosen.tolist():
        films = units.studies.first_clip[units.study_row[unit]] + np.array(units.shown_clips(unit, None))
        known = values[films][~np.isnan(values[films])]
        if len(known) and (known.min() == known.max() or judged.takes_worst and not are_words):
            rows.append((films, known.max(), units.patient(unit)))
    counts = np.array([len(films) for films, _, _ in rows], dtype=int)
    return _Rows(
        films=np.concatenate([films for films, _, _ in rows]) if rows else np.zeros(0, int),
        starts=counts.cumsum() - counts,
        values=np.array([value for _, value, _ in rows]),
        patients=[patient for _, _, patient in rows],
    )


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
    label: str, described: Sequence[np.ndarray], rows: Sequence[_Rows], num_samples: int
) -> tuple[dict[str, float], list[str]]:
    from sklearn.linear_model import LogisticRegression

    train, held = rows
    positive = held.values == 1
    if len(np.unique(train.values)) < 2 or len(np.unique(positive)) < 2:
        return {}, [f"metadata/{label}: one class only in training or in the split"]
    model = LogisticRegression(max_iter=2000).fit(described[0], train.values)
    scores = model.decision_function(described[1])
    numbers = {
        f"{label}/auroc": auroc(scores, positive),
        f"{label}/num": float(len(positive)),
        f"{label}/num_positive": float(positive.sum()),
    }
    patients = patient_rows(held.patients, len(positive))
    numbers |= {f"{label}/{key}": value for key, value in patients_counted(patients, positive).items()}
    bounds = auroc_interval(scores, positive, patients, num_samples, _SEED)
    if bounds is not None:
        numbers |= {f"{label}/auroc_ci_low": bounds[0], f"{label}/auroc_ci_high": bounds[1]}
    return numbers, []


def _amount(
    label: str, described: Sequence[np.ndarray], rows: Sequence[_Rows], num_samples: int
) -> tuple[dict[str, float], list[str]]:
    from sklearn.linear_model import Ridge

    train, held = rows
    num_rows = len(held.values)
    predicted = Ridge(alpha=1.0).fit(described[0], train.values).predict(described[1])
    errors = np.stack(
        [np.abs(predicted - held.values), np.abs(np.median(train.values) - held.values)], axis=1
    )
    patients = patient_rows(held.patients, num_rows)
    bounds = mean_intervals(errors, np.arange(num_rows), patients, num_samples, _SEED)
    numbers = {f"{label}/num": float(num_rows)}
    for name, value, (low, high) in zip(("mae", "mae_of_median"), errors.mean(axis=0), bounds, strict=True):
        numbers |= {f"{label}/{name}": float(value)}
        numbers |= {f"{label}/{name}_ci_low": float(low), f"{label}/{name}_ci_high": float(high)}
    return numbers, []
