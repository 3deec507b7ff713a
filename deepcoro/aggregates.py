"""Which flat numbers of a run may leave the house: none that rests on fewer than ten films, studies or patients.

Suppression is primary only: where one group of a column is left out, its size can be had from the others and the whole.
"""

from collections.abc import Iterator, Mapping

FEWEST = 10
"""Cells of fewer are left out, as registries ask."""

_SUFFIXES = ("_ci_low", "_ci_high", "_chance", "_n", "_modal", "_nearest", "_shuffled", "_control")
_TOOK_NO_PART = ("not_", "other_", "_without_", "unreadable")
"""Parts of the names of counts on which the numbers beside them do not rest."""

Numbers = Mapping[str, int | float]


def shareable(numbers: Numbers, fewest: int = FEWEST) -> dict[str, int | float]:
    """The numbers without those that rest on fewer than `fewest`.

    A number rests on the counts beside it and above it (`num...` or `n` under the same prefix), on the negatives as well as on
    the positives where `num` and `num_positive` are told, and on its own `_n`. A small count of what took no part goes alone.
    """
    unsafe = {prefix for prefix, counts in _counts(numbers).items() if _rests_on_few(counts, fewest)}
    few = {_base(key) for key, value in numbers.items() if key.endswith("_n") and is_small(value, fewest)}
    return {
        key: value
        for key, value in numbers.items()
        if unsafe.isdisjoint(_prefixes(key))
        and _base(key) not in few
        and not (_is_count(key) and is_small(value, fewest))
    }


def is_small(count: int | float, fewest: int = FEWEST) -> bool:
    """Whether a count points at somebody; none at all points at nobody."""
    return 0 < count < fewest


def _counts(numbers: Numbers) -> dict[str, dict[str, int | float]]:
    """Prefix -> the counts right under it."""
    found: dict[str, dict[str, int | float]] = {}
    for key, value in numbers.items():
        if _is_count(key):
            prefix, _, name = key.rpartition("/")
            found.setdefault(prefix, {})[name] = value
    return found


def _rests_on_few(counts: Numbers, fewest: int) -> bool:
    if "num" in counts and "num_positive" in counts:
        counts = {**counts, "num_negative": counts["num"] - counts["num_positive"]}
    return any(
        is_small(value, fewest)
        for name, value in counts.items()
        if not any(part in name for part in _TOOK_NO_PART)
    )


def _is_count(key: str) -> bool:
    name = key.rsplit("/", 1)[-1]
    return name == "n" or name.startswith("num")


def _base(key: str) -> str:
    """The value that a bound, a control or a count belongs to."""
    for suffix in _SUFFIXES:
        if key.endswith(suffix):
            return _base(key.removesuffix(suffix))
    return key


def _prefixes(key: str) -> Iterator[str]:
    """`a/b` and `a` of `a/b/c`."""
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key
