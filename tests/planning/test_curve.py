"""The curve from 1 to 256 GPUs says what the engine's formulas say."""

import pytest

from deepcoro.planning.activations import Activations, Parameters
from deepcoro.planning.curve import (
    COUNTS,
    Curve,
    checkpoint_line,
    drawing,
    efficiency_table,
    run_table,
    switch_table,
    traffic_table,
)
from deepcoro.planning.sheet import Task
from deepcoro.planning.traffic import Machine, traffic_bytes

SIZES = Parameters(144_000_000, 56_000_000, (35_000_000, 21_000_000), 2_000_000, 0, 500_000)
CURVE = Curve(Machine(1, tflops=100.0), SIZES, Activations(0, 15 * 10**9, 15 * 10**9, 15 * 10**9, 10**13), 32)


def test_gpus_fill_their_nodes() -> None:
    assert [(CURVE.on(gpus).gpus, CURVE.on(gpus).nodes) for gpus in (1, 8, 16, 256)] == [
        *((1, 1), (8, 1), (16, 2), (256, 32))
    ]


def test_what_is_sent_is_what_traffic_says() -> None:
    for engine in ("ddp", "zero2", "zero3"):
        assert CURVE.sent_gb(engine, 64) == pytest.approx(sum(traffic_bytes(engine, 64, SIZES)) / 1e9)
    assert CURVE.sent_gb("zero3", 1) == 0


def test_traffic_shows_where_a_micro_step_is_shorter_than_it() -> None:
    fewest = CURVE.fewest_films("ddp", 64)
    shorter = Curve(CURVE.machine, SIZES, Activations(0, 1, 1, 1, round(10**13 * fewest / 32)), 1)
    time = shorter.time("ddp", 64)
    assert time.compute == pytest.approx(time.hidden_traffic, rel=1e-6)


def test_ddp_that_hides_its_traffic_costs_the_same_gpu_hours_on_any_number() -> None:
    task = Task(films=200_000, epochs=20.0)
    assert CURVE.efficiency("ddp", 256) == pytest.approx(1)
    assert 256 * CURVE.hours("ddp", 256, task) == pytest.approx(CURVE.hours("ddp", 1, task))
    assert CURVE.hours("ddp", 1, task) == pytest.approx(200_000 * 20 / 32 * 0.1 / 3600)
    assert CURVE.efficiency("zero2", 256) < 1  # its weights are gathered after the step


def test_tables_have_a_column_for_each_number_of_gpus() -> None:
    task = Task(films=1000, epochs=1.0)
    tables = (traffic_table(CURVE), efficiency_table(CURVE), switch_table(CURVE), run_table(CURVE, task, 512))
    for table in tables:
        assert {line.count("|") for line in table.splitlines()} == {len(COUNTS) + 2}
    assert "contrastive" in tables[-1]
    assert "contrastive" not in run_table(CURVE, task, None)
    assert "A checkpoint is 1.02 GB" in checkpoint_line(CURVE, 0.5)
    assert "2.0 s" in checkpoint_line(CURVE, 0.5)


def test_it_is_drawn_small() -> None:
    svg = drawing(CURVE)
    assert svg.startswith("<svg") and "zero3_hpz" in svg
    assert len(svg) < 200_000
