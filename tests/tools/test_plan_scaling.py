"""tools/plan_scaling.py, as a user calls it."""

from pathlib import Path

import pytest

from tools import plan_scaling


def test_it_prints_tables_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = (
        "batch_size=2",
        "data.fields.report.max_tokens=16",
        "towers.text.from_scratch.vocabulary_size=200",
    )
    picture = tmp_path / "curve.svg"
    assert plan_scaling.main(["demo/tiny", "--epochs", "3", "--svg", str(picture), *words]) == 0
    out = capsys.readouterr().out
    assert "200000 films x 3 epochs under DDP" in out
    assert "| zero3_plus_plus |" in out
    assert picture.read_text().startswith("<svg")


def test_a_key_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert plan_scaling.main(["demo/tiny", "batch_sice=2"]) == 2
    assert "batch_size" in capsys.readouterr().err
