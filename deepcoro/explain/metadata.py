"""What the columns beside films say of a finding, without a look at the film: the baseline that a model of films has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow
from jaxtyping import Float, Int
from scipy.special import expit

from deepcoro.bootstrap import (
    means_with_intervals,
    patient_rows,
    patients_counted,
    together,
    with_intervals,
)
from deepcoro.comparison import ZERO_SHOT
from deepcoro.data.collection import Collection
from deepcoro.judged import CLASSES, REGRESSION
from deepcoro.scored import Answer
from deepcoro.statistics.agreement import agreement_statistic
from deepcoro.statistics.calibration import calibration_statistic, without_intervals_of_errors
from deepcoro.statistics.confusion import Rule, choose_threshold
from deepcoro.statistics.findings import classes_statistic, finding_statistic

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
    """What an evaluation judges: films one by one, or studies, labelled by all their films, by those that it shows of them."""

    multi_video: bool = False
    num_videos: int = 1
    takes_worst: bool = False
    """Where films of a study have different numbers: the highest counts (`conflict: max`), else none."""
    rule: Rule = "youden"
    """How val chooses the threshold of decisions."""
    specificities: tuple[float, ...] = ()
    """Where sensitivity is read off the ROC curve."""
    num_bins: int = 10
    """Of the expected calibration error."""


@dataclass(frozen=True)
class Foretold:
    """What the columns say of each row of a split whose label is known."""

    label: str
    units: Int[np.ndarray, " row"]
    """Number of each row among the split's units."""
    answer: Answer
    """Log-odds of yes, or of each word (`classes`); or the number."""


@dataclass(frozen=True)
class Baseline:
    """What a label can be foretold by without a film."""

    numbers: dict[str, float]
    """Flat, under the label."""
    notes: list[str]
    """What could not be had."""
    foretold: Foretold | None = None
    """None where nothing could be foretold, or some of several words could not."""


@dataclass(frozen=True)
class _Rows:
    """Rows of a split whose label is known."""

    units: Int[np.ndarray, " row"]
    """Number of each among the split's units."""
    films: Int[np.ndarray, " film"]
    """Rows of films.parquet, row after row of the split."""
    starts: Int[np.ndarray, " row"]
    """Where each row's films begin."""
    values: Float[np.ndarray, " row"]
    patients: list[str | None]

    def numbered_patients(self) -> tuple[Int[np.ndarray, " row"], int]:
        """Number of each row's patient, and how many there are."""
        numbers = patient_rows(self.patients, len(self.values))
        return numbers, int(numbers.max()) + 1

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
) -> Baseline:
    """Of one label: what `finding_statistic` and `calibration_statistic` give of a logistic regression for yes/no and for two words (the
    later in the alphabet is the yes), with decisions at the threshold that its scores on val choose; for more words those of each against the
    rest (`LABEL=WORD/auroc`) and what `classes_statistic` gives of all (`LABEL/macro_auroc`); what `agreement_statistic` gives of a ridge
    regression for other numbers, where `mae_of_median` is that of the training median. `classes`: words that count, () = all.
    """
    table = shards.films.read(list(dict.fromkeys(("patient", *COLUMNS, label))))
    values, words = _numbers(table[label], classes)
    if words is not None and len(words) < 2:
        return Baseline({}, [f"metadata/{label}: it takes two words or more, or numbers; there are {words}"])
    train, val, held = (
        _rows(shards, each, judged, values, words is not None) for each in ("train", "val", split)
    )
    if not len(train.starts) or not len(held.starts):
        return Baseline({}, [f"metadata/{label}: no assessed row in training or in the split"])
    features = _features(table, [name for name in COLUMNS if name != label], train.films)
    rows = (train, val, held)
    described = [each.described(features) for each in rows]
    if words is not None and len(words) > 2:
        return _words(label, words, described, rows, judged, num_samples)
    is_yes_or_no = np.isin(train.values, (0.0, 1.0)).all()
    return (_yes_or_no if is_yes_or_no else _amount)(label, described, rows, judged, num_samples)


def _numbers(
    column: pyarrow.ChunkedArray, classes: Sequence[str]
) -> tuple[Float[np.ndarray, " film"], list[str] | None]:
    """NaN = not assessed. Words have their place in the alphabet, and are told; None for numbers."""
    if not pyarrow.types.is_string(column.type):
        return column.to_numpy().astype(float), None
    found = column.to_pylist()
    words = sorted({word for word in found if word is not None and (not classes or word in classes)})
    place = {word: float(number) for number, word in enumerate(words)}
    return np.array([place.get(word, np.nan) for word in found]), words


def _rows(shards: Collection, split: str, judged: Judged, values: np.ndarray, are_words: bool) -> _Rows:
    """Training rows beyond _MOST_ROWS are drawn; none of a split that the data have not."""
    units = shards.units(split, judged.multi_video, judged.num_videos) if split in shards.splits else ()
    chosen = np.arange(len(units))
    if split == "train" and len(chosen) > _MOST_ROWS:
        chosen = np.sort(np.random.default_rng(_SEED).choice(chosen, _MOST_ROWS, replace=False))
    rows = []
    for unit in chosen.tolist():
        first = units.studies.first_clip[units.study_row[unit]]
        films = first + np.array(units.shown_clips(unit, None))
        labelled = first + units.clips(unit) if judged.multi_video else films
        known = values[labelled][~np.isnan(values[labelled])]
        if len(known) and (known.min() == known.max() or judged.takes_worst and not are_words):
            rows.append((unit, films, known.max(), units.patient(unit)))
    counts = np.array([len(films) for _, films, _, _ in rows], dtype=int)
    return _Rows(
        units=np.array([unit for unit, _, _, _ in rows], dtype=int),
        films=np.concatenate([films for _, films, _, _ in rows]) if rows else np.zeros(0, int),
        starts=counts.cumsum() - counts,
        values=np.array([value for _, _, value, _ in rows]),
        patients=[patient for _, _, _, patient in rows],
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
    label: str, described: Sequence[np.ndarray], rows: Sequence[_Rows], judged: Judged, num_samples: int
) -> Baseline:
    """`described`, `rows`: of train, val and the split."""
    from sklearn.linear_model import LogisticRegression

    train, val, held = rows
    positive = held.values == 1
    if len(np.unique(train.values)) < 2 or len(np.unique(positive)) < 2:
        return Baseline({}, [f"metadata/{label}: one class only in training or in the split"])
    model = LogisticRegression(max_iter=2000).fit(described[0], train.values)
    scores = model.decision_function(described[2])
    on_val = model.decision_function(described[1]) if len(val.values) else np.zeros(0)
    threshold = choose_threshold(on_val, val.values == 1, judged.rule)
    called = None if threshold is None else scores >= threshold
    patients, num_patients = held.numbered_patients()
    statistic = together(
        finding_statistic(scores, called, positive, patients, num_patients, judged.specificities),
        calibration_statistic(expit(scores), positive, patients, num_patients, judged.num_bins),
    )
    numbers = with_intervals(statistic, num_patients, num_samples, _SEED)
    numbers = without_intervals_of_errors(numbers)
    numbers |= {"num": float(len(positive)), "num_positive": float(positive.sum())}
    numbers |= patients_counted(patients, positive)
    answer = Answer(ZERO_SHOT, scores[:, None], held.values)
    return Baseline(
        {f"{label}/{key}": value for key, value in numbers.items()},
        [],
        Foretold(label, held.units, answer),
    )


def _words(
    label: str,
    words: Sequence[str],
    described: Sequence[np.ndarray],
    rows: Sequence[_Rows],
    judged: Judged,
    num_samples: int,
) -> Baseline:
    """Each word against the rest."""
    found = []
    for number, word in enumerate(words):
        of_word = [replace(each, values=(each.values == number).astype(float)) for each in rows]
        found.append(_yes_or_no(f"{label}={word}", described, of_word, judged, num_samples))
    numbers = {key: value for each in found for key, value in each.numbers.items()}
    notes = [note for each in found for note in each.notes]
    foretold = [each.foretold for each in found if each.foretold is not None]
    if len(foretold) < len(words):
        return Baseline(numbers, notes)
    held = rows[2]
    said = np.hstack([each.answer.said for each in foretold])
    patients, num_patients = held.numbered_patients()
    statistic = classes_statistic(said, held.values.astype(np.int64), words, patients, num_patients, False)
    of_all = with_intervals(statistic, num_patients, num_samples, _SEED)
    numbers |= {f"{label}/{key}": value for key, value in of_all.items() if "/" not in key}
    answer = Answer(CLASSES[0], said, held.values, words)
    return Baseline(numbers, notes, Foretold(label, held.units, answer))


def _amount(
    label: str, described: Sequence[np.ndarray], rows: Sequence[_Rows], judged: Judged, num_samples: int
) -> Baseline:
    from sklearn.linear_model import Ridge

    train, _, held = rows
    predicted = Ridge(alpha=1.0).fit(described[0], train.values).predict(described[2])
    patients, num_patients = held.numbered_patients()
    statistic = agreement_statistic(predicted, held.values, patients, num_patients)
    of_median = {"mae_of_median": np.abs(np.median(train.values) - held.values)}
    numbers = {"num": float(len(held.values))} | with_intervals(statistic, num_patients, num_samples, _SEED)
    numbers |= means_with_intervals(of_median, patients, num_samples, _SEED)
    numbers = {f"{label}/{key}": value for key, value in numbers.items()}
    answer = Answer(REGRESSION, predicted[:, None], held.values)
    return Baseline(numbers, [], Foretold(label, held.units, answer))
