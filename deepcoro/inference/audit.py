"""What was answered, when and by which weights: a file that only grows, whose every line seals those before it."""

import datetime
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import StudyAnswer

AUDIT = "audit.jsonl"
_SEAL = "seal"
_LONGEST_LINE = 8192
"""Bytes; a line has about 600."""


class AuditLog:
    """Several processes may write to one file. A line holds keyed ids, digests and counts; nothing of a film or an answer."""

    def __init__(
        self, path: Path, now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)
    ) -> None:
        self._path = path
        self._now = now

    def note(self, answer: StudyAnswer, study: OpenedStudy, written: bytes) -> None:
        """`written`: the answer as it was stored or sent, byte by byte: a file, or the whole body of a reply, also where it answers for
        several studies. On disk when this returns.
        """
        films = hashlib.sha256()
        for clip, payload in zip(study.record.clips, study.payloads, strict=True):
            films.update(f"{clip.clip} {len(payload)} ".encode())
            films.update(payload)
        line = {
            "time": self._now().isoformat(timespec="seconds"),
            "study": answer.study,
            "model": answer.model.digest,
            "model_data": answer.model.data,
            "deepcoro": answer.model.deepcoro,
            "films": len(answer.films),
            "skipped": len(answer.skipped),
            "films_sha256": films.hexdigest(),
            "answer_sha256": hashlib.sha256(written).hexdigest(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.locked(self._path.parent):
            line[_SEAL] = _seal(_last_seal(self._path), line)
            opened = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            with os.fdopen(opened, "wb") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())


def check_audit(path: Path) -> int:
    """Lines of a log that nobody has changed. DataError names the first line that is not as it was written, or after a missing one.

    Lines cut off at the end leave no trace in the file itself: keep a copy of the last seal elsewhere.
    """
    seal = ""
    lines = path.read_bytes().splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            told = line.pop(_SEAL)
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise DataError(f"line {number} of the audit log is no line of it; restore the log") from error
        seal = _seal(seal, line)
        if told != seal:
            raise DataError(f"line {number} of the audit log or one before it was changed; restore the log")
    return len(lines)


def _seal(before: str, line: dict[str, object]) -> str:
    text = json.dumps({key: value for key, value in line.items() if key != _SEAL}, sort_keys=True)
    return hashlib.sha256(f"{before} {text}".encode()).hexdigest()


def _last_seal(path: Path) -> str:
    """Of the last line; empty for a new log. A line that a power cut left unfinished ends the log's trust: DataError."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_LINE))
        lines = file.read().splitlines()
    try:
        return str(json.loads(lines[-1])[_SEAL]) if lines else ""
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError("the last line of the audit log is not whole; move the log aside") from error
