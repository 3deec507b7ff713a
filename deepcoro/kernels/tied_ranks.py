"""Where the positives of a query stand among tied candidates: the arithmetic under every retrieval number.

Ties take their expected value over all orders, so an embedding that tells nothing scores chance exactly. The slow oracle
(every order of every tie, one by one) is in tests/kernels/test_tied_ranks.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln

TIE = 1e-6
"""Similarities that round to the same multiple of this are equal; the noise of float32 features is a tenth of it."""

_ELEMENTS_AT_ONCE = 8_000_000
"""Similarities held at one time (64 MB)."""


@dataclass(frozen=True)
class Places:
    """Where the best positive of each query stands: what every retrieval number follows from."""

    above: Int[np.ndarray, "query"]
    """Candidates that score strictly higher."""
    tied: Int[np.ndarray, "query"]
    """Candidates that score the same, itself included."""
    tied_positives: Int[np.ndarray, "query"]
    """Positives among `tied`."""

    def hit_probability(self, k: int) -> Float[np.ndarray, "query"]:
        """Probability over tie orders that a positive is among the first k."""
        left = np.clip(k - self.above, 0, self.tied)
        miss = np.exp(
            _log_choose(self.tied - self.tied_positives, left) - _log_choose(self.tied, left),
        )
        return 1.0 - miss

    def expected_rank(self) -> Float[np.ndarray, "query"]:
        """Mean rank of the first positive over tie orders; ranks start at 1."""
        return self.above + (self.tied + 1) / (self.tied_positives + 1)

    def expected_reciprocal_rank(self) -> Float[np.ndarray, "query"]:
        """Mean of 1 / rank of the first positive over tie orders."""
        cases, case_of_query = np.unique(
            np.stack([self.above, self.tied, self.tied_positives], axis=1), axis=0, return_inverse=True
        )
        return np.array([_reciprocal_rank(*case) for case in cases.tolist()])[case_of_query.reshape(-1)]


def _log_choose(total: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Log of the binomial coefficient; minus infinity where more is taken than there is."""
    possible = taken <= total
    rest = np.where(possible, total - taken, 0)
    return np.where(possible, gammaln(total + 1.0) - gammaln(taken + 1.0) - gammaln(rest + 1.0), -np.inf)


def _reciprocal_rank(above: int, tied: int, positives: int) -> float:
    if tied == positives:
        return 1.0 / (above + 1)
    place = np.arange(1, tied - positives + 2)
    first = _log_choose(tied - place, np.full(len(place), positives - 1)) - _log_choose(
        np.array([tied]), np.array([positives])
    )
    return float((np.exp(first) / (above + place)).sum())


def chance_places(num_positives: Int[np.ndarray, "query"], num_candidates: int) -> Places:
    """All candidates tied: what an embedding that tells nothing achieves. R@k is then 1 − C(N−m, k) / C(N, k)."""
    return Places(np.zeros_like(num_positives), np.full_like(num_positives, num_candidates), num_positives)


def require_finite(embeddings: Float[np.ndarray, "row dim"]) -> None:
    """Raises ValueError when a model that diverged is about to be measured."""
    num_bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
    if num_bad:
        raise ValueError(
            f"{num_bad} of {len(embeddings)} embeddings hold NaN or infinity: the model has diverged"
        )


def similarity_blocks(
    queries: Float[np.ndarray, "query dim"], candidates: Float[np.ndarray, "candidate dim"]
) -> Iterator[tuple[slice, Float[np.ndarray, "block candidate"]]]:
    """Similarities in units of `TIE`, rounded, a block of queries at a time.

    Float64, because a float32 product of two equal columns may differ in its last digit by where the column stands.
    Raises ValueError on NaN or infinity, which would otherwise stand first in every comparison.
    """
    require_finite(queries)
    require_finite(candidates)
    columns = candidates.T.astype(np.float64)
    size = max(1, _ELEMENTS_AT_ONCE // max(1, len(candidates)))
    for start in range(0, len(queries), size):
        rows = slice(start, min(start + size, len(queries)))
        yield rows, np.rint((queries[rows].astype(np.float64) @ columns) / TIE)


def nearest(
    queries: Float[np.ndarray, "query dim"], candidates: Float[np.ndarray, "candidate dim"], k: int
) -> tuple[Int[np.ndarray, "query k"], Float[np.ndarray, "query k"]]:
    """The k most similar candidates of each query, best first, and their similarities; ties by candidate number.

    k is cut to the number of candidates.
    """
    k = min(k, len(candidates))
    columns, values = np.zeros((len(queries), k), np.int64), np.zeros((len(queries), k))
    for rows, block in similarity_blocks(queries, candidates):
        columns[rows] = np.argsort(-block, axis=1, kind="stable")[:, :k]
        values[rows] = np.take_along_axis(block, columns[rows], axis=1) * TIE
    return columns, values


def text_places(
    films: Float[np.ndarray, "film dim"],
    texts: Float[np.ndarray, "text dim"],
    text_of_film: Int[np.ndarray, "film"],
) -> Places:
    """Each text searches the films; every text needs at least one film."""
    result = np.zeros((3, len(texts)), np.int64)
    for rows, block in similarity_blocks(texts, films):
        matches = text_of_film[None, :] == np.arange(rows.start, rows.stop)[:, None]
        best = np.where(matches, block, -np.inf).max(axis=1, keepdims=True)
        tied = block == best
        result[:, rows] = (block > best).sum(1), tied.sum(1), (tied & matches).sum(1)
    return Places(*result)


def film_places(
    films: Float[np.ndarray, "film dim"],
    texts: Float[np.ndarray, "text dim"],
    text_of_film: Int[np.ndarray, "film"],
) -> Places:
    """Each film searches the texts; every film has a text."""
    result = np.ones((3, len(films)), np.int64)
    for rows, block in similarity_blocks(films, texts):
        own = np.take_along_axis(block, text_of_film[rows, None], axis=1)
        result[:2, rows] = (block > own).sum(1), (block == own).sum(1)
    return Places(*result)


def permuted_hits(
    films: Float[np.ndarray, "film dim"],
    texts: Float[np.ndarray, "text dim"],
    text_of_film: Int[np.ndarray, "film"],
    recall_at: Sequence[int],
    orders: Int[np.ndarray, "permutation film"],
) -> Float[np.ndarray, "permutation recall text"]:
    """Hit probabilities of the texts after the reports are dealt out to the films in each of `orders`.

    A text keeps its number of films, of which it needs one. Films with a number past the last text belong to texts that do
    not search; they stay candidates. The films are sorted once for each text, not once for each permutation.
    """
    counts = np.bincount(text_of_film, minlength=len(texts))
    grouped = np.argsort(text_of_film, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)])
    hits = np.zeros((len(orders), len(recall_at), len(texts)))
    for rows, block in similarity_blocks(texts, films):
        above, tied = _standing(block)
        members = grouped[first[rows.start] : first[rows.stop]]
        row_of_member = np.repeat(np.arange(rows.stop - rows.start), counts[rows])
        starts = first[rows.start : rows.stop] - first[rows.start]
        for number, order in enumerate(orders):
            dealt = order[members]
            member_above = above[row_of_member, dealt]
            best = np.minimum.reduceat(member_above, starts)
            is_best = member_above == best[row_of_member]
            best_tied = np.maximum.reduceat(np.where(is_best, tied[row_of_member, dealt], 0), starts)
            places = Places(best, best_tied, np.add.reduceat(is_best.astype(np.int64), starts))
            hits[number, :, rows] = np.stack([places.hit_probability(k) for k in recall_at])
    return hits


def _standing(
    block: Float[np.ndarray, "query candidate"],
) -> tuple[Int[np.ndarray, "query candidate"], Int[np.ndarray, "query candidate"]]:
    """For each candidate of each row: how many score higher, and how many score the same."""
    order = np.argsort(-block, axis=1, kind="stable")
    ranked = np.take_along_axis(block, order, axis=1)
    above, tied = np.zeros(block.shape, np.int64), np.zeros(block.shape, np.int64)
    for row, values in enumerate(ranked):
        starts = np.flatnonzero(np.diff(values, prepend=np.inf))
        lengths = np.diff(starts, append=len(values))
        above[row, order[row]] = np.repeat(starts, lengths)
        tied[row, order[row]] = np.repeat(lengths, lengths)
    return above, tied
