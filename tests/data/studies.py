"""Studies of npy films, ready to be sharded, and ways to look at what became of them."""

import io
import tarfile
from pathlib import Path

import numpy as np

from deepcoro.data.manifest import Encoding
from deepcoro.data.member import encode
from deepcoro.data.sharding import Settings
from deepcoro.ingest.film import FilmSource, StudySource
from deepcoro.sample import StudyRecord

SMALL = Settings(clips_per_shard=4, report_scope="side", label_columns=["cto"])


def make_studies(
    folder: Path, num_studies: int = 5, films_each: int = 2, first: int = 0
) -> list[StudySource]:
    """Studies of npy films that all differ; every second patient is in train. `first` continues an earlier call."""
    folder.mkdir(parents=True, exist_ok=True)
    studies = []
    for study in range(first, first + num_studies):
        sources = []
        for number in range(films_each):
            path = folder / f"{study}_{number}.npy"
            np.save(
                path, np.random.default_rng([study, number]).integers(0, 255, (4, 24, 32), dtype=np.uint8)
            )
            source = FilmSource(
                row=(study - first) * films_each + number + 1, path=path, clip=f"{study:08x}{number:08x}", text=f"Text {study}.",
                side="left", primary_angle_deg=30.0, secondary_angle_deg=-20.0, labels=(("cto", None),),
            )  # fmt: skip
            sources.append(source)
        split = "train" if study % 2 == 0 else "val"
        studies.append(StudySource(f"{study * 7919:016x}", split, tuple(sources), f"{study:016x}"))
    return studies


def encoded(film: np.ndarray, encoding: Encoding) -> tuple[bytes, list[int]]:
    """Payload of a film's member, and its frame offsets."""
    member = encode(film, encoding)
    return member.payload, member.frame_offsets


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def archive_members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def records_of(tar: Path) -> list[StudyRecord]:
    members = archive_members(tar.read_bytes())
    return [
        StudyRecord.model_validate_json(payload)
        for name, payload in members.items()
        if name.endswith(".json")
    ]


def forbid_opening(monkeypatch) -> None:
    """From now on the test fails when a film is opened."""

    def fail(*_: object) -> None:
        raise AssertionError("a film was opened")

    for module in ("decode", "tar"):
        monkeypatch.setattr(f"deepcoro.data.{module}.open_film", fail)
