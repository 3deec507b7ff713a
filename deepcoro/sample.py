"""What a shard holds about one study, without its pixels: the JSON member, typed. The ground that ingest, shards and fields share."""

import hashlib
from typing import Literal

import pydantic

from deepcoro.config import Block

Side = Literal["left", "right"]
Scope = Literal["clip", "side", "study"]


class ClipRecord(Block):
    """One film of a study."""

    clip: str
    """Keyed id of the film; unique over the data set."""
    member: str
    """Extension of the tar member that holds the frames: `000.mjpg` for the first clip (JPEG), `000.zst` when lossless."""
    frame_offsets: list[int]
    """Byte offset of each frame inside the member, and its total size last: num_frames + 1 numbers."""
    height: int
    """Stored rows, px."""
    width: int
    """Stored columns, px."""
    channels: Literal[1, 3] = 1
    """1 grey, 3 colour (Doppler stays colour)."""
    frame_rate_fps: float | None = None
    """Frames per second; None when no tag gives it (it is never guessed)."""
    frame_rate_source: str | None = None
    """The tag, column or container field that gave the frame rate."""
    side: Side | None = None
    """Coronary tree that is injected; None = not known."""
    view: str | None = None
    """Projection name such as `RAO_CAU`; None = not known."""
    primary_angle_deg: float | None = None
    """LAO positive, RAO negative."""
    secondary_angle_deg: float | None = None
    """Cranial positive, caudal negative."""
    rotation_deg: float | None = None
    """Arc that the C-arm travels during the film (the angles are those of the first frame); None when it does not move."""
    source_to_detector_mm: float | None = None
    """SID; None = not known."""
    source_to_patient_mm: float | None = None
    """SOD, to the isocentre; None = not known."""
    imager_pixel_spacing_mm: float | None = None
    """Side of a stored pixel at the detector; times SOD / SID it is the side at the heart. None = not known."""
    biplane: Literal["A", "B"] | None = None
    """Plane of a biplane run; None for single-plane films."""
    biplane_pair: int | None = None
    """Index in this study of the film that the other plane took at the same time; None when it is not here."""
    grey_scale: str | None = None
    """Display scale of the source: `window`, `window 1 of 3`, `voi_table`, `stored`, `percentiles`; None for other files."""
    labels: dict[str, float | str | None] = {}
    """Label columns of this film's row; None = not assessed (never negative)."""

    @property
    def num_frames(self) -> int:
        return len(self.frame_offsets) - 1

    @property
    def known(self) -> dict[str, float | str | None]:
        """Side, view and labels by name; None = not known or not assessed."""
        return {"side": self.side, "view": self.view} | self.labels


class Report(Block):
    """One text of a study and what it speaks of."""

    scope: Scope
    """`clip`: one film; `side`: every film of one tree; `study`: all films."""
    text: str
    """The report, as given (white space trimmed)."""
    clip: int | None = None
    """Index of the film, for scope `clip`."""
    side: Side | None = None
    """The tree, for scope `side`."""


class StudyRecord(Block):
    """One sample of a shard: a study with all its clips."""

    study: str
    """Keyed id; also the sample's key in the tar."""
    patient: str | None = None
    """Keyed id; None when the source names no patient (every result then says so)."""
    clips: list[ClipRecord]
    """The films in acquisition order."""
    reports: list[Report] = []
    """The texts known at sharding; may be empty."""
    kept: tuple[int, ...] | None = pydantic.Field(default=None, exclude=True)
    """Indices of the films that the filter of a run lets pass; None = all. No shard holds it."""

    @property
    def films(self) -> list[ClipRecord]:
        """Those that have a say in what is known of the study, whether a row shows them or not."""
        return self.clips if self.kept is None else [self.clips[index] for index in self.kept]

    def report_of(self, clip_indices: tuple[int, ...]) -> str | None:
        """The text that describes these clips: for one clip its narrowest report, for several all that touch them; None if none."""
        touching = [report for report in self.reports if self._touches(report, clip_indices)]
        if len(clip_indices) == 1:
            touching = sorted(touching, key=lambda report: ("clip", "side", "study").index(report.scope))[:1]
        elif any(report.scope == "study" for report in touching):
            touching = [report for report in touching if report.scope == "study"]
        texts = dict.fromkeys(report.text for report in touching)
        return "\n".join(texts) or None

    def _touches(self, report: Report, clip_indices: tuple[int, ...]) -> bool:
        if report.scope == "clip":
            return report.clip in clip_indices
        if report.scope == "side":
            return any(self.clips[index].side == report.side for index in clip_indices)
        return True


def canonical_text(text: str) -> str:
    """Two reports are the same report when this is equal: case and white space do not count."""
    return " ".join(text.lower().split())


def text_id(text: str | None) -> int:
    """63-bit id of a report's canonical text; -1 for a missing one."""
    if text is None:
        return -1
    return int.from_bytes(hashlib.sha256(canonical_text(text).encode()).digest()[:8], "big") >> 1


def patient_digest(patient: str) -> str:
    """Shards hold keyed ids already; digested once more, a checkpoint or a list of withdrawn patients holds no id that a shard holds."""
    return hashlib.sha256(f"training patient {patient}".encode()).hexdigest()[:16]
