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
_LEAST_REACH = 0.05
"""Of a zero-shot score: differences of a thousandth shall not fill the bar."""


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
    return render_page(
        "study.html",
        answer=answer,
        films=films,
        findings=findings_bars(answer.findings),
    )


def findings_bars(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """Places in per cent of a bar, of a finding without a spread of width 0; of a finding with a prediction interval or a threshold theirs
    too. Zero-shot scores share one bar, 0 in its middle; probabilities have 0 to 1; a number has its own.
    """
    of_kind = [each for each in findings if each.kind == "zero_shot"]
    reach = max([_LEAST_REACH, *(1.05 * abs(value) for each in of_kind for value in _shown(each))])
    bars = []
    for each in findings:
        ends = _ends(each, reach)
        places: dict[str, object] = {"finding": each, "at": _place(each.score, ends)}
        places |= _stretch("", each.spread or (each.score, each.score), ends)
        if each.interval is not None:
            places |= _stretch("interval_", each.interval, ends)
        if each.threshold is not None:
            places["threshold_at"] = _place(each.threshold, ends)
        bars.append(places)
    return bars


def _place(value: float, ends: tuple[float, float]) -> float:
    """Where a bar shows a value, in per cent of its length."""
    low, high = ends
    return round(100 * (value - low) / (high - low), 2)


def _stretch(prefix: str, span: tuple[float, float], ends: tuple[float, float]) -> dict[str, float]:
    """Left end and width of what reaches from one value to another."""
    low, high = (_place(value, ends) for value in span)
    return {f"{prefix}low": low, f"{prefix}width": round(high - low, 2)}


def _shown(finding: Finding) -> tuple[float, ...]:
    """Every score that its bar shows."""
    return (finding.score, *(finding.spread or ()), *(finding.interval or ()))


def _ends(finding: Finding, reach: float) -> tuple[float, float]:
    """What the left and the right end of a finding's bar stand for."""
    if finding.kind == "zero_shot":
        return -reach, reach
    if finding.kind in ("probability", "class"):
        return 0.0, 1.0
    least, most = min(_shown(finding)), max(_shown(finding))
    room = max(most - least, 1.0)
    return least - room, most + room


def _strip(clip: ClipRecord, payload: bytes) -> str:
    """JPEG, base64."""
    shown = min(_STRIP_FRAMES, clip.num_frames)
    numbers = np.unique(np.linspace(0, clip.num_frames - 1, shown).round().astype(int))
    factor = 2 if min(clip.height, clip.width) >= 240 else 1
    frames = decode_frames(clip, payload, numbers, factor).numpy()
    frames = rearrange(frames, "frame channel height width -> frame height width channel")
    frames = frames[..., 0] if clip.channels == 1 else frames
    return base64.b64encode(film_strip(frames, _STRIP_FRAMES)).decode()
