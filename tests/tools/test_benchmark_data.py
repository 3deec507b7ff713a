import numpy as np
import pytest

pytest.importorskip("cv2", reason="the predecessor's way needs opencv-python-headless (extra: test)")

from deepcoro.data import benchmark  # noqa: E402
from tools import benchmark_data  # noqa: E402


def test_all_readers_show_the_same_frames_of_the_same_film(tmp_path):
    task = benchmark.Task(film_frames=9, frames=3, size_px=64)
    films = benchmark.make_films(tmp_path / "films", 2, task.film_frames)
    each = benchmark.readers(films, tmp_path / "shards", task)
    for film in range(2):
        clips = [reader.read(film).astype(float) for reader in each]
        assert {clip.shape for clip in clips} == {(3, 64, 64)}
        for clip in clips:
            distances = np.abs(clip[:, None] - clips[0][None]).mean((2, 3))
            assert distances.argmin(1).tolist() == [0, 1, 2]
            assert distances.diagonal().max() < 1.5


def test_the_table_has_a_line_for_every_reader_and_ratios_to_the_first_and_to_h264():
    names = ["AVI, OpenCV, all frames to float32", "H.264, PyAV, one pass", "shards"]
    results = [
        benchmark.Result(name, rate, rate, 2e6, 0.5)
        for name, rate in zip(names, (4.0, 8.0, 100.0), strict=True)
    ]
    lines = benchmark.table(results).splitlines()[2:]
    assert lines[2] == "| shards | 100.0 | 100.0 | 25.0 | 12.5 | 2.00 | 0.50 |"
    assert lines[0].split("|")[4:6] == [" 1.0 ", " 0.5 "]


def test_a_tiny_run_prints_versions_and_a_table(capsys):
    benchmark_data.main(
        ["--films", "1", "--film_frames", "6", "--frames", "2", "--size_px", "32", "--rounds", "1"]
    )
    printed = capsys.readouterr().out
    assert "1 films, 512 px, 6 frames -> 2 frames at 32 px" in printed
    assert printed.count("| shards") == 3 and "| AVI, OpenCV" in printed
    assert "simplejpeg" in printed
