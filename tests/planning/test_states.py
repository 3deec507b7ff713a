"""The peak that is foretold for a rank, against the bytes that are alive in real runs of one and of two processes."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepcoro import train
from deepcoro.config import find_config
from deepcoro.engine import start_accelerator
from deepcoro.live_bytes import LiveBytes
from deepcoro.planning.activations import Activations, Parameters, Subject
from deepcoro.planning.states import Buffers, Peak, Rank, peak_of
from deepcoro.run_config import RunConfig, load_run_config
from tests.launch import STEADY, as_launched, tiny
from tests.ranks import Ranks
from tests.test_engine import engine_step

# Texts of one length and words of a known number: those of real reports are only known when they are read. Wide enough that
# weights outweigh the activations.
SIZED = (
    *STEADY,
    *("data.fields.report.max_tokens=16", "towers.text.from_scratch.vocabulary_size=200"),
    *("towers.text.from_scratch.hidden_size=128", "towers.text.from_scratch.layers=3", "batch_size=4"),
)
# As shipped the buckets would outweigh the whole tiny model.
BUFFERS = Buffers(reduce_bucket=200_000, max_live_parameters=400_000)
AS_BUFFERS = {
    "reduce_bucket_size": BUFFERS.reduce_bucket,
    "allgather_bucket_size": BUFFERS.reduce_bucket,
    "stage3_prefetch_bucket_size": BUFFERS.reduce_bucket,
    "stage3_max_live_parameters": BUFFERS.max_live_parameters,
    "stage3_max_reuse_distance": BUFFERS.max_live_parameters,
}
ENGINES = ("ddp", "zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_whole", "zero3_offload")


def config_of(shards: Path | str, run_dir: Path | str, *words: str) -> RunConfig:
    name, *overrides = tiny(shards, run_dir, *SIZED, *words)
    return load_run_config(find_config(name), overrides)


def live_peak(rank: int, engine: str, shards: Path, run_dir: Path, *words: str) -> tuple[int, int]:
    """Bytes between steps and the most of three steps, of a rank and its host together."""
    config = config_of(shards, run_dir, *words)
    zero = AS_BUFFERS if engine.startswith("zero") else {}
    with as_launched(engine, **zero), LiveBytes() as live:
        training = train._prepare(config, start_accelerator(config))
        gc.collect()
        live.peak = live.now
        batches, gone = iter(training.stream), _already_free()
        for _ in range(3):
            engine_step(training, [next(batches)])
        found = live.now - gone, live.peak - gone
    training.engine.release()
    return found


def _already_free() -> int:
    """Bytes that a weak reference of torch.distributed still names and nothing holds."""
    storages = (each for each in gc.get_objects() if isinstance(each, torch.UntypedStorage))
    return sum(each.nbytes() for each in storages if each.data_ptr() == 0)


def foretold(engine: str, world_size: int, measured: tuple[Parameters, Activations]) -> Peak:
    sizes, work = measured
    if engine == "zero3_whole":
        sizes = replace(sizes, small=0)
    if not engine.startswith("zero"):
        return peak_of("ddp", Rank(world_size, "cpu"), sizes, work)
    return peak_of(engine.removesuffix("_whole"), Rank(world_size, "cpu", BUFFERS), sizes, work)


@pytest.fixture(scope="module")
def measured() -> tuple[Parameters, Activations]:
    subject = Subject(config_of("nowhere", "nowhere"), "cpu")
    return subject.parameters, subject.measure(4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_peak_of_two_ranks_is_foretold_within_a_tenth(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, measured: tuple[Parameters, Activations], engine: str
) -> None:
    peak = foretold(engine, 2, measured)
    for idle, most in two_ranks.run(live_peak, engine, tiny_shards, tmp_path):
        assert peak.idle + peak.host == pytest.approx(idle, rel=0.02)
        assert peak.bytes + peak.host == pytest.approx(most, rel=0.1)


@pytest.fixture(scope="module")
def one_rank() -> Iterator[Ranks]:
    ranks = Ranks(1)
    yield ranks
    ranks.end()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3_whole"])
def test_the_peak_of_one_process_is_foretold_within_a_tenth(
    tiny_shards: Path, one_rank: Ranks, tmp_path: Path, measured: tuple[Parameters, Activations], engine: str
) -> None:
    peak = foretold(engine, 1, measured)
    ((idle, most),) = one_rank.run(live_peak, engine, tiny_shards, tmp_path)
    assert peak.idle == pytest.approx(idle, rel=0.02)
    assert peak.bytes == pytest.approx(most, rel=0.1)


SWITCHES = {
    "averages": ("ema.decay=0.99",),
    "selective": ("towers.video.activation_checkpointing=selective",),
    "studies, blocks": (
        *("data.multi_video=true", "data.num_videos=2", "clips_per_chunk=4"),
        "towers.video.activation_checkpointing=blocks",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_so_is_that_of_other_switches(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, switch: str, engine: str
) -> None:
    subject = Subject(config_of("nowhere", "nowhere", *SWITCHES[switch]), "cpu")
    peak = foretold(engine, 2, (subject.parameters, subject.measure(4)))
    for _, most in two_ranks.run(live_peak, engine, tiny_shards, tmp_path, *SWITCHES[switch]):
        assert peak.bytes == pytest.approx(most, rel=0.1)


SIZES = Parameters(
    all=144_000_000,
    trained=56_000_000,
    groups=(35_000_000, 21_000_000),
    largest_tensor=2_000_000,
    buffer_bytes=0,
    small=500_000,
)
WORK = Activations(25_000_000, 15_000_000_000, 15_200_000_000, 15_300_000_000)


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_more_ranks_never_need_more_of_each(engine: str) -> None:
    peaks = [peak_of(engine, Rank(world_size), SIZES, WORK) for world_size in (1, 2, 8, 64)]
    assert all(more.idle < fewer.idle for fewer, more in zip(peaks, peaks[1:], strict=False))


def test_averages_take_one_more_number_a_trained_parameter_divided_as_moments_are() -> None:
    averaged = replace(SIZES, averaged=SIZES.trained)

    def more(engine: str) -> int:
        plain, kept = (peak_of(engine, Rank(4), sizes, WORK) for sizes in (SIZES, averaged))
        assert kept.bytes - plain.bytes == kept.idle - plain.idle
        return kept.idle + kept.host - plain.idle - plain.host

    assert more("ddp") == more("zero0") == 4 * SIZES.trained
    divided = ("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
    assert [more(engine) for engine in divided] == [SIZES.trained] * 5
    assert averaged.checkpoint_bytes - SIZES.checkpoint_bytes == 4 * SIZES.trained


def test_offloading_moves_states_to_the_host_and_off_the_device() -> None:
    for engine in ("zero2", "zero3"):
        own, moved = (peak_of(name, Rank(4), SIZES, WORK) for name in (engine, f"{engine}_offload"))
        assert moved.idle < own.idle
        assert moved.host > 0 == own.host
