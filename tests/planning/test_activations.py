"""A step that is only pretended takes the bytes of a real one; and the lines by which larger batches are foretold are lines."""

import pytest
import torch
from torch.nn import functional

from deepcoro.config import find_config
from deepcoro.kernels import attention_layout
from deepcoro.live_bytes import LiveBytes
from deepcoro.model import to_device
from deepcoro.planning.activations import Activations, Subject, measured
from deepcoro.planning.example import make_batch, make_model, make_tokenizer, without_files
from deepcoro.planning.pretend import Kind, pretended
from deepcoro.run_config import RunConfig, load_run_config

STEADY = ("towers.text.from_scratch.dropout=0.0",)


def config_of(name: str, *words: str) -> RunConfig:
    return load_run_config(find_config(name), [*STEADY, *words])


def really(config: RunConfig, subject: Subject, rows: int) -> Activations:
    """The same step with numbers."""
    config = without_files(config)
    tokenizer = make_tokenizer(config)
    torch.manual_seed(0)
    model = make_model(config, tokenizer)
    subject.enter(model)
    return measured(model, make_batch(config, tokenizer, rows), subject.phase.active)


STUDIES = ("towers.video.activation_checkpointing=blocks", "data.multi_video=true", "clips_per_chunk=3")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), marks=pytest.mark.slow),
        ("towers.video.activation_checkpointing=selective", "precision=bf16"),
        pytest.param(STUDIES, marks=pytest.mark.slow),
    ],
)
def test_a_pretended_step_takes_the_bytes_of_a_real_one(words: tuple[str, ...]) -> None:
    config = config_of("demo/tiny", *words)
    subject = Subject(config, "cpu")
    pretended, real = subject.measure(3), really(config, subject, 3)
    for name in ("batch", "kept", "beside_gradients", "with_gradients"):
        assert getattr(pretended, name) == pytest.approx(getattr(real, name), rel=0.05), name


@pytest.mark.slow
def test_so_does_one_of_every_objective_at_once() -> None:
    config = config_of("demo/tiny_multitask")
    subject = Subject(config, "cpu")
    assert subject.phase.active == ("contrastive", "captioning", "masked_modeling")
    pretended, real = subject.measure(3), really(config, subject, 3)
    for name in ("kept", "with_gradients"):
        assert getattr(pretended, name) == pytest.approx(getattr(real, name), rel=0.1), name


def test_a_step_is_pretended_on_cuda_where_there_is_none() -> None:
    config = config_of("demo/tiny", "precision=bf16", "towers.video.activation_checkpointing=selective")
    found = Subject(config, "cuda").measure(2)
    assert found.with_gradients > found.kept > found.batch > 0
    assert found.flops > 0


def kept_by_attention(device: str, dropout: float) -> int:
    """Bytes, for heads of 16 channels of two texts of 128 tokens, that attention with a mask keeps for backward."""
    with pretended(device, Kind()), LiveBytes() as live:
        q, k, v = (torch.empty(2, 4, 128, 16, requires_grad=True) for _ in range(3))
        mask = torch.empty(2, 1, 128, 128, dtype=torch.bool)
        before = live.now
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        kept = live.now - before
        del attended
        return kept


def test_attention_with_dropout_keeps_no_matrix_on_cuda_as_its_kernels_do_not() -> None:
    matrix = 4 * 2 * 4 * 128 * 128
    assert kept_by_attention("cuda", 0.1) == kept_by_attention("cuda", 0.0) < matrix
    assert kept_by_attention("cpu", 0.1) > 2 * matrix


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: holds the planner against its allocator"
)
@pytest.mark.parametrize("checkpointing", ["none", "selective", "blocks"])
def test_a_step_pretended_on_cuda_takes_the_bytes_of_its_allocator(checkpointing: str) -> None:
    """MViTv2-S over 16 x 224 px and a BERT of base size, texts at their longest."""
    words = ("precision=bf16", f"towers.video.activation_checkpointing={checkpointing}")
    config = without_files(load_run_config(find_config("clip/base_config"), list(words)))
    subject = Subject(config, "cuda")
    foretold = subject.measure(8)
    tokenizer = make_tokenizer(config)
    model = make_model(config, tokenizer).cuda()
    subject.enter(model)
    batch = to_device(make_batch(config, tokenizer, 8), torch.device("cuda"))
    for _ in range(2):  # the first step also checks kernels
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        measured(model, batch, subject.phase.active)
        peak = torch.cuda.max_memory_allocated() - before
    assert foretold.with_gradients == pytest.approx(peak, rel=0.05)


def test_what_is_made_again_is_counted_in_flops_and_saves_bytes() -> None:
    found = {
        name: Subject(
            config_of("demo/tiny", f"towers.video.activation_checkpointing={name}"), "cuda"
        ).measure(4)
        for name in ("none", "blocks")
    }
    assert found["blocks"].kept < 0.7 * found["none"].kept
    assert 1.05 < found["blocks"].flops / found["none"].flops < 4 / 3


def test_kernels_are_as_many_for_any_number_of_films_and_more_for_every_chunk() -> None:
    whole = Subject(config_of("demo/tiny"), "cuda")
    one, two = whole.measure(2).launches, whole.measure(4).launches
    assert 300 < one == pytest.approx(two, rel=0.02)
    assert Subject(config_of("demo/tiny", "clips_per_chunk=1"), "cuda").measure(4).launches > 2 * two


def test_nothing_pretended_is_remembered() -> None:
    Subject(config_of("demo/tiny"), "cuda").measure(1)
    cells = attention_layout._all_cells((2, 2, 2), torch.device("cpu"))
    assert cells.tolist()[0][-1] == [1, 1, 1]


def test_larger_batches_lie_on_the_line_through_two_measurements() -> None:
    small, large = Activations(10, 100, 130, 150, 7), Activations(20, 200, 240, 250, 14)
    assert small.at(8, large, 2, 4) == Activations(40, 400, 460, 450, 28)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "selective", "blocks"])
def test_a_pretended_step_at_full_size_takes_the_bytes_of_a_real_one(checkpointing: str) -> None:
    """MViTv2-S over 16 x 224 px and a BERT of base size with random weights."""
    words = ("precision=bf16", f"towers.video.activation_checkpointing={checkpointing}")
    config = load_run_config(find_config("clip/base_config"), list(words))
    subject = Subject(config, "cpu")
    pretended, real = subject.measure(2), really(config, subject, 2)
    for name in ("kept", "beside_gradients", "with_gradients"):
        assert getattr(pretended, name) == pytest.approx(getattr(real, name), rel=0.1), name
