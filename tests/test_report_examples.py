"""Which searches are shown, that hits are marked rightly, and the strips of films."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from deepcoro.report_examples import choose_examples, film_strip, films_shown, show_examples


def ranked_set():
    """Ten texts; films of text 0 to 7 lie on their text, those of 8 and 9 on another's; two films have no text."""
    texts = np.eye(10, dtype=np.float32)
    text_of_film = np.concatenate([np.arange(10), np.arange(10), [-1, -1]])
    place = np.where(text_of_film >= 8, text_of_film - 8, np.maximum(text_of_film, 0))
    return texts[place], texts, text_of_film


def test_the_best_a_middling_and_the_worst_searches_are_shown():
    films, texts, text_of_film = ranked_set()
    choices = choose_examples(films, texts, text_of_film, num_examples=6)
    assert [choice.direction for choice in choices] == ["text_to_video"] * 4 + ["video_to_text"] * 2
    assert [choice.kind for choice in choices] == ["best", "best", "middling", "worst", "best", "worst"]
    assert choices[0].rank < choices[3].rank
    assert choices[3].query in (8, 9)
    assert choices[5].query % 10 in (8, 9)
    assert len({choice.query for choice in choices[:4]}) == 4


@pytest.mark.parametrize("num_examples", [0, 1, 2, 3, 5, 9, 200])
def test_no_search_is_shown_twice_and_never_more_than_asked_for(num_examples):
    choices = choose_examples(*ranked_set(), num_examples=num_examples)
    queries = [(choice.direction, choice.query) for choice in choices]
    assert len(set(queries)) == len(queries) <= num_examples
    assert len(choices) == min(num_examples, 20)


def test_without_reports_there_is_nothing_to_show():
    films, texts, _ = ranked_set()
    assert choose_examples(films, texts, np.full(len(films), -1), num_examples=6) == []


def test_hits_are_the_films_that_carry_the_query_and_only_needed_films_are_asked_for():
    films, texts, text_of_film = ranked_set()
    choices = choose_examples(films, texts, text_of_film, num_examples=6)
    words = [f"text {number}" for number in range(10)]
    titles = [f"c{film}" for film in range(len(films))]
    strips = {film: b"strip %d" % film for film in films_shown(choices)}
    examples = show_examples(choices, words, text_of_film, titles, strips)
    for choice, example in zip(choices, examples, strict=True):
        assert [candidate.hit for candidate in example.candidates] == [
            candidate.text == example.text for candidate in example.candidates
        ]
        if example.direction == "text_to_video":
            assert all(
                base64.b64decode(candidate.strip) == b"strip %d" % film
                for film, candidate in zip(choice.found, example.candidates, strict=True)
            )
        else:
            assert base64.b64decode(example.strip) == b"strip %d" % choice.query
    assert examples[0].candidates[0].hit
    assert not examples[3].candidates[0].hit


@pytest.mark.parametrize("shape", [(40, 64, 96), (40, 64, 96, 3)])
def test_a_strip_shows_frames_from_the_first_to_the_last(shape):
    frames = np.zeros(shape, np.uint8)
    frames[0], frames[-1] = 60, 200
    strip = Image.open(io.BytesIO(film_strip(frames, num_frames=3)))
    assert strip.size == (3 * 180 + 2 * 3, 120)
    assert strip.mode == ("L" if len(shape) == 3 else "RGB")
    grey = np.asarray(strip.convert("L")).astype(int)
    assert abs(grey[60, 90] - 60) < 6 and grey[60, 273] < 6 and abs(grey[60, -90] - 200) < 6


def test_a_short_film_gives_fewer_frames_and_an_empty_one_is_refused():
    one = Image.open(io.BytesIO(film_strip(np.zeros((1, 120, 120), np.uint8))))
    assert one.size == (120, 120)
    with pytest.raises(ValueError, match="at least one frame"):
        film_strip(np.zeros((0, 120, 120), np.uint8))
