"""What a search found, as a page and as lines."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcoro import atomic
from deepcoro.bank import FoundReport, Reading
from deepcoro.numerals import decimals, signed
from deepcoro.page import render_page
from deepcoro.search import FoundFilm

NO_FILMS = (
    "no strips and no own reports: a shared folder holds no films; --shards FOLDER shows those that are here"
)


@dataclass(frozen=True)
class Search:
    """One query and its results."""

    num_candidates: int
    """Films or reports that were searched."""
    checkpoint: str
    sentences: Sequence[str] = ()
    """The query, where it is text."""
    film: FoundFilm | None = None
    """The query, where it is a film."""
    films: Sequence[FoundFilm] = ()
    reports: Sequence[FoundReport] = ()
    readings: Sequence[Reading] = ()
    num_neighbours: int = 0
    """Nearest reports behind the readings."""
    has_films: bool = True
    """False = the bank is of a shared folder, and nobody said where the films are."""


def write_search_page(path: Path, search: Search) -> Path:
    """One HTML file that loads nothing."""
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    atomic.write_text(path, render_page("search.html", search=search, created=created, no_films=NO_FILMS))
    return path


def search_lines(search: Search) -> list[str]:
    """The results for a terminal."""
    lines = [
        f"{place:3}  {signed(found.similarity)}  {found.film}  {found.split}"
        for place, found in enumerate(search.films, start=1)
    ]
    for place, found in enumerate(search.reports, start=1):
        lines.append(f"{place:3}  {signed(found.similarity)}  {' '.join(found.text.split())}")
    lines += [
        f"{reading.label:32} {decimals(reading.value):>8}   all reports {decimals(reading.overall):>8}   known by {reading.known} of {search.num_neighbours}"
        for reading in search.readings
    ]
    if not search.has_films:
        lines.append(NO_FILMS)
    return lines
