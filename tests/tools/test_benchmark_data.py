import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the predecessor's way needs opencv-python-headless (extra: test)")

from deepcoro.data import benchmark, benchmark_readers  # noqa: E402
from tools import benchmark_data  # noqa: E402

TASK = benchmark.Task(film_frames=9, frames=3, size_px=64)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return benchmark.make_films(tmp_path_factory.mktemp("films"), 2, TASK.film_frames)


@pytest.fixture(scope="module")
def readers(films, tmp_path_factory):
    return benchmark_readers.all_readers(films, tmp_path_factory.mktemp("shards"), TASK)[0]


def test_all_readers_show_the_wanted_frames_of_every_film_once(films, readers):
    truth = [
        benchmark.resized(np.load(benchmark.pixels_of(film))[TASK.wanted], TASK.size_px) for film in films
    ]
    for reader in readers:
        shown = dict((reader.wanted or reader.clips)())
        assert sorted(shown) == [0, 1], reader.name
        for film, clip in shown.items():
            distances = np.abs(clip.astype(float)[:, None] - truth[film][None]).mean((2, 3))
            assert distances.argmin(1).tolist() == [0, 1, 2]
            assert distances.diagonal().max() < 1.5, reader.name


def test_what_is_timed_is_one_epoch_of_training(readers):
    for reader in readers:
        clips = list(reader.clips())
        assert sorted(number for number, _ in clips) == [0, 1]
        assert {clip.shape for _, clip in clips} == {(3, 64, 64)}


def test_every_encoding_has_its_quality_and_its_plain_webdataset(readers):
    by_name = {reader.name: reader for reader in readers}
    for name, encoding in benchmark_readers.ENCODINGS.items():
        shards = by_name[f"shards, {name}"]
        assert by_name[shards.plain].stored_psnr_db == shards.stored_psnr_db
        assert shards.stored_psnr_db > 40
        assert (shards.stored_psnr_db == np.inf) == (
            encoding.type == "lossless" and encoding.short_side_px == 512
        )
    sizes = {name: by_name[f"shards, {name}"].bytes_per_clip for name in benchmark_readers.ENCODINGS}
    for side in ("512 px", "256 px"):
        assert sizes[f"JPEG q90, {side}"] < sizes[f"JPEG q95, {side}"] < sizes[f"lossless, {side}"]
    assert sizes["JPEG q90, 256 px"] < sizes["JPEG q90, 448 px (default)"] < sizes["JPEG q90, 512 px"]


def test_psnr_is_that_of_all_pixels_together():
    black = np.zeros((2, 4, 4))
    assert benchmark.psnr_db([(black, black + 255)]) == 0
    assert benchmark.psnr_db([(black, black + 2), (black, black)]) == pytest.approx(10 * np.log10(255**2 / 2))
    assert benchmark.psnr_db([(black, black)]) == np.inf


def test_the_table_has_ratios_to_the_first_to_h264_and_to_plain_webdataset():
    def result(name, rate, **more):
        reader = benchmark.Reader(name, lambda: iter(()), 2e6, **more)
        return benchmark.Result(reader, [rate, rate + 1, rate - 1], [rate], 45.0)

    results = [
        result("old", 4.0),
        result("passes", 8.0),
        result("plain", 110.0, stored_psnr_db=47.0),
        result("shards", 100.0, stored_psnr_db=47.0, plain="plain"),
    ]
    lines = benchmark.table(results, "old", "passes").splitlines()[2:]
    assert lines[3] == "| shards | 100.0 (101.0) | 100.0 | 25.0 | 12.5 | 0.91 | 2.00 | 47.0 | 45.0 |"
    assert lines[0] == "| old | 4.0 (5.0) | 4.0 | 1.0 | 0.5 |  | 2.00 |  | 45.0 |"


def test_torchcodec_without_ffmpeg_is_told_and_the_others_are_measured(films, monkeypatch):
    """It imports without: only a decoder that is made fails."""
    decoders = SimpleNamespace(VideoDecoder=object)
    monkeypatch.setitem(
        sys.modules, "torchcodec", SimpleNamespace(ffmpeg_major_version=None, decoders=decoders)
    )
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    readers, (note,) = benchmark_readers.container_readers(films, TASK)
    assert "not measured (FFmpeg's libraries are not there)" in note
    assert not [reader.name for reader in readers if "torchcodec" in reader.name]


def test_a_tiny_run_prints_versions_a_table_and_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    benchmark_data.main(
        ["--films", "1", "--film_frames", "6", "--frames", "2", "--size_px", "32", "--rounds", "1"]
    )
    printed = capsys.readouterr().out
    assert "1 films, 512 px, 6 frames -> 2 frames at 32 px" in printed and "load average" in printed
    assert printed.count("| shards") == printed.count("| webdataset") == len(benchmark_readers.ENCODINGS)
    assert "simplejpeg" in printed and "torchcodec is not measured" in printed
