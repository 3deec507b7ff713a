"""Which flat numbers may leave the house: none that rests on fewer than ten patients of a kind, and none from which such a number follows.

One rule for the pages to share, the paper kit and `tools/validate_site.py`. Patients are counted where a metric counts them
(`num_patients`, `num_positive_patients`, ...); numbers of earlier versions, which count films alone, are judged by films.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set

FEWEST = 10
"""Cells of fewer are left out, as registries ask."""

_SUFFIXES = ("_ci_low", "_ci_high", "_chance", "_n", "_modal", "_nearest", "_shuffled", "_control")
_TOOK_NO_PART = ("not_", "other_", "_without_", "unreadable", "excluded", "strata", "distinct", "empty")
"""Parts of the names of counts on which the numbers beside them do not rest."""
_OF_KINDS = ("num_positive", "num_events")
"""Those of `num` that have something; the others have it not."""
_PATIENTS_OF_KINDS = (
    "num_positive_patients",
    "num_negative_patients",
    "num_event_patients",
    "num_event_free_patients",
)
_FILMS = ("num", "num_films")
"""What adds up over groups; patients do not, since one may have films in several."""
_IN_GROUP = re.compile(r"(?P<before>(?:.*/)?)by/(?P<column>[^/=]+)=[^/]+(?:/(?P<below>.+))?")

Numbers = Mapping[str, int | float]


def shareable(numbers: Numbers, fewest: int = FEWEST) -> dict[str, int | float]:
    """The numbers that may leave."""
    return told_and_withheld(numbers, fewest)[0]


def told_and_withheld(numbers: Numbers, fewest: int = FEWEST) -> tuple[dict[str, int | float], list[str]]:
    """The numbers that may leave, and the families (what shares a prefix) that may not.

    A number rests on the counts beside it and above it (`num...` or `n` under the same prefix), on those who have a finding as well as
    on those who have it not (that nobody has it, or everybody, tells of everybody), and on its own `_n`. A class of few takes its head
    away, a head its part in means over heads, a group of few those beside it wherever its size followed from them and the whole. A
    small count of what took no part goes alone.
    """
    counts = _counts(numbers)
    few = {_base(key) for key, value in numbers.items() if key.endswith("_n") and is_small(value, fewest)}
    unsafe = {
        head_or_class
        for family, each in counts.items()
        if _rests_on_few(each, fewest, _is_of_class(family))
        for head_or_class in _with_head(family)
    }
    unsafe |= _means_over(numbers, unsafe)
    unsafe |= _that_follow(counts, unsafe, fewest)
    # once more, for heads of groups that went since
    unsafe |= _means_over(numbers, unsafe)
    told = {
        key: value
        for key, value in numbers.items()
        if unsafe.isdisjoint(_prefixes(key.replace("/control/", "/")))
        and _base(key) not in few
        and not (_is_count(key) and is_small(value, fewest))
    }
    return told, sorted(unsafe)


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


def _rests_on_few(counts: Numbers, fewest: int, is_of_class: bool = False) -> bool:
    if counts.get("num") == 0 or (is_of_class and counts.get("num_positive") == 0):
        # there is nobody to tell of
        return False
    kinds = [counts[name] for name in _PATIENTS_OF_KINDS if name in counts]
    for name in _OF_KINDS:
        if name in counts and "num" in counts:
            kinds += [counts[name], counts["num"] - counts[name]]
    return any(count < fewest for count in kinds) or any(
        is_small(count, fewest) for name, count in counts.items() if _takes_part(name)
    )


def _takes_part(name: str) -> bool:
    return not any(part in name for part in _TOOK_NO_PART)


def _that_follow(counts: Mapping[str, Numbers], unsafe: Set[str], fewest: int) -> set[str]:
    """Families of groups (`by/sex=F/...`) that, taken from those of the whole, would tell of a few who are in none that is told."""
    partitions: dict[tuple[str, str, str], list[str]] = {}
    for family in counts:
        if found := _IN_GROUP.fullmatch(family):
            partitions.setdefault((found["before"], found["column"], found["below"] or ""), []).append(family)
    follow: set[str] = set()
    # what a group is goes before what is measured in it: it takes that along
    for (before, column, below), families in sorted(partitions.items(), key=lambda each: len(each[0][2])):
        hidden = unsafe | follow
        of_column = f"{before}by/{column}"
        told = [counts[family] for family in families if hidden.isdisjoint(_with_prefixes(family))]
        whole = before + below if below else of_column
        if not told or (hidden.isdisjoint(_with_prefixes(whole)) and _rest_is_few(counts.get(whole), told, len(families), below, fewest)):  # fmt: skip
            follow |= {each for family in families for each in _with_head(family)}
            follow |= set() if below else {of_column}
    return follow


def _rest_is_few(
    whole: Numbers | None, told: Sequence[Numbers], num_groups: int, below: str, fewest: int
) -> bool:
    """Whether those of the whole who are in none of the groups told are few: of groups left out, or not assessed."""
    if not below and (whole is None or "num_films" not in whole):
        # an earlier version, which does not say how many there are in all
        return len(told) < num_groups or bool((whole or {}).get("num_not_assessed"))
    if whole is None:
        return False
    rest = {name: count - sum(each.get(name, 0) for each in told) for name, count in whole.items()}
    if any(name in rest for name in _FILMS) and max(rest.get(name, 0) for name in _FILMS) <= 0:
        return False
    # a patient may be in several groups, so this is the least that there can be, and one at least
    if "num_patients" in rest:
        rest["num_patients"] = max(rest["num_patients"], 1)
    return _rests_on_few(rest, fewest, _is_of_class(below))


def _means_over(numbers: Numbers, unsafe: Set[str]) -> set[str]:
    """Means and heaps (`OBJECTIVE/macro`, `micro`) in which a head that is left out has a part: they share a measure with it."""
    measures = [
        _base(key).rpartition("/")
        for key in numbers
        if not _is_count(key) and not key.endswith("/prevalence")
    ]
    hidden = {(family.rpartition("/")[0], name) for family, _, name in measures if family in unsafe}
    return {
        family
        for family, _, name in measures
        if family.rpartition("/")[2].partition("=")[0] in ("macro", "micro")
        and (family.rpartition("/")[0], name) in hidden
    }


def _is_of_class(family: str) -> bool:
    return family.rpartition("/")[2].startswith("class=")


def _with_head(family: str) -> tuple[str, ...]:
    """A class takes its head along: the other classes would tell it."""
    return (family, family.rpartition("/")[0]) if _is_of_class(family) else (family,)


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


def _with_prefixes(family: str) -> set[str]:
    return {family, *_prefixes(family)}
