"""How near generated reports come to the words of the reports: BLEU, ROUGE-L, METEOR (exact and stem), CIDEr-D.

Words are lower-case runs of letters or digits, and the per cent sign; other signs and white space do not count, since tokenizers change
them. Each film has one reference, its report. Nearness in words is not truth: metrics.clinical_findings judges what is said.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
import pydantic
from jaxtyping import Float

from deepcoro.answers import Answers, answers_of, control_captions, measured, share
from deepcoro.bootstrap import patients_counted
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement

_ORDERS = (1, 2, 3, 4)
_CIDER_SIGMA = 6.0
_COLUMNS = (
    *(f"clipped_{order}" for order in _ORDERS),
    *(f"total_{order}" for order in _ORDERS),
    *("caption_words", "report_words", "rouge_l", "meteor", "cider_d", "films"),
)
_COLUMN = {name: place for place, name in enumerate(_COLUMNS)}


class Config(Block):
    """Words of generated reports against the reports': nothing without a captioning objective."""

    type: Literal["captioning"] = "captioning"
    max_films: pydantic.PositiveInt = 1000
    """Films scored at most, drawn by seed: the alignment of words is slow, and more films say little more."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the films drawn, of resamples and of the shuffled control."""

    def build(self) -> "Captioning":
        return Captioning(self)


class Captioning(Measurement):
    """Reports and captions in, flat metrics under `captioning/` out."""

    reads_training_reports = "beside_captions"

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Flat metrics with intervals and controls. Nothing, and no note, where the run writes no captions."""
        if not evaluated.captions:
            return {}, []
        answers = self._drawn(answers_of(evaluated))
        if not len(answers.films):
            return {"captioning/num_films": 0.0}, ["captioning: no film has a report"]
        rarity = Rarity(answers.references)
        controls = control_captions(evaluated, answers, 1, self.config.seed)
        own = _rows(answers.references, answers.captions, rarity)
        numbers = measured(
            own,
            {
                name: [_rows(answers.references, texts, rarity) for texts in each]
                for name, each in controls.items()
            },
            _measures,
            answers.patients,
            self.config.bootstrap_samples,
            self.config.seed,
        )
        numbers |= {
            "num_films": float(len(own)),
            **patients_counted(answers.patients),
            "num_distinct_captions": float(len(set(answers.captions))),
            "num_empty_captions": float(sum(not words(text) for text in answers.captions)),
        }
        return {f"captioning/{key}": value for key, value in numbers.items()}, []

    def _drawn(self, answers: Answers) -> Answers:
        order = np.random.default_rng([self.config.seed, 3]).permutation(len(answers.films))
        return answers.only(np.sort(order[: self.config.max_films]))


def words(text: str) -> list[str]:
    """`Mid-LAD: 80.0 %` -> mid lad 80 0 %."""
    return re.findall(r"[^\W\d_]+|\d+|%", text.lower())


def _ngrams(sequence: Sequence[str], order: int) -> Counter:
    return Counter(zip(*(sequence[start:] for start in range(order)), strict=False))


class Rarity:
    """How much an n-gram tells: log of films over films whose report has it, as CIDEr weighs it."""

    def __init__(self, references: Sequence[str]) -> None:
        self._log_films = math.log(max(len(references), 1))
        self._log_films_with: dict[tuple, float] = {}
        counted: Counter = Counter()
        for text, times in Counter(references).items():
            said = words(text)
            for order in _ORDERS:
                counted.update(dict.fromkeys(_ngrams(said, order), times))
        self._log_films_with = {ngram: math.log(count) for ngram, count in counted.items()}
        self._vectors: dict[tuple[str, int], dict[tuple, float]] = {}

    def vector(self, text: str, order: int) -> dict[tuple, float]:
        """N-gram -> times said x rarity; one that no report has counts as if one had it."""
        key = (text, order)
        if key not in self._vectors:
            self._vectors[key] = {
                ngram: times * (self._log_films - self._log_films_with.get(ngram, 0.0))
                for ngram, times in _ngrams(words(text), order).items()
            }
        return self._vectors[key]


def cider_d(reference: str, caption: str, rarity: Rarity) -> float:
    """Clipped cosine of the weighed n-grams, less for another length, mean over orders, times 10 (Vedantam et al. 2015,
    arXiv:1411.5726, the D variant with sigma 6; no stemming, as in its public code)."""
    difference = len(words(caption)) - len(words(reference))
    penalty = math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
    total = 0.0
    for order in _ORDERS:
        there, said = rarity.vector(reference, order), rarity.vector(caption, order)
        product = sum(
            min(weight, there[ngram]) * there[ngram] for ngram, weight in said.items() if ngram in there
        )
        length = math.hypot(*there.values()) * math.hypot(*said.values())
        total += product / length if length else 0.0
    return 10 * penalty * total / len(_ORDERS)


def _rows(
    references: Sequence[str], captions: Sequence[str], rarity: Rarity
) -> Float[np.ndarray, "film count"]:
    known: dict[tuple[str, str], np.ndarray] = {}
    for pair in zip(references, captions, strict=True):
        if pair not in known:
            known[pair] = _pair_counts(*pair).copy()
            known[pair][_COLUMN["cider_d"]] = cider_d(*pair, rarity)
    return np.stack([known[pair] for pair in zip(references, captions, strict=True)])


@lru_cache(maxsize=65536)
def _pair_counts(reference: str, caption: str) -> np.ndarray:
    """All columns but cider_d, which depends on the other reports."""
    there, said = words(reference), words(caption)
    clipped = [(_ngrams(said, order) & _ngrams(there, order)).total() for order in _ORDERS]
    totals = [max(len(said) - order + 1, 0) for order in _ORDERS]
    return np.array(
        [*clipped, *totals, len(said), len(there), _rouge_l(there, said), _meteor(there, said), 0.0, 1.0]
    )


class _Words:
    """rouge_score asks for a tokenizer of its kind; these words are cut already."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def _rouge_l(reference: list[str], caption: list[str]) -> float:
    """F1 of the longest common subsequence (Lin 2004), by rouge_score."""
    return float(_rouge_scorer().score(" ".join(reference), " ".join(caption))["rougeL"].fmeasure)


class _NoSynonyms:
    """WordNet is a download of its own and knows few coronary words: the synonym stage of METEOR finds nothing here."""

    def synsets(self, word: str) -> list[Any]:
        return []


class _Stemmer:
    """Porter's, each word once: most of the time of METEOR went into stemming the same few hundred words."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem = lru_cache(maxsize=65536)(PorterStemmer().stem)


@cache
def _stemmer() -> _Stemmer:
    return _Stemmer()


def _meteor(reference: list[str], caption: list[str]) -> float:
    """METEOR (Lavie and Agarwal 2007) with exact and stem matches, by nltk."""
    from nltk.translate.meteor_score import single_meteor_score

    return single_meteor_score(reference, caption, stemmer=_stemmer(), wordnet=_NoSynonyms())


def _measures(sums: Float[np.ndarray, "sample count"]) -> dict[str, Float[np.ndarray, "sample"]]:
    """BLEU of the whole corpus (Papineni et al. 2002, without smoothing) and means over films of the others."""

    def column(name: str) -> np.ndarray:
        return sums[:, _COLUMN[name]]

    length = share(column("report_words"), column("caption_words"))
    # no word at all is the longest of penalties
    brevity = np.where(column("caption_words") > 0, np.exp(np.minimum(0.0, 1 - np.nan_to_num(length))), 0.0)
    logs, values = np.zeros(len(sums)), {}
    for order in _ORDERS:
        precision = np.nan_to_num(share(column(f"clipped_{order}"), column(f"total_{order}")))
        with np.errstate(divide="ignore"):
            logs = logs + np.log(precision)
        values[f"bleu_{order}"] = brevity * np.exp(logs / order)
    for name, key in (("rouge_l", "rouge_l"), ("meteor", "meteor_exact_stem"), ("cider_d", "cider_d")):
        values[key] = share(column(name), column("films"))
    return values
