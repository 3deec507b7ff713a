"""What a model may tell of patients: whether it writes training reports word for word, and whether its embeddings bring films of one
patient together. Each beside what the data alone give: reports repeat each other, and some neighbour is always the nearest.
"""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Bool, Float, Int

from deepcoro.answers import answers_of
from deepcoro.bootstrap import means_with_intervals, patient_rows, patients_counted, renumbered
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.kernels.tied_ranks import TIE

_ROWS_AT_ONCE = 1024


class Config(Block):
    """Verbatim copies among generated reports, and films of one patient found by their embeddings, with patient intervals."""

    type: Literal["privacy"] = "privacy"
    """Which metric this is."""
    max_films: pydantic.PositiveInt = 5000
    """Films looked at, of whole patients drawn by seed: the search for neighbours takes their number squared."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the patients drawn and of the resamples."""

    def build(self) -> "Privacy":
        return Privacy(self)


class Privacy(Measurement):
    """Flat numbers under `privacy/`; `copied/` only where the run writes captions and its data have training reports."""

    reads_training_reports = "beside_captions"

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """`copied/verbatim`, `copied/longest_run`, each with `_reports`; `linked/same_study`, `linked/other_study`, each with `_chance`."""
        evaluated = evaluated.only(self._drawn(evaluated))
        numbers: dict[str, float] = {}
        if evaluated.captions and evaluated.training is not None and evaluated.training.texts:
            numbers |= {f"copied/{key}": value for key, value in self._copied(evaluated).items()}
        for name, value in self._linked(evaluated).items():
            numbers[f"linked/{name}"] = value
        return {f"privacy/{key}": value for key, value in numbers.items()}, []

    def _drawn(self, evaluated: Evaluated) -> Bool[np.ndarray, " film"]:
        patients = patient_rows(evaluated.patients, len(evaluated.clips))
        sizes = np.bincount(patients)
        order = np.random.default_rng(self.config.seed).permutation(len(sizes))
        kept = order[np.cumsum(sizes[order]) <= self.config.max_films]
        return np.isin(patients, kept)

    def _copied(self, evaluated: Evaluated) -> dict[str, float]:
        """Over the films with a report: of their captions, and (`_reports`) of their own reports, as if the model had said the truth."""
        answers = answers_of(evaluated)
        if not len(answers.films):
            return {}
        columns = {}
        for suffix, texts in (("", answers.captions), ("_reports", answers.references)):
            verbatim, runs = copies(texts, evaluated.training.texts)
            columns |= {f"verbatim{suffix}": verbatim, f"longest_run{suffix}": runs}
        numbers = self._means(columns, answers.patients)
        counts = {
            "num": len(answers.films),
            **patients_counted(answers.patients),
            "num_training_reports": len(evaluated.training.texts),
        }
        return numbers | {key: float(value) for key, value in counts.items()}

    def _linked(self, evaluated: Evaluated) -> dict[str, float]:
        """Over films that have somebody to be found: `same_study` another film of the study among all others, `other_study` a film of
        another study of the patient among those of all other studies. Films without a patient id take no part in the second.
        """
        studies = np.unique(np.asarray(evaluated.studies, str), return_inverse=True)[1].reshape(-1)
        patients = patient_rows(evaluated.patients, len(evaluated.clips))
        itself = np.arange(len(studies))
        numbers: dict[str, float] = {}
        for name, alike, hidden in (("same_study", studies, itself), ("other_study", patients, studies)):
            hit, chance = nearest_alike(evaluated.films, alike, hidden)
            asked = np.flatnonzero(~np.isnan(chance))
            numbers[f"{name}/num"] = float(len(asked))
            if len(asked):
                found = self._means({name: hit[asked]}, renumbered(patients[asked]))
                found[f"{name}_chance"] = float(chance[asked].mean())
                numbers |= {
                    f"{name}/{key}": value for key, value in patients_counted(patients[asked]).items()
                }
                numbers |= {f"{name}/{key.replace(name, 'rate')}": value for key, value in found.items()}
        return numbers

    def _means(self, columns: dict[str, np.ndarray], patients: np.ndarray) -> dict[str, float]:
        return means_with_intervals(columns, patients, self.config.bootstrap_samples, self.config.seed)


def nearest_alike(
    films: Float[np.ndarray, "film dim"],
    alike: Int[np.ndarray, " film"],
    hidden: Int[np.ndarray, " film"],
) -> tuple[Float[np.ndarray, " film"], Float[np.ndarray, " film"]]:
    """Whether the nearest film (by cosine) is of the same number in `alike`, and how often a film drawn at random would be.

    Films of the same number in `hidden` are no candidates. Ties count by their share, so equal embeddings of all films score chance.
    NaN for a film without a film of its kind among the candidates.
    """
    rows = films / np.maximum(np.linalg.norm(films, axis=1, keepdims=True), 1e-12)
    hits, chances = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        shown = hidden[part, None] != hidden[None]
        kin = shown & (alike[part, None] == alike[None])
        similar = np.where(shown, rows[part] @ rows.T, -np.inf)
        ties = shown & (similar >= similar.max(axis=1, keepdims=True, initial=-np.inf) - TIE)
        asked = kin.any(axis=1)
        places = start + np.flatnonzero(asked)
        hits[places] = ((ties & kin).sum(axis=1) / np.maximum(ties.sum(axis=1), 1))[asked]
        chances[places] = (kin.sum(axis=1) / np.maximum(shown.sum(axis=1), 1))[asked]
    return hits, chances


def copies(
    texts: Sequence[str], known: Sequence[str]
) -> tuple[Float[np.ndarray, " text"], Float[np.ndarray, " text"]]:
    """Of each text: 1 where its words are those of a known text, else 0; and the longest run of its words that stands in one known text,
    as a share of its words (1 for a copy of a part too). A text without words copies nothing.

    Words are lower-case runs of letters or digits, and the per cent sign: signs and white space do not make two reports differ.
    """
    distinct = list(dict.fromkeys(texts))
    said = {text: _words(text) for text in distinct}
    corpus = [_words(text) for text in known]
    whole = {tuple(each) for each in corpus}
    runs = dict(zip(distinct, _longest_runs([said[text] for text in distinct], corpus), strict=True))
    verbatim = [float(bool(said[text]) and tuple(said[text]) in whole) for text in texts]
    return np.array(verbatim), np.array([runs[text] / max(len(said[text]), 1) for text in texts])


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+|%", text.lower())


def _longest_runs(texts: Sequence[list[str]], corpus: Sequence[list[str]]) -> list[int]:
    """Length, in words, of the longest run of each text within one text of the corpus.

    Runs of n words that both sides have are found among those of n - 1, by a 64-bit rolling hash: a run of n that is in both has both
    of its parts of n - 1 in both. Two different runs share a hash once in 2^64 / pairs.
    """
    generator = np.random.default_rng(0)
    number: dict[str, int] = {}
    ours, owner = _laid_end_to_end(texts, number)
    theirs, _ = _laid_end_to_end(corpus, number)
    codes = generator.integers(1, 2**63, len(number) + 1, np.uint64)
    factor = np.uint64(generator.integers(1, 2**62) * 2 + 1)
    longest = np.zeros(len(texts), np.int64)
    our_place, their_place = np.arange(len(ours)), np.arange(len(theirs))
    our_hash, their_hash = np.zeros(len(ours), np.uint64), np.zeros(len(theirs), np.uint64)
    length = 0
    while len(our_place):
        our_place, our_hash = _one_longer(our_place, our_hash, length, ours, codes, factor)
        their_place, their_hash = _one_longer(their_place, their_hash, length, theirs, codes, factor)
        length += 1
        both = np.isin(our_hash, their_hash)
        our_place, our_hash = our_place[both], our_hash[both]
        kept = np.isin(their_hash, our_hash)
        their_place, their_hash = their_place[kept], their_hash[kept]
        longest[np.unique(owner[our_place])] = length
    return longest.tolist()


def _laid_end_to_end(
    texts: Sequence[list[str]], number: dict[str, int]
) -> tuple[Int[np.ndarray, " place"], Int[np.ndarray, " place"]]:
    """Number of each word, -1 behind every text, and the text that a place belongs to; new words are entered into `number`."""
    words = [number.setdefault(word, len(number)) if word else -1 for text in texts for word in [*text, ""]]
    owner = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])
    return np.array(words, np.int64), owner


def _one_longer(
    places: Int[np.ndarray, " run"],
    hashes: np.ndarray,
    length: int,
    words: Int[np.ndarray, " place"],
    codes: np.ndarray,
    factor: np.uint64,
) -> tuple[Int[np.ndarray, " longer"], np.ndarray]:
    """The runs that another word of the same text follows, with it."""
    inside = places + length < len(words)
    places, hashes = places[inside], hashes[inside]
    following = words[places + length]
    goes_on = following >= 0
    return places[goes_on], hashes[goes_on] * factor + codes[following[goes_on]]
