"""Searches to look at: the best, a middling and the worst ones, with strips of the films they found.

Evaluation calls `choose_examples` with embeddings, reads the few films that `films_shown` names, makes their strips with
`film_strip` and passes all of it to `show_examples`; the report takes what comes out.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from deepcoro.config import Block
from deepcoro.kernels.tied_ranks import film_places, nearest, text_places

Direction = Literal["text_to_video", "video_to_text"]
Kind = Literal["best", "middling", "worst"]

_STRIP_HEIGHT_PX = 120
_STRIP_GAP_PX = 3
_JPEG_QUALITY = 82


class Candidate(Block):
    """One result of a search."""

    title: str
    """Keyed id of the film, or the place of the text in the list."""
    text: str | None = None
    """The text found, or the own report of the film found."""
    strip: str | None = None
    """JPEG of the film's frames, base64."""
    similarity: float
    """Cosine similarity to the query."""
    hit: bool
    """Whether it belongs to the query."""


class Example(Block):
    """One search and what it found."""

    direction: Direction
    """What was searched with what."""
    kind: Kind
    """How the search was picked: among the best, in the middle, among the worst of the split."""
    text: str
    """The query, or the own report of the film that is the query."""
    title: str | None = None
    """Keyed id of the film that is the query."""
    strip: str | None = None
    """JPEG of the film that is the query, base64."""
    rank: float
    """Mean place of the first match over the orders of ties; 1 is first."""
    num_candidates: int
    """Items searched."""
    num_positives: int
    """Items that would have been right."""
    candidates: list[Candidate]
    """The first results, best first."""


@dataclass(frozen=True)
class Choice:
    """An example in row numbers, before any film was read."""

    direction: Direction
    kind: Kind
    query: int
    rank: float
    num_candidates: int
    num_positives: int
    found: tuple[int, ...]
    similarities: tuple[float, ...]


@dataclass(frozen=True)
class _Searches:
    """All searches of one direction, to pick from."""

    direction: Direction
    queries: Int[np.ndarray, "query"]
    query_embeddings: Float[np.ndarray, "query dim"]
    candidates: Int[np.ndarray, "candidate"]
    candidate_embeddings: Float[np.ndarray, "candidate dim"]
    ranks: Float[np.ndarray, "query"]
    num_positives: Int[np.ndarray, "query"]

    def choose(self, num_examples: int, num_found: int) -> list[Choice]:
        """Searches from both ends and the middle of the order of rank against the rank of chance."""
        order = np.argsort(self.ranks * (self.num_positives + 1), kind="stable")
        picked = spread(len(order), num_examples)
        rows = order[list(picked)]
        found, similarities = nearest(self.query_embeddings[rows], self.candidate_embeddings, num_found)
        return [
            Choice(
                direction=self.direction,
                kind=kind,
                query=int(self.queries[row]),
                rank=float(self.ranks[row]),
                num_candidates=len(self.candidates),
                num_positives=int(self.num_positives[row]),
                found=tuple(self.candidates[columns].tolist()),
                similarities=tuple(values.tolist()),
            )
            for kind, row, columns, values in zip(picked.values(), rows, found, similarities, strict=True)
        ]


def spread(num_searches: int, num_examples: int) -> dict[int, Kind]:
    """Places in the order from best to worst: about half of the examples at the best end, one in the middle, the rest at the end."""
    num_examples = min(num_examples, num_searches)
    num_worst = max(num_examples // 3, int(num_examples == 2))
    num_best = num_examples - num_worst - (num_examples >= 3)
    places: dict[int, Kind] = dict.fromkeys(range(num_best), "best")
    if num_examples >= 3:
        places[(num_best + num_searches - num_worst - 1) // 2] = "middling"
    return places | dict.fromkeys(range(num_searches - num_worst, num_searches), "worst")


def choose_examples(
    films: Float[np.ndarray, "film dim"],
    texts: Float[np.ndarray, "text dim"],
    text_of_film: Int[np.ndarray, "film"],
    num_examples: int,
    num_found: int = 5,
) -> list[Choice]:
    """`num_examples` searches if there are as many, two in three text to video. Films numbered −1 take no part."""
    known = np.flatnonzero(text_of_film >= 0)
    if not len(known) or num_examples < 1:
        return []
    used, first, own = np.unique(text_of_film[known], return_index=True, return_inverse=True)
    own = own.reshape(-1)
    forward = _Searches(
        direction="text_to_video",
        queries=used,
        query_embeddings=texts[used],
        candidates=known,
        candidate_embeddings=films[known],
        ranks=text_places(films[known], texts[used], own).expected_rank(),
        num_positives=np.bincount(own),
    )
    one_film_each = known[first]
    backward = _Searches(
        direction="video_to_text",
        queries=one_film_each,
        query_embeddings=films[one_film_each],
        candidates=np.arange(len(texts)),
        candidate_embeddings=texts,
        ranks=film_places(films[one_film_each], texts, used).expected_rank(),
        num_positives=np.ones(len(used), np.int64),
    )
    num_forward = max(1, round(num_examples * 2 / 3))
    return forward.choose(num_forward, num_found) + backward.choose(num_examples - num_forward, num_found)


def films_shown(choices: Sequence[Choice]) -> list[int]:
    """The films whose strips the examples need, each once."""
    forward = {film for each in choices if each.direction == "text_to_video" for film in each.found}
    return sorted(forward | {each.query for each in choices if each.direction == "video_to_text"})


def show_examples(
    choices: Sequence[Choice],
    texts: Sequence[str],
    text_of_film: Int[np.ndarray, "film"],
    titles: Sequence[str],
    strips: Mapping[int, bytes],
) -> list[Example]:
    """The choices with their texts, the titles of their films and the strips there are (JPEG, by film number)."""
    encoded = {film: base64.b64encode(strip).decode() for film, strip in strips.items()}
    return [_show(choice, texts, text_of_film, titles, encoded) for choice in choices]


def _show(
    choice: Choice,
    texts: Sequence[str],
    text_of_film: np.ndarray,
    titles: Sequence[str],
    strips: Mapping[int, str],
) -> Example:
    forward = choice.direction == "text_to_video"
    own = choice.query if forward else int(text_of_film[choice.query])
    candidates = []
    for found, similarity in zip(choice.found, choice.similarities, strict=True):
        text = int(text_of_film[found]) if forward else found
        candidates.append(
            Candidate(
                title=titles[found] if forward else f"report {found + 1}",
                text=texts[text] if text >= 0 else None,
                strip=strips.get(found) if forward else None,
                similarity=similarity,
                hit=text == own,
            )
        )
    return Example(
        direction=choice.direction,
        kind=choice.kind,
        text=texts[own],
        title=None if forward else titles[choice.query],
        strip=None if forward else strips.get(choice.query),
        rank=choice.rank,
        num_candidates=choice.num_candidates,
        num_positives=choice.num_positives,
        candidates=candidates,
    )


def film_strip(frames: UInt8[np.ndarray, "frame height width *channel"], num_frames: int = 6) -> bytes:
    """JPEG of up to `num_frames` frames, evenly spaced from first to last, side by side at one height.

    Grey [frame, height, width] or colour [frame, height, width, 3]. Raises ValueError for a film without frames.
    """
    if not len(frames):
        raise ValueError("a film strip needs at least one frame; got none")
    places = np.unique(np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).round().astype(int))
    height, width = frames.shape[1:3]
    size = (max(1, round(width * _STRIP_HEIGHT_PX / height)), _STRIP_HEIGHT_PX)
    tiles = [Image.fromarray(frames[place]).resize(size, Image.Resampling.LANCZOS) for place in places]
    step = size[0] + _STRIP_GAP_PX
    strip = Image.new(tiles[0].mode, (step * len(tiles) - _STRIP_GAP_PX, _STRIP_HEIGHT_PX))
    for number, tile in enumerate(tiles):
        strip.paste(tile, (number * step, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
