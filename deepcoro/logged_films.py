"""Films of an evaluation for W&B and TensorBoard (`tracking.log_films`): frames in a row, with what was written, what was found and what heads got wrong."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

from deepcoro.report_captions import CaptionExample
from deepcoro.report_examples import Example
from deepcoro.report_head_errors import HeadError


class LoggedFilm(NamedTuple):
    """One picture and the words below it."""

    jpeg: bytes
    caption: str


def films_to_log(
    searches: Sequence[Example], captions: Sequence[CaptionExample], errors: Sequence[HeadError]
) -> list[LoggedFilm]:
    """The films that were searched with, those that a report was generated of, and those that heads were most wrong about; without
    those that have no picture.
    """
    queries = [each for each in searches if each.direction == "video_to_text"]
    told = [
        *((each.strip, _of_search(each)) for each in queries),
        *((each.strip, _of_caption(each)) for each in captions),
        *((each.strip, _of_error(each)) for each in errors),
    ]
    return [LoggedFilm(base64.b64decode(strip), words) for strip, words in told if strip]


def _of_search(example: Example) -> str:
    found = example.candidates[0].text if example.candidates else None
    return f"{example.title}\nreport: {example.text}\nfound first: {found or '-'}\nplace of its report: {example.rank:g}"


def _of_caption(example: CaptionExample) -> str:
    report, caption = (
        " ".join(sentence.text for sentence in text if sentence.mark != "omitted")
        for text in (example.report, example.caption)
    )
    return f"{example.title}\nreport: {report}\ngenerated: {caption or '-'}"


def _of_error(error: HeadError) -> str:
    return f"{error.title}\n{error.head}: {error.said}\nlabel: {error.truth}"
