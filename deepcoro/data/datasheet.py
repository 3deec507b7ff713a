"""The data sheet of a shard folder, `datasheet.html`: what is in it, how it was split, what was refused. One file, no network, no name.

Everything but the example strips and the findings of reports comes from the tables; reports are counted, never shown.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute

from deepcoro import atomic
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import read_films
from deepcoro.data.finding_groups import finding_groups
from deepcoro.data.manifest import Manifest, RefusedRow
from deepcoro.data.notices import empty_splits, films_without_text, split_rule_told
from deepcoro.data.prevalence import prevalences
from deepcoro.data.shards import Shards
from deepcoro.data.summary import outcome, reason_word
from deepcoro.page import render_page
from deepcoro.sample import ClipRecord

DATASHEET = "datasheet.html"
_MOST_BARS = 16
_MOST_POINTS = 2000
_STRIP_FRAMES, _STRIP_PX = 6, 120


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart."""

    label: str
    count: int
    percent: float
    """Of the longest bar: its width."""
    share: float
    """Of all, in per cent."""


@dataclass(frozen=True)
class Numbers:
    """Five numbers of a column, and how many films have a value."""

    name: str
    known: int
    missing: int
    low: float
    quarter: float
    median: float
    three_quarters: float
    high: float


@dataclass(frozen=True)
class Strip:
    """Frames of one film, side by side."""

    image: str
    """`data:` URL of a JPEG."""
    caption: str


def write_datasheet(folder: Path, num_examples: int = 6) -> Path:
    """Writes the data sheet of a complete folder whole; returns its path. `num_examples` films are shown, 0 = none."""
    path = folder / DATASHEET
    atomic.write_text(path, render_datasheet(folder, num_examples))
    return path


def render_datasheet(folder: Path, num_examples: int) -> str:
    """The page. The same folder gives the same bytes."""
    manifest, films = schema.read_manifest(folder), read_films(folder)
    split_of = {row.study: row.split for row in schema.read_splits(folder)}
    refused = schema.read_refused(folder)
    return render_page(
        DATASHEET,
        manifest=manifest,
        splits=_splits(manifest, films, split_of),
        split_rule=split_rule_told(manifest),
        empty_splits=list(empty_splits(manifest)),
        films_without_text=list(films_without_text(films)),
        size_gb=sum(shard.bytes for shard in manifest.shards) / 1e9,
        **_content(films),
        points=_angles(films),
        labels=prevalences(films, split_of, manifest.label_columns),
        numeric=[_numbers(films, name) for name in _numeric(films, manifest.label_columns)],
        text=_text(films),
        findings=finding_groups(folder, split_of),
        refused=_refused(refused),
        outcomes=Counter(outcome(row.reason) for row in refused),
        strips=list(_strips(folder, split_of, num_examples)) if num_examples > 0 else [],
    )


def _splits(
    manifest: Manifest, films: pyarrow.Table, split_of: Mapping[str, str]
) -> list[dict[str, str | float]]:
    """Counts of a split, with its frames and the hours that they last."""
    of_film = np.array([split_of.get(study, "") for study in films["study"].to_pylist()])
    frames = films["num_frames"].to_numpy()
    seconds = np.nan_to_num(frames / films["frame_rate_fps"].to_numpy())
    return [
        {
            "name": name,
            **counts.model_dump(),
            "share": 100 * counts.clips / max(1, manifest.counts.clips),
            "frames": int(frames[of_film == name].sum()),
            "hours": float(seconds[of_film == name].sum() / 3600),
        }
        for name, counts in manifest.counts.splits.items()
    ]


def _content(films: pyarrow.Table) -> dict[str, list[Bar]]:
    """Bars by view, tree, rate, source of the rate, and stored size; what is not known has a bar too."""
    rates = [None if rate is None else f"{rate:.3g} fps" for rate in films["frame_rate_fps"].to_pylist()]
    sizes = zip(*(films[name].to_pylist() for name in ("width", "height", "channels")), strict=True)
    return {
        "views": _bars([view and view.replace("_", " ") for view in films["view"].to_pylist()]),
        "sides": _bars(films["side"].to_pylist()),
        "rates": _bars(rates),
        "sources": _bars(films["frame_rate_source"].to_pylist()),
        "sizes": _bars([f"{w} x {h}{' colour' if channels == 3 else ''}" for w, h, channels in sizes]),
        "lengths": [_numbers(films, "num_frames")],
    }


def _bars(values: Sequence[str | None]) -> list[Bar]:
    """Most frequent first, the rare ones together, the unknown last."""
    counts = Counter(value for value in values if value is not None)
    shown = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    if len(shown) > _MOST_BARS:
        rare = shown[_MOST_BARS - 1 :]
        shown = [*shown[: _MOST_BARS - 1], (f"{len(rare)} others", sum(count for _, count in rare))]
    unknown = len(values) - sum(counts.values())
    shown += [("not known", unknown)] if unknown else []
    longest = max((count for _, count in shown), default=1)
    return [Bar(label, count, 100 * count / longest, 100 * count / len(values)) for label, count in shown]


def _angles(films: pyarrow.Table) -> list[dict[str, float | str]]:
    """Up to 2,000 films by their angles, on a drawing 360 wide and 200 high: LAO right, cranial up."""
    known = films.filter(
        pyarrow.compute.and_(films["primary_angle_deg"].is_valid(), films["secondary_angle_deg"].is_valid())
    )
    step = max(1, -(-known.num_rows // _MOST_POINTS))
    columns = [
        known[name].to_pylist()[::step] for name in ("primary_angle_deg", "secondary_angle_deg", "side")
    ]
    return [
        {"x": round(180 + min(max(across, -100), 100) * 1.6, 1), "y": round(100 - min(max(up, -60), 60) * 1.6, 1), "side": side or "unknown"}
        for across, up, side in zip(*columns, strict=True)
    ]  # fmt: skip


def _numeric(films: pyarrow.Table, labels: Sequence[str]) -> list[str]:
    """Label columns with numbers other than 0 and 1."""
    found = []
    for name in labels:
        if not pyarrow.types.is_string(films[name].type):
            known = films[name].drop_null().to_numpy()
            if len(known) and not np.isin(known, (0.0, 1.0)).all():
                found.append(name)
    return found


def _numbers(films: pyarrow.Table, name: str) -> Numbers:
    known = films[name].drop_null().to_numpy()
    five = np.quantile(known, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return Numbers(name, len(known), films.num_rows - len(known), *five)


def _text(films: pyarrow.Table) -> dict[str, int | Numbers | None]:
    ids = films["text_id"].to_numpy()
    known, counts = np.unique(ids[ids >= 0], return_counts=True)
    return {
        "films": int(counts.sum()),
        "distinct": len(known),
        "most": int(counts.max(initial=0)),
        "words": _numbers(films, "text_words") if len(known) else None,
    }


def _refused(rows: Sequence[RefusedRow]) -> list[tuple[int, str, str, int]]:
    """Table, reason, outcome, count; most frequent first."""
    counts = Counter((row.table, reason_word(row.reason)) for row in rows)
    return [
        (table, word, outcome(word), count)
        for (table, word), count in sorted(
            counts.items(), key=lambda each: (each[0][0], -each[1], each[0][1])
        )
    ]


def _strips(folder: Path, split_of: Mapping[str, str], num: int) -> Iterator[Strip]:
    """Films of studies at equal distances through the folder, the first film of the first study among them."""
    shards = Shards.open(folder)
    studies = shards.manifest.counts.studies
    for row in np.unique(np.linspace(0, studies - 1, min(num, studies)).round().astype(int)).tolist():
        study = shards.study(row)
        number = row % len(study.clips)
        clip = study.clips[number]
        about = [
            split_of.get(study.study, "withdrawn"),
            *(word for word in (clip.side, clip.view and clip.view.replace("_", " ")) if word),
            f"{clip.num_frames} frames"
            + (f" at {clip.frame_rate_fps:.3g} fps" if clip.frame_rate_fps else ""),
            f"{clip.width} x {clip.height}",
        ]
        yield Strip(_strip(shards.read_clip(row, number), clip), ", ".join(about))


def _strip(payload: bytes, clip: ClipRecord) -> str:
    from PIL import Image

    chosen = np.linspace(0, clip.num_frames - 1, _STRIP_FRAMES).round().astype(int).tolist()
    width = max(1, round(_STRIP_PX * clip.width / clip.height))
    sheet = Image.new("RGB", (width * _STRIP_FRAMES, _STRIP_PX))
    for place, frame in enumerate(chosen):
        image = _decode(payload[clip.frame_offsets[frame] : clip.frame_offsets[frame + 1]], clip)
        sheet.paste(Image.fromarray(image).resize((width, _STRIP_PX)), (place * width, 0))
    sink = io.BytesIO()
    sheet.save(sink, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def _decode(frame: bytes, clip: ClipRecord) -> np.ndarray:
    """uint8 [height width] or [height width 3]."""
    if clip.member.endswith(".zst"):
        import zstandard

        pixels = zstandard.ZstdDecompressor().decompress(frame)
        image = np.frombuffer(pixels, np.uint8).reshape(clip.height, clip.width, clip.channels)
    else:
        import simplejpeg

        image = simplejpeg.decode_jpeg(frame, "GRAY" if clip.channels == 1 else "RGB")
    return image[:, :, 0] if clip.channels == 1 else image
