"""Which share of the patients goes into which split, where the table does not say."""

from collections.abc import Sequence
from dataclasses import replace

from deepcoro.config import ConfigError
from deepcoro.ingest.film import StudySource
from deepcoro.ingest.identity import Identity

Shares = tuple[tuple[str, float], ...]
"""Split and the upper end of its range of keyed fractions, rising to 1."""

DEFAULT = "80/10/10"
_NAMES = ("train", "val", "test")


def shares_of(text: str) -> Shares:
    """`80/10/10` -> train below 0.8, val below 0.9, test below 1. ConfigError unless it is three percentages that add up to 100."""
    try:
        percent = [float(part) for part in text.split("/")]
    except ValueError:
        percent = []
    if len(percent) != len(_NAMES) or min(percent) < 0 or abs(sum(percent) - 100) > 1e-6:
        raise ConfigError(
            f"--split_shares '{text}' is not three percentages of train/val/test that add up to 100, such as {DEFAULT}"
        )
    ends = [round(sum(percent[: number + 1]) / 100, 12) for number in range(len(percent))]
    return tuple(zip(_NAMES, ends, strict=True))


EIGHTY_TEN_TEN = shares_of(DEFAULT)


def draw_split(identity: Identity, unit: str, shares: Shares) -> str:
    """Of a patient, or of a study where no patient is named: other patients and other tables do not move it."""
    fraction = identity.fraction("split", unit)
    return next(name for name, below in shares if fraction < below)


def drawn(studies: Sequence[StudySource], identity: Identity, shares: Shares) -> list[StudySource]:
    """The studies with splits drawn in these shares."""
    return [
        replace(study, split=draw_split(identity, study.patient or study.study, shares)) for study in studies
    ]
