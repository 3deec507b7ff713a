"""How fast clips come out of shards, and out of the films they were made from: the same frames, in one process, turn by turn.

One clip is 16 of a film's frames at 224 px. Each film goes through all readers in turn, so that a busy machine is busy for all of
them; time is the process's CPU time, which counts every thread.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepcoro.angiography.cohort import films_of, patient_of, studies_of
from deepcoro.angiography.film import render_film
from deepcoro.angiography.presets import preset_named
from deepcoro.angiography.write_avi import write_avi
from deepcoro.data.manifest import Encoding
from deepcoro.data.plan import Row
from deepcoro.data.shards import Shards
from deepcoro.data.stream import Fetch
from deepcoro.data.writer import Settings, write_dataset
from deepcoro.fields import video
from deepcoro.ingest.film import FilmSource, StudySource

_FRAME_RATE_FPS = 15.0


@dataclass(frozen=True)
class Task:
    """What one clip is."""

    film_frames: int = 60
    frames: int = 16
    size_px: int = 224

    @property
    def wanted(self) -> list[int]:
        """Frames shown, those that evaluation shows from shards."""
        return [int((place + 0.5) * self.film_frames / self.frames) for place in range(self.frames)]


@dataclass(frozen=True)
class Reader:
    """One way to get a clip."""

    name: str
    read: Callable[[int], np.ndarray]
    """Film number -> grey levels [frame height width], uint8 or float."""
    bytes_per_clip: float


@dataclass(frozen=True)
class Result:
    """What a reader did."""

    name: str
    clips_per_cpu_s: float
    clips_per_s: float
    bytes_per_clip: float
    difference: float
    """Mean absolute difference from the first reader's grey levels, 0-255."""


def make_films(folder: Path, num_films: int, film_frames: int) -> list[Path]:
    """Generated 512 px angiograms as Motion-JPEG AVI, and each again as H.264 MP4 (x264, crf 18) beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    preset, paths = preset_named("full"), []
    patients = (patient_of(preset, 0, number) for number in range(num_films))
    plans = (
        plan
        for patient in patients
        for study in studies_of(preset, 0, patient)
        for plan in films_of(preset, 0, study)
    )
    for number, plan in zip(range(num_films), plans, strict=False):
        pixels = render_film(replace(plan.injection, num_frames=film_frames, bits=8)).pixels
        paths.append(folder / f"{number:04d}.avi")
        write_avi(paths[-1], pixels, _FRAME_RATE_FPS)
        _write_h264(paths[-1].with_suffix(".mp4"), pixels)
    return paths


def _write_h264(path: Path, pixels: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=int(_FRAME_RATE_FPS), options={"crf": "18"})
        stream.height, stream.width = pixels.shape[1:]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def readers(films: list[Path], folder: Path, task: Task) -> list[Reader]:
    """The predecessor's way first, then what films in containers can do, then shards."""
    avi_bytes = statistics.fmean(film.stat().st_size for film in films)
    movies = [film.with_suffix(".mp4") for film in films]
    mp4_bytes = statistics.fmean(film.stat().st_size for film in movies)
    shards = [
        ("shards, JPEG q95, 512 px (default)", Encoding()),
        ("shards, JPEG q95, 256 px", Encoding(short_side_px=256)),
        ("shards, lossless, 512 px", Encoding(type="lossless")),
    ]
    return [
        Reader(
            "AVI, OpenCV, all frames to float32", lambda film: read_all_frames(films[film], task), avi_bytes
        ),
        Reader(
            "AVI, PyAV, wanted packets only", lambda film: read_wanted_packets(films[film], task), avi_bytes
        ),
        Reader("H.264, PyAV, a seek per frame", lambda film: read_by_seeking(movies[film], task), mp4_bytes),
        Reader("H.264, PyAV, one pass", lambda film: read_in_one_pass(movies[film], task), mp4_bytes),
        *(
            shard_reader(name, films, folder / str(number), encoding, task)
            for number, (name, encoding) in enumerate(shards)
        ),
    ]


def read_all_frames(film: Path, task: Task) -> np.ndarray:
    """As the trainers before this one read a film: every frame decoded and made float32 RGB, then frames chosen and resized."""
    import cv2

    capture = cv2.VideoCapture(str(film), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    clip = torch.from_numpy(np.stack(frames).astype(np.float32)[task.wanted]).permute(0, 3, 1, 2)
    clip = torch.nn.functional.interpolate(
        clip, size=(task.size_px, task.size_px), mode="bilinear", antialias=True
    )
    return clip[:, 0].numpy()


def read_wanted_packets(film: Path, task: Task) -> np.ndarray:
    """Every packet of Motion JPEG is a frame: the others are not decoded."""
    import av

    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        packets = (packet for number, packet in enumerate(container.demux(stream)) if number in task.wanted)
        return np.stack([_small(frame, task) for packet in packets for frame in packet.decode()])


def read_by_seeking(film: Path, task: Task) -> np.ndarray:
    """For each frame a seek to the key frame before it, and on from there."""
    import av

    clip = []
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number in task.wanted:
            wanted_s = number / _FRAME_RATE_FPS
            container.seek(int(wanted_s / stream.time_base), stream=stream)
            after = (
                frame for frame in container.decode(stream) if frame.time > wanted_s - 0.5 / _FRAME_RATE_FPS
            )
            clip.append(_small(next(after), task))
    return np.stack(clip)


def read_in_one_pass(film: Path, task: Task) -> np.ndarray:
    """Everything up to the last wanted frame is decoded; only the wanted ones are converted."""
    import av

    clip, wanted = [], set(task.wanted)
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                clip.append(_small(frame, task))
            if number >= max(wanted):
                break
    return np.stack(clip)


def _small(frame: Any, task: Task) -> np.ndarray:
    return frame.reformat(width=task.size_px, height=task.size_px, format="gray").to_ndarray()


def shard_reader(name: str, films: list[Path], folder: Path, encoding: Encoding, task: Task) -> Reader:
    """Shards made of the films, read as training reads them: record, member, checksum, decoding, collation."""
    studies = [
        StudySource(f"{number:016d}", "train", (FilmSource(number + 1, film, f"{number:016x}"),))
        for number, film in enumerate(films)
    ]
    manifest = write_dataset(studies, folder, Settings(encoding=encoding))
    shards = Shards.open(folder)
    field = video.Config(frames=task.frames, size_px=task.size_px).build()
    fetch = Fetch(shards, shards.units("train", False, 1), {"video": field}, None)
    size = sum(shard.bytes for shard in manifest.shards) / manifest.counts.clips
    return Reader(name, lambda film: fetch[[Row(film, 0, film)]].batch["video"][0, 0].numpy(), size)


def measure(each: list[Reader], num_films: int, rounds: int) -> list[Result]:
    """Every film through every reader in turn, `rounds` times, after one unmeasured clip; the medians of the rounds."""
    first = [reader.read(0).astype(np.float32) for reader in each]
    cpu_s = np.zeros((len(each), rounds))
    wall_s = np.zeros((len(each), rounds))
    for film, this_round in itertools.product(range(num_films), range(rounds)):
        for number, reader in enumerate(each):
            began_cpu, began = time.process_time(), time.perf_counter()
            reader.read(film)
            cpu_s[number, this_round] += time.process_time() - began_cpu
            wall_s[number, this_round] += time.perf_counter() - began
    return [
        Result(
            name=reader.name,
            clips_per_cpu_s=num_films / float(np.median(cpu)),
            clips_per_s=num_films / float(np.median(wall)),
            bytes_per_clip=reader.bytes_per_clip,
            difference=float(np.abs(clip - first[0]).mean()),
        )
        for reader, cpu, wall, clip in zip(each, cpu_s, wall_s, first, strict=True)
    ]


def table(results: list[Result]) -> str:
    """Markdown; ratios are of CPU time, to the first reader and to H.264 in one pass."""
    passes = next(result for result in results if result.name == "H.264, PyAV, one pass")
    lines = [
        "| reader | clips / CPU-second | clips / s | x predecessor's way | x H.264 one pass | MB / clip | mean difference, grey levels |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ratios = [result.clips_per_cpu_s / other.clips_per_cpu_s for other in (results[0], passes)]
        lines.append(
            f"| {result.name} | {result.clips_per_cpu_s:.1f} | {result.clips_per_s:.1f} | {ratios[0]:.1f} | {ratios[1]:.1f}"
            f" | {result.bytes_per_clip / 1e6:.2f} | {result.difference:.2f} |"
        )
    return "\n".join(lines)
