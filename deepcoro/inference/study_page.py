"""One study as a page to look at: its films as strips, what the model says of each and of the whole, what was left out and why."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange

from deepcoro import atomic
from deepcoro.fields.video import decode_frames
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import Finding, StudyAnswer
from deepcoro.page import render_page
from deepcoro.report_examples import film_strip
from deepcoro.sample import ClipRecord

_STRIP_FRAMES = 8


def write_page(folder: Path, answer: StudyAnswer, study: OpenedStudy) -> Path:
    """Writes `{study}.html`, with nothing outside of it. `study`: what the answer is of, for its pictures."""
    path = folder / f"{answer.study}.html"
    atomic.write_text(path, study_page(answer, study))
    return path


def study_page(answer: StudyAnswer, study: OpenedStudy) -> str:
    """The whole page as text."""
    place = {clip.clip: number for number, clip in enumerate(study.record.clips)}
    films = [
        {"film": film, "strip": _strip(study.record.clips[row], study.payloads[row])}
        for film in answer.films
        for row in [place[film.clip]]
    ]
    decode_share = answer.seconds.decode / max(answer.seconds.total, 1e-9)
    return render_page(
        "study.html",
        answer=answer,
        films=films,
        findings=_ranges(answer.findings),
        decode_share=decode_share,
    )


def _ranges(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """Places in per cent of a bar that is as wide as the largest score in either direction; 0 lies in its middle."""
    reach = max((abs(value) for each in findings for value in (each.lowest, each.highest, each.score)), default=0)  # fmt: skip
    reach = 1.05 * reach or 1.0

    def percent(score: float) -> float:
        return round(50 + 50 * score / reach, 2)

    return [
        {
            "finding": each,
            "low": percent(each.lowest),
            "width": round(percent(each.highest) - percent(each.lowest), 2),
            "at": percent(each.score),
        }
        for each in findings
    ]


def _strip(clip: ClipRecord, payload: bytes) -> str:
    """JPEG, base64."""
    shown = min(_STRIP_FRAMES, clip.num_frames)
    numbers = np.unique(np.linspace(0, clip.num_frames - 1, shown).round().astype(int))
    factor = 2 if min(clip.height, clip.width) >= 240 else 1
    frames = decode_frames(clip, payload, numbers, factor).numpy()
    frames = rearrange(frames, "frame channel height width -> frame height width channel")
    frames = frames[..., 0] if clip.channels == 1 else frames
    return base64.b64encode(film_strip(frames, _STRIP_FRAMES)).decode()
