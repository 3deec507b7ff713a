"""Numbers as people read them: a dash for what is not there, and no minus before a zero (-0.0002 to three decimals is 0.000)."""

import math
from collections.abc import Callable

Show = Callable[[float | None], str]


def number(value: float | int | None, digits: int = 3) -> str:
    """At most `digits` decimals, none for whole numbers."""
    return decimals(value, digits if is_missing(value) or not float(value).is_integer() else 0)


def percent(value: float | None) -> str:
    """Of a share, with one decimal."""
    return "–" if is_missing(value) else f"{100 * value:z.1f} %"


def fraction(value: float | None) -> str:
    return decimals(value, 2)


def place(value: float | None) -> str:
    """A rank, which ties and chance can put between two places."""
    return number(value, 1)


def decimals(value: float | int | None, digits: int = 3) -> str:
    """So many decimals, whatever the number."""
    return "–" if is_missing(value) else f"{value:z,.{digits}f}"


def signed(value: float | int | None, digits: int = 3) -> str:
    """So many decimals behind a plus or a minus."""
    return "–" if is_missing(value) else f"{value:+z,.{digits}f}"


def significant(value: float | int | None, digits: int = 4) -> str:
    """So many digits, of a number of any size."""
    return "–" if is_missing(value) else f"{value:z.{digits}g}"


def is_missing(value: float | int | None) -> bool:
    """Whether a dash is shown: None, NaN or infinite."""
    return value is None or not math.isfinite(value)
