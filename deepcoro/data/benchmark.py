"""How fast clips come out of shards, out of the films they were made from, and what is left of the pixels.

One clip is 16 of a film's frames at 224 px. Every reader goes once through all films, then the next reader does, round after round:
so each finds the caches as a worker finds them that does nothing else, and a busy machine is busy for all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch.nn import functional

from deepcoro.angiography.cohort import films_of, patient_of, studies_of
from deepcoro.angiography.film import render_film
from deepcoro.angiography.presets import preset_named
from deepcoro.angiography.write_avi import write_avi

FRAME_RATE_FPS = 15.0


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


Clips = Iterator[tuple[int, np.ndarray]]
"""Film number and its grey levels [frame height width], uint8 or float."""


@dataclass(frozen=True)
class Reader:
    """One way to get clips."""

    name: str
    clips: Callable[[], Clips]
    """Every film once, in any order: what is timed."""
    bytes_per_clip: float
    wanted: Callable[[], Clips] | None = None
    """The same with the frames that `Task.wanted` names, where `clips` draws others; for the quality."""
    stored_psnr_db: float | None = None
    """Of the stored frames against the source reduced to their size."""
    plain: str | None = None
    """Name of the reader that reads the same members with plain webdataset."""


@dataclass(frozen=True)
class Result:
    """What a reader did; rates are clips per second."""

    reader: Reader
    per_cpu_s: list[float]
    """One a round."""
    per_s: list[float]
    clip_psnr_db: float
    """Of the clips against the source frames resized in floating point."""

    @property
    def rate(self) -> float:
        return statistics.median(self.per_cpu_s)


def make_films(folder: Path, num_films: int, film_frames: int) -> list[Path]:
    """Generated 512 px angiograms: Motion-JPEG AVI, H.264 MP4 (x264, crf 18) and their true pixels (.npy) beside each other."""
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
        write_avi(paths[-1], pixels, FRAME_RATE_FPS)
        _write_h264(paths[-1].with_suffix(".mp4"), pixels)
        np.save(pixels_of(paths[-1]), pixels)
    return paths


def pixels_of(film: Path) -> Path:
    return film.with_suffix(".npy")


def _write_h264(path: Path, pixels: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=int(FRAME_RATE_FPS), options={"crf": "18"})
        stream.height, stream.width = pixels.shape[1:]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def resized(frames: np.ndarray, size_px: int) -> np.ndarray:
    """[frame height width] -> float32 squares, the exact way: antialiased bilinear in floating point."""
    whole = rearrange(
        torch.from_numpy(np.array(frames)).float(), "frame height width -> frame 1 height width"
    )
    if whole.shape[2:] == (size_px, size_px):
        return whole[:, 0].numpy()
    return functional.interpolate(whole, size=(size_px, size_px), mode="bilinear", antialias=True)[
        :, 0
    ].numpy()


def psnr_db(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Peak signal-to-noise ratio over all pixels of all pairs, of 255 grey levels; infinite when nothing differs."""
    error = statistics.fmean(float(np.square(one.astype(np.float64) - other).mean()) for one, other in pairs)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def measure(readers: list[Reader], films: list[Path], task: Task, rounds: int) -> list[Result]:
    """Quality in an unmeasured pass of each reader, then the rounds, each reader through all films."""
    truth = [resized(np.load(pixels_of(film), mmap_mode="r")[task.wanted], task.size_px) for film in films]
    results = [
        Result(each, [], [], psnr_db([(truth[film], clip) for film, clip in (each.wanted or each.clips)()]))
        for each in readers
    ]
    for number in range(rounds):
        # every other round backwards: no reader always comes after the same neighbour
        for result in results[:: -1 if number % 2 else 1]:
            began_cpu, began = time.process_time(), time.perf_counter()
            count = sum(1 for _ in result.reader.clips())
            result.per_cpu_s.append(count / (time.process_time() - began_cpu))
            result.per_s.append(count / (time.perf_counter() - began))
    return results


def table(results: list[Result], first: str, passes: str) -> str:
    """Markdown; ratios are of the medians of CPU time: to the reader `first`, to `passes`, to plain webdataset on the same members."""
    rates = {result.reader.name: result.rate for result in results}
    lines = [
        "| reader | clips / CPU-second (best round) | clips / s | x predecessor's way | x H.264 one pass | x plain webdataset"
        " | MB / clip | PSNR stored, dB | PSNR clip, dB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        reader = result.reader
        plain = f"{result.rate / rates[reader.plain]:.2f}" if reader.plain else ""
        stored = "" if reader.stored_psnr_db is None else f"{reader.stored_psnr_db:.1f}"
        lines.append(
            f"| {reader.name} | {result.rate:.1f} ({max(result.per_cpu_s):.1f}) | {statistics.median(result.per_s):.1f}"
            f" | {result.rate / rates[first]:.1f} | {result.rate / rates[passes]:.1f} | {plain}"
            f" | {reader.bytes_per_clip / 1e6:.2f} | {stored} | {result.clip_psnr_db:.1f} |"
        )
    return "\n".join(lines)
