"""The latency of a study on films and a model as small as they come: a line a model and syntax, nothing skipped."""

import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.inference.latency import Seconds, Study, children_cpu_s, row_of, write_study
from tests.tools.command import load_tool


def test_a_generated_study_has_the_films_asked_for_in_the_syntax_asked_for(tmp_path: Path) -> None:
    size = write_study(tmp_path, Study(films=3, frames=4, size_px=64, syntax="rle"))
    headers = [pydicom.dcmread(path) for path in sorted(tmp_path.rglob("*.dcm"))]
    assert [(each.NumberOfFrames, each.Rows, each.Columns) for each in headers] == [(4, 64, 64)] * 3
    assert {each.file_meta.TransferSyntaxUID.name for each in headers} == {"RLE Lossless"}
    assert len({each.StudyInstanceUID for each in headers}) == 1
    assert size == sum(path.stat().st_size for path in tmp_path.rglob("*.dcm"))
    with pytest.raises(ConfigError, match="ask for fewer"):
        write_study(tmp_path / "many", Study(films=100, frames=4, size_px=64))


def test_a_line_has_medians_and_the_share_of_decoding() -> None:
    times = [Seconds(4.0, 1.0, 2.0, 3.0), Seconds(2.0, 1.0, 2.5, 3.0), Seconds(9.0, 9.0, 9.0, 9.0)]
    assert row_of("tiny", "rle", times) == "| tiny | rle | 4.00 | 1.00 | 25% | 3.00 | 2.50 |"


def test_process_time_of_children_is_counted_while_they_are_there() -> None:
    busy = "while True: pass"
    child = subprocess.Popen([sys.executable, "-c", busy])
    try:
        while children_cpu_s() < 0.05:
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()


@pytest.mark.slow
def test_the_tool_times_every_model_and_syntax(capsys) -> None:
    words = "--films 2 --frames 6 --size_px 128 --syntaxes rle j2k --models tiny --workers 1 --repeats 1"
    assert load_tool("benchmark_inference").main(words.split()) == 0
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| tiny")]
    assert ["rle" in rows[0], "j2k" in rows[1], len(rows)] == [True, True, 2]
    assert "2 films of 6 x 128 px" in said


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_tool_runs_on_the_device(capsys) -> None:
    words = "--films 2 --frames 6 --size_px 128 --syntaxes rle --models mvit_v2_s --workers 1 --repeats 1 --device cuda"
    assert load_tool("benchmark_inference").main(words.split()) == 0
    assert "| mvit_v2_s | rle" in capsys.readouterr().out
