"""Which choices there are, which fits, and what is said of it."""

import pytest
import yaml

from deepcoro.config import ConfigError, find_config
from deepcoro.planning.activations import Activations, Parameters
from deepcoro.planning.sheet import Task, about, as_markdown, as_table, hours, speed, summary
from deepcoro.planning.speed import step_time
from deepcoro.planning.table import (
    WAYS,
    Plan,
    command,
    engines_for,
    faster,
    in_way,
    launch_file,
    micro_batches,
)
from deepcoro.planning.traffic import Machine
from deepcoro.run_config import RunConfig, load_run_config
from tests.launch import ROOT

SIZES = Parameters(144_000_000, 56_000_000, (35_000_000, 21_000_000), 2_000_000, 0, 500_000)
KEPT_GB = dict(zip(WAYS, (16.0, 11.0, 6.0, 4.5), strict=True))
PRODUCTS = dict(zip(WAYS, (1.0, 1.08, 1.2, 1.2), strict=True))


def base_config(*words: str) -> RunConfig:
    return load_run_config(find_config("clip/base_config"), list(words))


def work(way: str, rows: int) -> Activations:
    kept = int(KEPT_GB[way] * 1e9 * rows / 32)
    return Activations(0, kept, kept, kept, int(16e12 * PRODUCTS[way] * rows / 32))


def plan(gpus: int, memory_gb: float, nodes: int = 1, config: RunConfig | None = None) -> Plan:
    """Of numbers that nobody measured."""
    config = config or base_config()
    known = {
        way: (SIZES, {rows: work(way, rows) for rows in micro_batches(config.batch_size)}) for way in WAYS
    }
    return Plan(config, Machine(gpus, nodes), float(memory_gb), measured_of=known)


def test_the_plainest_of_what_fits_and_is_fastest_is_taken() -> None:
    best = plan(8, 80).best()
    assert (best.engine, best.way, best.micro_batch) == ("ddp", "none", 32)
    assert speed(plan(8, 80), best) == pytest.approx(1)


def test_in_less_memory_recomputation_comes_before_accumulation() -> None:
    best = plan(1, 9).best()
    assert (best.engine, best.way, best.micro_batch) == ("ddp", "blocks", 32)
    assert best.need_gb <= 9
    assert command(best, plan(1, 9), "clip/base_config", ["data.shards=shards/mine"]) == (
        "accelerate launch --config_file accelerate_configs/single_gpu.yaml train.py clip/base_config "
        "data.shards=shards/mine towers.video.activation_checkpointing=blocks"
    )


def test_accumulation_keeps_the_samples_of_a_step() -> None:
    tight = plan(1, 4.5)
    best = tight.best()
    assert best.micro_batch * best.micro_steps == 32 > best.micro_batch
    assert f"batch_size={best.micro_batch} gradient_accumulation_steps={best.micro_steps}" in command(
        best, tight, "clip/base_config", []
    )


def test_the_negatives_of_accumulated_steps_cost_a_forward_pass() -> None:
    whole, cut = (plan(1, 80).choice("ddp", "none", rows).time.compute for rows in (32, 16))
    assert cut / whole == pytest.approx(4 / 3)
    own = plan(1, 80, config=base_config("gradient_cache=false"))
    assert own.choice("ddp", "none", 16).time.compute == pytest.approx(whole)


def test_a_small_micro_step_takes_as_long_as_its_host_needs_to_issue_it() -> None:
    machine = Machine(1, tflops=100.0, launch_us=50.0)
    large, small = Activations(0, 1, 1, 1, 10**13, 1000), Activations(0, 1, 1, 1, 10**12, 1000)
    assert step_time("ddp", machine, SIZES, large).compute == pytest.approx(0.1)
    assert step_time("ddp", machine, SIZES, small).compute == pytest.approx(0.05)
    assert step_time("ddp", machine, SIZES, small, 2, repeats_towers=False).compute == pytest.approx(0.1)


def test_where_nothing_fits_the_error_names_what_is_least_and_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"nothing fits in 1 GB a GPU: the least is \d") as error:
        plan(8, 1).best()
    for remedy in ("larger GPUs", "data.fields.video.frames=16", "clips_per_chunk", "towers.video.variant"):
        assert remedy in str(error.value)


@pytest.mark.parametrize(("gpus", "nodes"), [(1, 1), (8, 1), (64, 8)])
def test_every_choice_has_a_launch_file_of_its_engine(gpus: int, nodes: int) -> None:
    machine = Machine(gpus, nodes)
    for engine in engines_for(machine):
        path = ROOT / "accelerate_configs" / f"{launch_file(engine, machine)}.yaml"
        settings = yaml.safe_load(path.read_text())
        file = settings.get("deepspeed_config", {}).get("deepspeed_config_file", "ds_configs/ddp.json")
        assert file == f"ds_configs/{engine}.json"
        assert (settings["num_machines"] > 1) == (nodes > 1)


def test_a_way_is_said_in_the_towers_own_words() -> None:
    video = in_way(base_config(), "blocks + bf16 stream").towers.video
    assert (video.activation_checkpointing, video.residual) == ("blocks", "bf16")
    assert in_way(base_config(), "none").towers.video == base_config().towers.video


def test_offloading_takes_time_that_more_gpus_share() -> None:
    one, eight = (step_time("zero2_offload", Machine(gpus), SIZES, work("none", 32)).host for gpus in (1, 8))
    assert one > 0
    assert one == pytest.approx(8 * eight)


def test_a_measured_rate_makes_the_hours_those_of_the_machine() -> None:
    own = plan(8, 80)
    own.machine = faster(own.machine, own.choices()[0], 40.0)
    assert hours(own, own.choices()[0], Task(films=8 * 40 * 3600, epochs=1.0)) == pytest.approx(1, rel=1e-6)


def test_table_and_lines_say_what_fits() -> None:
    own = plan(8, 12)
    assert as_table(own).row_count == len(engines_for(own.machine)) * len(WAYS)
    lines = as_markdown(own).splitlines()
    assert lines[2].startswith("| ddp | none | (")  # in brackets: it does not fit
    text = "\n".join(about(own, own.best(), Task(films=100_000, epochs=2.0)))
    for word in ("of 12 GB", "films/s", "hours", "MB/s", "a checkpoint is 1.02 GB"):
        assert word in text
    needs = own.best().need_gb
    assert f"should tell {(needs - 1) / 1.05:.1f} GB; of the card {needs:.1f} GB" in text
    assert "nothing fits" in summary([own, plan(8, 1)], Task(1, 1.0)).splitlines()[-1]
