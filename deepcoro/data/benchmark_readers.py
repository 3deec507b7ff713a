"""The readers that `tools/benchmark_data.py` compares: the predecessor's way, what films in containers can do, webdataset, shards."""

import statistics
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deepcoro.data.benchmark import FRAME_RATE_FPS, Clips, Reader, Task, pixels_of, psnr_db, resized
from deepcoro.data.manifest import Encoding
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.shards import Shards
from deepcoro.data.stream import EvaluationStream, TrainingStream
from deepcoro.data.writer import Settings, write_dataset
from deepcoro.fields import video
from deepcoro.ingest.film import FilmSource, StudySource
from deepcoro.sample import StudyRecord

PREDECESSOR = "AVI, OpenCV, all frames to float32"
ONE_PASS = "H.264, PyAV, one pass"
ENCODINGS = {
    # Twice the size that is shown: nothing is left to resize after decoding.
    "JPEG q90, 448 px (default)": Encoding(),
    "JPEG q90, 512 px": Encoding(short_side_px=512),
    "JPEG q95, 512 px": Encoding(quality=95, short_side_px=512),
    "lossless, 512 px": Encoding(type="lossless", short_side_px=512),
    "JPEG q90, 256 px": Encoding(short_side_px=256),
    "JPEG q95, 256 px": Encoding(quality=95, short_side_px=256),
    "lossless, 256 px": Encoding(type="lossless", short_side_px=256),
    "JPEG q95, 224 px": Encoding(quality=95, short_side_px=224),
}


def all_readers(films: list[Path], folder: Path, task: Task) -> tuple[list[Reader], list[str]]:
    """The predecessor's way first; and a line for each reader that cannot be had here."""
    readers, notes = container_readers(films, task)
    for number, (name, encoding) in enumerate(ENCODINGS.items()):
        readers += shard_readers(name, films, folder / str(number), encoding, task)
    return readers, notes


def container_readers(films: list[Path], task: Task) -> tuple[list[Reader], list[str]]:
    movies = [film.with_suffix(".mp4") for film in films]
    ways: list[tuple[str, Callable[[Path, Task], np.ndarray], list[Path]]] = [
        (PREDECESSOR, read_all_frames, films),
        ("AVI, PyAV, wanted packets only", read_wanted_packets, films),
        ("H.264, PyAV, a seek per frame", read_by_seeking, movies),
        (ONE_PASS, read_in_one_pass, movies),
    ]
    decoder_type, reason = _torchcodec()
    notes = []
    if decoder_type is None:
        notes.append(
            f"torchcodec is not measured ({reason}); `pip install torchcodec` and Debian's ffmpeg bring it"
        )
    else:
        read = partial(read_with_torchcodec, decoder_type)
        ways += [
            ("AVI, torchcodec, wanted frames", read, films),
            ("H.264, torchcodec, wanted frames", read, movies),
        ]
    return [_one_by_one(name, read, files, task) for name, read, files in ways], notes


def _torchcodec() -> tuple[Any, str]:
    """Its decoder, or None and why."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        return None, str(error).strip().split("\n")[0]
    if torchcodec.ffmpeg_major_version is None:  # since 0.16 it is imported for its pictures alone
        return None, "FFmpeg's libraries are not there"
    return VideoDecoder, ""


def _one_by_one(name: str, read: Callable[[Path, Task], np.ndarray], files: list[Path], task: Task) -> Reader:
    def clips() -> Clips:
        return ((number, read(file, task)) for number, file in enumerate(files))

    return Reader(name, clips, statistics.fmean(file.stat().st_size for file in files))


def read_all_frames(film: Path, task: Task) -> np.ndarray:
    """As the trainers before this one read a film: every frame decoded and made float32 RGB, then frames chosen and resized."""
    import cv2
    import torch

    capture = cv2.VideoCapture(str(film), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    while True:
        found, frame = capture.read()
        if not found:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    clip = torch.from_numpy(np.stack(frames).astype(np.float32)[task.wanted]).permute(0, 3, 1, 2)
    size = (task.size_px, task.size_px)
    return torch.nn.functional.interpolate(clip, size=size, mode="bilinear", antialias=True)[:, 0].numpy()


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
            wanted_s = number / FRAME_RATE_FPS
            container.seek(int(wanted_s / stream.time_base), stream=stream)
            after = (
                frame for frame in container.decode(stream) if frame.time > wanted_s - 0.5 / FRAME_RATE_FPS
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


def read_with_torchcodec(decoder_type: Any, film: Path, task: Task) -> np.ndarray:
    """Frames by number (it scans the file first, so that numbers are exact), resized as bytes with antialiasing."""
    from torch.nn.functional import interpolate

    decoder = decoder_type(str(film), num_ffmpeg_threads=1)
    frames = decoder.get_frames_at(task.wanted).data[:, :1]
    size = (task.size_px, task.size_px)
    return interpolate(frames, size=size, mode="bilinear", antialias=True)[:, 0].numpy()


def shard_readers(name: str, films: list[Path], folder: Path, encoding: Encoding, task: Task) -> list[Reader]:
    """The films in shards of one encoding, read by plain webdataset in the order of the tar and by the stream of training."""
    studies = [
        StudySource(f"{number:016d}", "train", (FilmSource(number + 1, pixels_of(film), f"{number:016x}"),))
        for number, film in enumerate(films)
    ]
    manifest = write_dataset(studies, folder, Settings(encoding=encoding))
    shards, field = Shards.open(folder), video.Config(frames=task.frames, size_px=task.size_px).build()
    size = sum(shard.bytes for shard in manifest.shards) / manifest.counts.clips
    quality = psnr_db(list(_stored_and_true(shards, films)))
    plain = f"webdataset, {name}"
    return [
        Reader(plain, partial(_plain_clips, folder, field), size, stored_psnr_db=quality),
        Reader(
            f"shards, {name}",
            partial(_training_clips, shards, field),
            size,
            partial(_evaluation_clips, shards, field),
            quality,
            plain,
        ),
    ]


def _plain_clips(folder: Path, field: video.VideoField) -> Clips:
    import webdataset

    tars = [str(tar) for tar in sorted(folder.glob("*.tar"))]
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        study = StudyRecord.model_validate_json(sample["json"])
        for index, clip in enumerate(study.clips):
            shown = field.decode(study, (index,), lambda _, member=sample[clip.member]: member, None)
            yield int(study.study), field.collate([shown], 1)["video"][0, 0].numpy()


def _training_clips(shards: Shards, field: video.VideoField) -> Clips:
    """One epoch, as training has it: shuffled order, drawn frames, checked bytes, one row a batch."""
    units = shards.units("train", False, 1)
    stream = TrainingStream(shards, units, {"video": field}, Plan(Shuffled(units.shard), 1))
    for batch in islice(stream, len(units)):
        yield int(units.study_id(int(batch["unit"]))), batch["video"][0, 0].numpy()


def _evaluation_clips(shards: Shards, field: video.VideoField) -> Clips:
    units = shards.units("train", False, 1)
    for batch in EvaluationStream(shards, units, {"video": field}, 1):
        yield int(units.study_id(int(batch["unit"]))), batch["video"][0, 0].numpy()


def _stored_and_true(shards: Shards, films: list[Path]) -> Any:
    """Eight frames of every film as stored, and the source's at that size."""
    for row in range(shards.num_studies("train")):
        study = shards.study(row)
        clip = study.clips[0]
        numbers = np.unique(np.linspace(0, clip.num_frames - 1, 8).astype(int))
        stored = video.decode_frames(clip, shards.read_clip(row, 0), numbers)[:, 0].numpy()
        pixels = np.load(pixels_of(films[int(study.study)]), mmap_mode="r")
        yield stored, resized(pixels[numbers], clip.height)
