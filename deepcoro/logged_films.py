"""Films of an evaluation for W&B and TensorBoard (`tracking.log_films`): frames in a row, with what was written and what was found."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

from deepcoro.report_captions import CaptionExample
from deepcoro.report_examples import Example


class LoggedFilm(NamedTuple):
    """One picture and the words below it."""

    jpeg: bytes
    caption: str


def films_to_log(searches: Sequence[Example], captions: Sequence[CaptionExample]) -> list[LoggedFilm]:
    """The films that were searched with and those that a report was generated of; those without a picture are left out."""
    queries = [each for each in searches if each.direction == "video_to_text" and each.strip]
    shown = [LoggedFilm(base64.b64decode(each.strip), _of_search(each)) for each in queries]
    return shown + [
        LoggedFilm(base64.b64decode(each.strip), _of_caption(each)) for each in captions if each.strip
    ]


def _of_search(example: Example) -> str:
    found = example.candidates[0].text if example.candidates else None
    return f"{example.title}\nreport: {example.text}\nfound first: {found or '-'}\nplace of its report: {example.rank:g}"


def _of_caption(example: CaptionExample) -> str:
    report, caption = (
        " ".join(sentence.text for sentence in text if sentence.mark != "omitted")
        for text in (example.report, example.caption)
    )
    return f"{example.title}\nreport: {report}\ngenerated: {caption or '-'}"
