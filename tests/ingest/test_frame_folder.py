"""A folder of pictures is one film: in the order of their numbers, whole, noticed when a frame changes."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcoro.data.sharding import stamp
from deepcoro.data.shards import Shards
from deepcoro.ingest.film import RejectedFilm
from tests.ingest.films import moving_bar, read_all

ROOT = Path(__file__).resolve().parents[2]


def write_frames(folder: Path, film: np.ndarray, name: str = "p1_v2_{:d}.png") -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(film, start=1):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize("name", ["p1_v2_{:d}.png", "p1_v2_{:05d}.png", "{:d}.bmp", "Frame {:d} of 12.PNG"])
def test_frames_come_in_the_order_of_their_numbers(tmp_path, name):
    film = moving_bar(12)
    assert np.array_equal(read_all(write_frames(tmp_path / "film", film, name)), film)


def test_jpeg_and_colour_and_indexed_pictures_are_read(tmp_path):
    film = moving_bar(4)
    assert np.abs(read_all(write_frames(tmp_path / "grey", film, "{:d}.jpg")).astype(int) - film).max() <= 12
    colour = np.stack([film, film // 2, 255 - film], axis=-1)
    assert np.array_equal(read_all(write_frames(tmp_path / "colour", colour)), colour)
    folder = tmp_path / "indexed"
    folder.mkdir()
    for number, frame in enumerate(film):
        Image.fromarray(frame).convert("P").save(folder / f"{number}.png")
    assert np.array_equal(read_all(folder)[..., 0], film)


def test_other_files_hidden_ones_and_folders_are_left_alone(tmp_path):
    folder = write_frames(tmp_path / "film", moving_bar(4))
    (folder / "notes.txt").write_text("p0_20")
    (folder / "._p1_v2_1.png").write_bytes(b"resource fork")
    write_frames(folder / "groundtruth.png", moving_bar(2))
    assert len(read_all(folder)) == 4


@pytest.mark.parametrize(
    ("hurt", "reason"),
    [
        (lambda folder: [each.unlink() for each in folder.iterdir()], "unsupported_format"),
        (lambda folder: (folder / "p1_v2_2.png").write_bytes(b"\x89PNG cut"), "truncated: 1 of 4"),
        (lambda folder: Image.new("L", (9, 9)).save(folder / "p1_v2_2.png"), "frame_size"),
        (
            lambda folder: Image.fromarray(np.zeros((32, 40), np.uint16)).save(folder / "p1_v2_1.png"),
            "bit_depth",
        ),
        (lambda folder: [each.unlink() for each in list(folder.iterdir())[1:]], "single_frame"),
    ],
)
def test_what_is_no_whole_film_is_refused(tmp_path, hurt, reason):
    folder = write_frames(tmp_path / "film", moving_bar(4))
    hurt(folder)
    with pytest.raises(RejectedFilm, match=f"^{reason}"):
        read_all(folder)


def test_a_changed_added_or_removed_frame_changes_the_stamp(tmp_path):
    folder = write_frames(tmp_path / "film", moving_bar(4))
    stamps = [stamp(folder)]
    Image.fromarray(moving_bar(4)[0]).save(folder / "p1_v2_5.png")
    stamps.append(stamp(folder))
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(folder / "p1_v2_2.png")
    stamps.append(stamp(folder))
    (folder / "p1_v2_1.png").unlink()
    stamps.append(stamp(folder))
    assert len({tuple(each) for each in stamps}) == 4 and stamp(tmp_path / "none") == []


def test_the_command_takes_folders_and_the_rate_from_the_table(tmp_path):
    rows = []
    for number in (1, 2):
        write_frames(tmp_path / f"films/v{number}", moving_bar(6) // number)
        rows.append(
            {"FileName": f"films/v{number}/", "PatientID": number, "StudyInstanceUID": number, "fps": 10}
        )
    with (tmp_path / "dataset.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef\n")
    command = [
        sys.executable,
        ROOT / "tools" / "shard_dataset.py",
        "--csv",
        tmp_path / "dataset.csv",
        "--workers",
        "1",
    ]
    command += [
        "--output",
        tmp_path / "out",
        "--key_file",
        tmp_path / "key",
        "--frame_rate_column",
        "fps",
        "--lossless",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    shards = Shards.open(tmp_path / "out")
    clips = [shards.study(row).clips[0] for row in range(2)]
    assert [(clip.num_frames, clip.frame_rate_fps, clip.frame_rate_source) for clip in clips] == [
        (6, 10.0, "table")
    ] * 2
    assert len({clip.clip for clip in clips}) == 2
