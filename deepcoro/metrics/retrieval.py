"""Retrieval between films and reports, scored so that chance, ties and shared reports are exact.

A query is a distinct text (text to video) or a film (video to text); a hit is any positive among the first k. Similarities
closer than 1e-6 are a tie, and a tie takes its expected value over all orders, so an embedding that tells nothing scores
chance exactly. A film without a report is unknown, not negative: it is neither query nor candidate, and it is counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import HIGH, LOW, mean_intervals, patient_rows
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement, Searched
from deepcoro.kernels.tied_ranks import Places, chance_places, film_places, permuted_hits, text_places

_CONTROL_QUERIES = 2000
"""The control searches at most this many texts (drawn by seed); it needs a sorted row for each."""

_CONTROL_PERMUTATIONS = 200


class Config(Block):
    """Which film belongs to which report: R@k, MRR and median rank, both ways, beside chance and a shuffled control."""

    type: Literal["retrieval"] = "retrieval"
    recall_at: tuple[pydantic.PositiveInt, ...] = pydantic.Field((1, 5, 10), min_length=1)
    """The k of R@k: a search counts as found when a matching item is among the first k."""
    strata: list[str] = []
    """Labels (`side`, `dominance`, `cto`) whose common value bounds a second, harder search: only films that agree with the
    query on all of them compete, so that telling left from right earns nothing. Empty = no such search."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of resamples and of the shuffled control."""

    def build(self) -> "Retrieval":
        return Retrieval(self)


def stratum_keys(labels: Mapping[str, Sequence | np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    """One key per film out of its labels; None where a label is not assessed. None for all when no label is named.

    Raises ValueError for a label that no film has.
    """
    if not names:
        return None
    missing = [name for name in names if name not in labels]
    if missing:
        raise ValueError(f"strata {missing} are not among the labels {sorted(labels)}")
    rows = list(zip(*(labels[name] for name in names), strict=True))
    keys = [None if any(_is_missing(value) for value in row) else "|".join(map(str, row)) for row in rows]
    return np.array(keys, dtype=object)


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True)
class _Gallery:
    """Films and texts that search each other: all of them, or those of one stratum. Every film has a text."""

    films: Float[np.ndarray, "film dim"]
    texts: Float[np.ndarray, "text dim"]
    text_of_film: Int[np.ndarray, "film"]
    patient_of_film: Int[np.ndarray, "film"]
    row_of_film: Int[np.ndarray, "film"]
    """Of the split."""

    def only(self, chosen: np.ndarray, keep_idle_texts: bool = False) -> "_Gallery":
        """The chosen films; their texts too, unless texts without a film are kept as candidates."""
        texts, text_of_film = self.texts, self.text_of_film[chosen]
        if not keep_idle_texts:
            kept, renumbered = np.unique(text_of_film, return_inverse=True)
            texts, text_of_film = texts[kept], renumbered.reshape(-1)
        return _Gallery(
            self.films[chosen], texts, text_of_film, self.patient_of_film[chosen], self.row_of_film[chosen]
        )


class Retrieval(Measurement):
    """Numbers in, numbers out: embeddings and who belongs to whom -> flat metrics under `retrieval/`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._kept: tuple[Evaluated, _Found] | None = None
        """The first split that was searched: its searches are asked for again, to be written beside the answers of heads."""

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Flat metrics of an evaluated split, and a sentence for what could not be measured. Nothing without a shared space."""
        if not evaluated.shares_space:
            return {}, []
        missing = [name for name in self.config.strata if name not in evaluated.labels]
        notes = [f"retrieval/within_stratum: the data have no label {missing}"] if missing else []
        return self._numbers(self._found(evaluated)), notes

    def _found(self, evaluated: Evaluated) -> "_Found":
        if self._kept is not None and self._kept[0] is evaluated:
            return self._kept[1]
        found = _search_all(
            evaluated.films,
            evaluated.text_embeddings,
            evaluated.text_of_film,
            evaluated.patients,
            self._strata_of(evaluated),
        )
        self._kept = self._kept or (evaluated, found)
        return found

    def _strata_of(self, evaluated: Evaluated) -> np.ndarray | None:
        """None where the data lack a label, too."""
        names = self.config.strata
        return (
            stratum_keys(evaluated.labels, names) if all(name in evaluated.labels for name in names) else None
        )

    def searched(self, evaluated: Evaluated) -> dict[str, Searched]:
        """R@k and MRR of every search; nothing without a shared space or without a film that has a text."""
        if not evaluated.shares_space or not (evaluated.text_of_film >= 0).any():
            return {}
        return {
            f"retrieval/{name}": self._by_row(searches, len(evaluated.films))
            for name, searches in self._found(evaluated).searches.items()
        }

    def _by_row(self, searches: list["_Search"], num_rows: int) -> Searched:
        names = [*(f"R@{k}" for k in self.config.recall_at), "MRR"]
        query, got = np.full(num_rows, -1), np.full((num_rows, len(names)), np.nan)
        start = 0
        for search in searches:
            query[search.row_of_film] = start + search.query_of_film
            got[search.row_of_film] = self._columns(search.places)[search.query_of_film, :-1]
            start += search.num_queries
        return Searched(names, query, got)

    def compute(
        self,
        films: Float[np.ndarray, "film dim"],
        texts: Float[np.ndarray, "text dim"],
        text_of_film: Int[np.ndarray, "film"],
        patients: Sequence[str | None] | np.ndarray | None = None,
        strata: Sequence[str | None] | np.ndarray | None = None,
    ) -> dict[str, float]:
        """Metrics of L2-normalised embeddings; `texts` are distinct, `text_of_film` is −1 for a film without one.

        Without a single film that has a text only the counts come back. Intervals resample patients (deepcoro.bootstrap)
        with the films and texts searched left as they are: copies of a film in the search would only make ties.
        """
        return self._numbers(_search_all(films, texts, text_of_film, patients, strata))

    def _numbers(self, found: "_Found") -> dict[str, float]:
        known, everything, paired = found.known, found.everything, found.paired
        metrics = {
            "retrieval/num_films": float(known.sum()),
            "retrieval/num_films_without_report": float((~known).sum()),
            "retrieval/num_distinct_reports": float(len(everything.texts)),
            "retrieval/num_patients": float(len(np.unique(paired.patient_of_film))),
            "retrieval/text_to_video/num_queries": float(len(paired.texts)),
            "retrieval/text_to_video/num_queries_excluded": float(len(everything.texts) - len(paired.texts)),
            "retrieval/video_to_text/num_queries": float(known.sum()),
            "retrieval/video_to_text/num_queries_excluded": float((~known).sum()),
        }
        if not known.any():
            return metrics
        for name, searches in found.searches.items():
            metrics |= self._scores(name, searches)
        metrics |= self._control("text_to_video", [paired])
        if found.of_strata:
            metrics |= self._control("text_to_video/within_stratum", found.of_strata)
        if found.of_strata is not None:
            num_films = sum(len(each.films) for each in found.of_strata)
            metrics["retrieval/num_strata"] = float(len(found.of_strata))
            metrics["retrieval/num_films_without_stratum"] = float(known.sum()) - num_films
        return metrics

    def _scores(self, name: str, searches: list["_Search"]) -> dict[str, float]:
        """Recall, MRR and median rank over the queries of all searches together, with chance and intervals."""
        prefix = f"retrieval/{name}"
        got = np.concatenate([self._columns(search.places) for search in searches])
        chance = np.concatenate([self._columns(search.chance) for search in searches])
        metrics = {
            f"{prefix}/num_queries": float(len(got)),
            f"{prefix}/median_rank": float(np.median(got[:, -1])),
            f"{prefix}/median_rank_chance": float(np.median(chance[:, -1])),
        }
        bounds = self._intervals(got[:, :-1], searches) if self.config.bootstrap_samples else None
        for column, each in enumerate([*(f"R@{k}" for k in self.config.recall_at), "MRR"]):
            metrics[f"{prefix}/{each}"] = float(got[:, column].mean())
            metrics[f"{prefix}/{each}_chance"] = float(chance[:, column].mean())
            if bounds is not None:
                metrics[f"{prefix}/{each}_ci_low"], metrics[f"{prefix}/{each}_ci_high"] = map(
                    float, bounds[column]
                )
        return metrics

    def _columns(self, places: Places) -> Float[np.ndarray, "query metric"]:
        recalls = [places.hit_probability(k) for k in self.config.recall_at]
        return np.stack([*recalls, places.expected_reciprocal_rank(), places.expected_rank()], axis=1)

    def _intervals(self, values: np.ndarray, searches: list["_Search"]) -> np.ndarray:
        offsets = np.cumsum([0, *(search.num_queries for search in searches)])
        queries = [search.query_of_film + start for search, start in zip(searches, offsets, strict=False)]
        patients = np.concatenate([search.patient_of_film for search in searches])
        _, patients = np.unique(patients, return_inverse=True)
        return mean_intervals(
            values,
            np.concatenate(queries),
            patients.reshape(-1),
            self.config.bootstrap_samples,
            self.config.seed,
        )

    def _control(self, name: str, galleries: list[_Gallery]) -> dict[str, float]:
        """The same search with reports dealt out to films at random: mean and 2.5-97.5 % range over the permutations.

        Its expectation is chance whatever the embedding, so a range that misses chance means a fault in the metric.
        """
        generator = np.random.default_rng([self.config.seed, 1])
        share = min(1.0, _CONTROL_QUERIES / sum(len(each.texts) for each in galleries))
        hits, chances = [], []
        for gallery in galleries:
            orders = np.stack(
                [generator.permutation(len(gallery.films)) for _ in range(_CONTROL_PERMUTATIONS)]
            )
            num_chosen = max(1, round(share * len(gallery.texts)))
            chosen = np.sort(generator.permutation(len(gallery.texts))[:num_chosen])
            hits.append(_control_hits(gallery, chosen, self.config.recall_at, orders))
            counts = np.bincount(gallery.text_of_film)[chosen]
            places = chance_places(counts, len(gallery.films))
            chances.append(np.stack([places.hit_probability(k) for k in self.config.recall_at]))
        means = np.concatenate(hits, axis=2).mean(axis=2)
        chance = np.concatenate(chances, axis=1).mean(axis=1)
        low, high = np.percentile(means, [LOW, HIGH], axis=0)
        metrics = {}
        for row, k in enumerate(self.config.recall_at):
            key = f"retrieval/control/{name}/R@{k}"
            metrics |= {key: float(means[:, row].mean()), f"{key}_chance": float(chance[row])}
            metrics |= {f"{key}_ci_low": float(low[row]), f"{key}_ci_high": float(high[row])}
        return metrics


def _control_hits(
    gallery: _Gallery, chosen: np.ndarray, recall_at: Sequence[int], orders: np.ndarray
) -> np.ndarray:
    """Permuted hits of the chosen texts; the films of the others still take part as candidates."""
    number = np.full(len(gallery.texts), len(chosen))
    number[chosen] = np.arange(len(chosen))
    return permuted_hits(
        gallery.films, gallery.texts[chosen], number[gallery.text_of_film], recall_at, orders
    )


@dataclass(frozen=True)
class _Search:
    """Queries of one gallery, and which films stand behind each of them."""

    places: Places
    chance: Places
    query_of_film: Int[np.ndarray, "film"]
    patient_of_film: Int[np.ndarray, "film"]
    row_of_film: Int[np.ndarray, "film"]

    @property
    def num_queries(self) -> int:
        return len(self.places.above)


def _text_queries(gallery: _Gallery) -> _Search:
    counts = np.bincount(gallery.text_of_film, minlength=len(gallery.texts))
    return _Search(
        text_places(gallery.films, gallery.texts, gallery.text_of_film),
        chance_places(counts, len(gallery.films)),
        gallery.text_of_film,
        gallery.patient_of_film,
        gallery.row_of_film,
    )


def _film_queries(gallery: _Gallery) -> _Search:
    ones = np.ones(len(gallery.films), np.int64)
    return _Search(
        film_places(gallery.films, gallery.texts, gallery.text_of_film),
        chance_places(ones, len(gallery.texts)),
        np.arange(len(gallery.films)),
        gallery.patient_of_film,
        gallery.row_of_film,
    )


@dataclass(frozen=True)
class _Found:
    """All searches of a split."""

    everything: _Gallery
    """Films without a text among them."""
    paired: _Gallery
    """Films with a text, and their texts."""
    of_strata: list[_Gallery] | None
    """None where no strata are asked for."""
    searches: dict[str, list[_Search]]
    """By their name; empty where no film has a text."""

    @property
    def known(self) -> Bool[np.ndarray, "film"]:
        """Which films have a text."""
        return self.everything.text_of_film >= 0


def _search_all(
    films: np.ndarray,
    texts: np.ndarray,
    text_of_film: np.ndarray,
    patients: Sequence | np.ndarray | None,
    strata: Sequence | np.ndarray | None,
) -> _Found:
    everything = _Gallery(
        films, texts, text_of_film, patient_rows(patients, len(films)), row_of_film=np.arange(len(films))
    )
    known = text_of_film >= 0
    paired = everything.only(known)
    of_strata = None if strata is None else _strata_galleries(everything, strata)
    searches = _searches(everything, paired, of_strata or []) if known.any() else {}
    return _Found(everything, paired, of_strata, searches)


def _strata_galleries(everything: _Gallery, strata: Sequence | np.ndarray) -> list[_Gallery]:
    """Films with a text, by the key of their stratum."""
    known = everything.text_of_film >= 0
    keys = np.array([None if _is_missing(key) else str(key) for key in strata], dtype=object)
    names = sorted({key for key in keys[known] if key is not None})
    return [everything.only(known & (keys == name)) for name in names]


def _searches(
    everything: _Gallery, paired: _Gallery, of_strata: Sequence[_Gallery]
) -> dict[str, list[_Search]]:
    """By their name; some film has a text."""
    known = everything.text_of_film >= 0
    found = {
        "text_to_video": [_text_queries(paired)],
        "video_to_text": [_film_queries(everything.only(known, keep_idle_texts=True))],
    }
    if of_strata:
        found["text_to_video/within_stratum"] = [_text_queries(each) for each in of_strata]
        found["video_to_text/within_stratum"] = [_film_queries(each) for each in of_strata]
    return found
