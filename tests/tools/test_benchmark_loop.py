"""The benchmark of the loop: both loops train alike, and the table says what they took."""

from pathlib import Path

import pytest

from deepcoro.config import ConfigError
from tests.launch import CONSTANT_LR, STEADY, as_launched
from tools.benchmark_loop import main


@pytest.mark.slow
def test_both_loops_train_alike_and_are_timed_in_turns(
    tiny_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "demo/tiny",
        f"data.shards={tiny_shards}",
        *STEADY,
        *CONSTANT_LR,
        "--blocks",
        "3",
        "--steps",
        "2",
    ]
    with as_launched("ddp"):
        ours, bares = main(words)
    assert len(bares) == 8
    assert ours[:8] == pytest.approx(bares, rel=1e-5)
    rows = [
        line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| the")
    ]
    assert [row[0].strip() for row in rows] == ["the clock", "the process"]
    assert all(float(row[1]) > 0 and float(row[3]) > 0 for row in rows)


def test_what_the_bare_loop_does_not_know_is_refused(tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match="knows no gradient_accumulation_steps"):
        main(["demo/tiny", f"data.shards={tiny_shards}", "gradient_accumulation_steps=2"])
