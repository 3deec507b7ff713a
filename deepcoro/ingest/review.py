"""The rare strings of texts and labels, for a human to look at: a bare surname has no pattern that a program could find."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deepcoro import atomic
from deepcoro.ingest.film import FilmSource, StudySource
from deepcoro.ingest.known_words import KNOWN_WORDS, normal_form

FILE = "review.csv"
_MOST_CLIPS = 10
_STRING = re.compile(r"\[[A-Z_]+\]|[^\W\d_][\w'’^-]*|\d{5,}")


class Rare(NamedTuple):
    """One string that few patients share."""

    string: str
    kind: str
    """`capitalised`, `word` or `digits`."""
    found_in: str
    """`report`, or the label column."""
    patients: int
    """Distinct patients (studies, where no patient is named)."""
    clips: tuple[str, ...]
    """Keyed ids of films whose text or label holds it, the first few."""


class _Seen:
    """Where a string was met; patients are counted only up to the number that makes it frequent."""

    def __init__(self) -> None:
        self.patients: set[str] = set()
        self.clips: dict[str, None] = {}


def rare_strings(studies: Sequence[StudySource], below: int = 3) -> list[Rare]:
    """Strings outside the vocabulary that are met in fewer than `below` patients, names first. Texts enter as scrubbed."""
    seen: dict[tuple[str, str], _Seen] = {}
    for study, film, found_in, string in _met(studies):
        place = seen.setdefault((string, found_in), _Seen())
        if len(place.patients) >= below:
            continue
        place.patients.add(study.patient or study.study)
        if len(place.clips) < _MOST_CLIPS:
            place.clips[film.clip] = None
    rare = [
        Rare(string, _kind(string), found_in, len(place.patients), tuple(place.clips))
        for (string, found_in), place in seen.items()
        if len(place.patients) < below
    ]
    return sorted(rare, key=lambda each: (each.kind, each.patients, each.string, each.found_in))


def _met(studies: Sequence[StudySource]) -> Iterator[tuple[StudySource, FilmSource, str, str]]:
    """Study, film, place and string of every unknown string."""
    for study in studies:
        for film in study.films:
            for found_in, text in _texts(film):
                yield from ((study, film, found_in, string) for string in _unknown(text))


def _texts(film: FilmSource) -> Iterator[tuple[str, str]]:
    if film.text is not None:
        yield "report", film.text
    yield from ((column, value) for column, value in film.labels if isinstance(value, str))


def _unknown(text: str) -> set[str]:
    """Strings with a part of three letters or more that is no known word; placeholders are passed over."""
    strings = {each for each in _STRING.findall(text) if not each.startswith("[")}
    return {string for string in strings if string.isdigit() or any(map(_is_unknown, _parts(string)))}


def _parts(string: str) -> list[str]:
    return re.findall(r"[^\W_]+", normal_form(string))


def _is_unknown(part: str) -> bool:
    plural = part.removesuffix("s")
    return len(part) > 2 and part not in KNOWN_WORDS and plural not in KNOWN_WORDS


def _kind(string: str) -> str:
    if string.isdigit():
        return "digits"
    return "capitalised" if string[0].isupper() else "word"


def write_review(folder: Path, rare: Sequence[Rare]) -> None:
    """Writes `review.csv` (0600) into a private folder; never into the shards."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Rare._fields)
    writer.writerows([*each[:4], " ".join(each.clips)] for each in rare)
    with atomic.locked(folder):
        atomic.write_bytes(folder / FILE, text.getvalue().encode(), private=True)
