"""EchoNet-Dynamic: 10,030 apical four-chamber films with their ejection fraction (Ouyang et al. 2020, Nature 580:252)."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from deepcoro.ingest.layout_files import Record, as_table, inside, number, records
from deepcoro.ingest.table import Table

NAME = "echonet_dynamic"
MODALITY = "US"
SOURCE = "EchoNet-Dynamic, echonet.github.io/dynamic"
LICENCE = (
    "Stanford University Dataset Research Use Agreement: non-commercial, no redistribution of films or shards"
)
LABELS = ("lvef", "esv_ml", "edv_ml", "es_frame", "ed_frame")

_COLUMNS = ("FileName", "PatientID", "StudyInstanceUID", "Split", "view", "fps", *LABELS)


def read(folder: Path) -> Table:
    """`FileList.csv`, `VolumeTracings.csv` and `Videos/`. Each film is of another person. The given split wins."""
    listed = inside(folder, NAME, "FileList.csv")
    traced = folder / "VolumeTracings.csv"
    frames = _traced_frames(traced) if traced.is_file() else {}
    return as_table(_COLUMNS, _rows(listed, frames), NAME)


def _rows(listed: Path, frames: Mapping[str, tuple[int, int]]) -> Iterator[Record]:
    for row in records(listed, ("FileName", "EF", "Split")):
        film = row["FileName"].removesuffix(".avi")
        diastole, systole = frames.get(film, (None, None))
        yield {
            "FileName": f"Videos/{film}.avi",
            "PatientID": f"{NAME}/{film}",
            "StudyInstanceUID": f"{NAME}/{film}",
            "Split": row["Split"].lower(),
            "view": "A4C",
            "fps": row.get("FPS"),
            "lvef": row["EF"],
            "esv_ml": row.get("ESV"),
            "edv_ml": row.get("EDV"),
            "ed_frame": diastole,
            "es_frame": systole,
        }


def _traced_frames(path: Path) -> dict[str, tuple[int, int]]:
    """Film -> (end-diastolic, end-systolic) frame: the larger and the smaller of its two tracings. Films without two have none."""
    chords: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in records(path, ("FileName", "X1", "Y1", "X2", "Y2", "Frame")):
        x1, y1, x2, y2, frame = (number(row, name, path.name) for name in ("X1", "Y1", "X2", "Y2", "Frame"))
        chords[row["FileName"].removesuffix(".avi")][int(frame)].append(math.hypot(x2 - x1, y2 - y1))
    return {film: _by_area(frames) for film, frames in chords.items() if len(frames) == 2}


def _by_area(frames: Mapping[int, list[float]]) -> tuple[int, int]:
    """The first chord of a frame is the long axis, the others lie evenly along it: their mean times the axis is the area."""
    area = {frame: axis * sum(chords) / max(1, len(chords)) for frame, (axis, *chords) in frames.items()}
    large, small = sorted(area, key=lambda frame: area[frame], reverse=True)
    return large, small
