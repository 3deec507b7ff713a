"""Films that look the same anywhere in a data set, found without comparing all with all; across splits they are an error.

Signs of the fingerprints are sorted under several orders of their bits (Charikar 2002, "Similarity estimation techniques from rounding
algorithms"): two copies differ in few bits, so in some order they lie side by side, however crowded their neighbourhood is. What
lies side by side and differs in few bits is compared in full. Time and memory grow with the number of films alone.
"""

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow

from deepcoro.config import DataError
from deepcoro.data.fingerprint import ALIKE, FINGERPRINT_BYTES, alike
from deepcoro.data.manifest import Duplicates

logger = logging.getLogger(__name__)

_ORDERS = 32
_NEIGHBOURS = 8
_FEW_BITS = 48
"""Copies of generated films differ in 18 of the 256 signs at most."""
_SORTED_BITS = 64
_CHUNK = 65_536
_SHOWN = 5


def find_alike(fingerprints: np.ndarray) -> np.ndarray:
    """Pairs of rows that look the same, int64 [pair 2], each once, the smaller row first; `fingerprints` are int8 [film 256].

    Of more than eight copies of one film not every pair is listed, but those listed connect them all.
    """
    packed = _packed(fingerprints, np.arange(FINGERPRINT_BYTES))
    random = np.random.default_rng(0)
    found = [np.zeros((0, 2), np.int64)]
    for _ in range(_ORDERS if len(fingerprints) > 1 else 0):
        bits = random.permutation(FINGERPRINT_BYTES)[:_SORTED_BITS]
        order = np.argsort(_packed(fingerprints, bits)[:, 0], kind="stable")
        found.append(_neighbours(packed[order], order))
    candidates = np.unique(np.concatenate(found), axis=0)
    parts = [candidates[start : start + _CHUNK] for start in range(0, len(candidates), _CHUNK)]
    return np.concatenate([found[0], *(part[_same(fingerprints, part)] for part in parts)])


def _same(fingerprints: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return alike(fingerprints[pairs[:, 0]], fingerprints[pairs[:, 1]]) >= ALIKE


def _packed(fingerprints: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Signs of these terms as uint64 [film word], the first term in the highest bit."""
    words = np.empty((len(fingerprints), len(bits) // 64), np.uint64)
    for start in range(0, len(fingerprints), _CHUNK):
        signs = fingerprints[start : start + _CHUNK][:, bits] > 0
        words[start : start + _CHUNK] = np.ascontiguousarray(np.packbits(signs, axis=1)).view(">u8")
    return words


def _neighbours(words: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Pairs of films that differ in few bits among those that lie close in this order."""
    pairs = []
    for distance in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
        different = np.bitwise_count(words[:-distance] ^ words[distance:]).sum(axis=1, dtype=np.int16)
        near = np.flatnonzero(different <= _FEW_BITS)
        pairs.append(np.sort(np.stack([order[near], order[near + distance]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def check_duplicates(
    films: pyarrow.Table, film_splits: np.ndarray, rows: Mapping[str, int], accept: bool
) -> Duplicates:
    """Counts films that look the same. DataError when they lie in two splits, unless accepted: then a warning.

    `film_splits` are the splits by row of `films`, empty for a withdrawn study; `rows` tells the row of the source table for
    the films of this run.
    """
    counts, across = _look(films, film_splits)
    if across:
        message = _message(across, rows)
        if not accept:
            raise DataError(
                f"{message}; give their studies the same split (no film is opened again), drop the rows, or pass"
                " --accept_duplicates",
                topic="copies-of-films",
            )
        logger.warning("%s (accepted)", message)
    if counts.inside_a_split:
        logger.info("%d films look like an earlier film of their split", counts.inside_a_split)
    return counts


def count_duplicates(films: pyarrow.Table, film_splits: np.ndarray) -> Duplicates:
    """The counts alone, for films that were checked when they came."""
    return _look(films, film_splits)[0]


def _look(
    films: pyarrow.Table, film_splits: np.ndarray
) -> tuple[Duplicates, list[tuple[np.ndarray, np.ndarray]]]:
    """The counts, and the films and splits of each group that lies in two splits."""
    column = films["fingerprint"].combine_chunks()
    seen = np.flatnonzero(np.asarray(column.is_valid()) & (film_splits != ""))
    group = _groups(find_alike(_as_array(column)[seen]), len(seen))
    splits, clips = film_splits[seen], films["clip"].to_numpy()[seen]
    inside = len(seen) - len(np.unique(np.stack([group, _codes(splits)]), axis=1).T)
    across = [members for members in _of_two_or_more(group) if len(set(splits[members])) > 1]
    counts = Duplicates(inside_a_split=inside, across_splits=sum(len(members) for members in across))
    return counts, [(clips[members], splits[members]) for members in across]


def _as_array(column: pyarrow.FixedSizeBinaryArray) -> np.ndarray:
    """int8 [film 256], not copied; what is null holds anything."""
    data = np.frombuffer(column.buffers()[1], np.int8) if len(column) else np.zeros(0, np.int8)
    start = column.offset * FINGERPRINT_BYTES
    return data[start : start + len(column) * FINGERPRINT_BYTES].reshape(-1, FINGERPRINT_BYTES)


def _groups(pairs: np.ndarray, num_films: int) -> np.ndarray:
    """Group of each film: copies of copies are copies."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(num_films, num_films))
    return connected_components(links, directed=False)[1]


def _codes(words: np.ndarray) -> np.ndarray:
    return np.unique(words, return_inverse=True)[1]


def _of_two_or_more(group: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return [members for members in np.split(order, starts[1:]) if len(members) > 1]


def _message(across: list[tuple[np.ndarray, np.ndarray]], rows: Mapping[str, int]) -> str:
    shown = []
    for clips, splits in across[:_SHOWN]:
        other = int(np.flatnonzero(splits != splits[0])[0])
        pair = "/".join(sorted((splits[0], splits[other])))
        shown.append(f"{_name(clips[0], rows)} and {_name(clips[other], rows)} ({pair})")
    more = f", and {len(across) - _SHOWN} more" if len(across) > _SHOWN else ""
    return f"films of two splits look the same: {'; '.join(shown)}{more}"


def _name(clip: str, rows: Mapping[str, int]) -> str:
    return f"row {rows[clip]} (film {clip})" if clip in rows else f"film {clip} of an earlier table"
