import pytest
import torch
from torch.nn import functional

from deepcoro.kernels.fused_cross_entropy import LinearCrossEntropy
from deepcoro.live_bytes import LiveBytes
from tests.ranks import Ranks

TOKENS, WORDS, DIM = 23, 11, 6


def draw(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Hidden states, weight, bias (leaves) and targets, of which some are ignored."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((TOKENS, DIM), (WORDS, DIM), (WORDS,))
    leaves = [
        torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for shape in shapes
    ]
    targets = torch.randint(WORDS, (TOKENS,), generator=generator)
    targets[[0, 5, 6, 22]] = -100
    return *leaves, targets


def oracle(hidden, weight, targets, bias=None, smoothing=0.0, reduction="mean"):
    logits = functional.linear(hidden, weight, bias)
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction=reduction)


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 23, 100, None])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_logits(rows_per_chunk, smoothing, with_bias):
    hidden, weight, bias, targets = draw()
    leaves = [hidden, weight, bias] if with_bias else [hidden, weight]
    fused = LinearCrossEntropy(label_smoothing=smoothing, rows_per_chunk=rows_per_chunk)
    given = bias if with_bias else None
    got = fused(hidden, weight, targets, given)
    wanted = oracle(hidden, weight, targets, given, smoothing)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(3 * got, leaves), torch.autograd.grad(3 * wanted, leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_rows_whose_target_is_foremost_are_counted():
    hidden, weight, bias, targets = draw()
    for size in (None, 4):
        total, hits = LinearCrossEntropy(rows_per_chunk=size).sum_and_hits(hidden, weight, targets, bias)
        logits, counts = functional.linear(hidden, weight, bias), targets != -100
        assert hits.item() == (logits.argmax(1) == targets)[counts].sum() > 0 and not hits.requires_grad
        torch.testing.assert_close(total, oracle(hidden, weight, targets, bias, reduction="sum"))


def test_finite_differences_agree():
    hidden, weight, bias, targets = draw()
    fused = LinearCrossEntropy(label_smoothing=0.2, rows_per_chunk=5)
    assert torch.autograd.gradcheck(
        lambda *leaves: fused(*leaves[:2], targets, leaves[2]), (hidden, weight, bias)
    )


def test_another_index_may_be_ignored():
    hidden, weight, _, targets = draw()
    padded = targets.masked_fill(targets == -100, 0)
    got = LinearCrossEntropy(ignore_index=0)(hidden, weight, padded)
    logits = functional.linear(hidden, weight)
    torch.testing.assert_close(got, functional.cross_entropy(logits, padded, ignore_index=0))


def test_the_divisor_may_come_from_outside():
    hidden, weight, _, targets = draw()
    total = oracle(hidden, weight, targets, reduction="sum")
    fused = LinearCrossEntropy()
    torch.testing.assert_close(fused(hidden, weight, targets, normaliser=1), total)
    torch.testing.assert_close(fused(hidden, weight, targets, normaliser=torch.tensor(40)), total / 40)


@pytest.mark.parametrize("num_rows", [0, 4])
def test_nothing_to_predict_is_a_zero_that_moves_nothing(num_rows):
    hidden, weight, bias, _ = draw()
    targets = torch.full((num_rows,), -100)
    loss = LinearCrossEntropy()(hidden[:num_rows], weight, targets, bias)
    loss.backward()
    assert loss.item() == 0
    for leaf in (hidden, weight, bias):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_what_padding_holds_reaches_neither_loss_nor_gradient():
    hidden, weight, bias, targets = draw()
    dirty = hidden.detach().clone()
    dirty[targets == -100] = torch.nan
    dirty.requires_grad_()
    clean_loss, dirty_loss = (LinearCrossEntropy()(each, weight, targets, bias) for each in (hidden, dirty))
    torch.testing.assert_close(dirty_loss, clean_loss)
    gradients = [
        torch.autograd.grad(loss, [leaf, weight, bias])
        for loss, leaf in ((clean_loss, hidden), (dirty_loss, dirty))
    ]
    torch.testing.assert_close(*gradients)


def test_large_logits_do_not_overflow():
    hidden, weight, _, targets = draw(torch.float32)
    got = LinearCrossEntropy()(hidden * 1e3, weight, targets)
    torch.testing.assert_close(got, oracle(hidden * 1e3, weight, targets))


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_states_have_fp32_logits_and_sums(weight_dtype, autocast):
    hidden, weight, bias, targets = draw(torch.bfloat16)
    weight = weight.detach().to(weight_dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = LinearCrossEntropy(rows_per_chunk=5)(hidden, weight, targets, bias)
    wide = [each.detach().double().requires_grad_() for each in (hidden, weight, bias)]
    wanted = oracle(wide[0], wide[1], targets, wide[2])
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
    gradients = torch.autograd.grad(got, [hidden, weight, bias])
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted, wide), strict=True):
        tolerance = 1e-5 if mine.dtype == torch.float32 else 2**-7
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max())
    assert [each.dtype for each in gradients] == [torch.bfloat16, weight_dtype, torch.bfloat16]


def test_frozen_tensors_get_no_gradient():
    hidden, weight, bias, targets = draw()
    loss = LinearCrossEntropy()(hidden, weight.detach(), targets, bias.detach())
    loss.backward()
    assert hidden.grad is not None
    with torch.no_grad():
        assert not LinearCrossEntropy()(hidden, weight, targets).requires_grad


def test_the_logits_are_never_there_at_once():
    """Peak of live bytes: the gradients and one chunk of logits, at 1,024 tokens and 2,048 words."""
    tokens, words, dim, rows = 1024, 2048, 32, 64
    hidden, weight = torch.randn(tokens, dim, requires_grad=True), torch.randn(words, dim, requires_grad=True)
    targets = torch.randint(words, (tokens,))
    with LiveBytes() as live:
        LinearCrossEntropy(rows_per_chunk=rows)(hidden, weight, targets)
    chunk, gradients = 4 * rows * words, 4 * (tokens + words) * dim
    assert live.largest == chunk
    assert chunk + gradients <= live.peak <= 1.1 * (chunk + gradients)
    with LiveBytes() as plain:
        oracle(hidden, weight, targets).backward()
    assert plain.peak >= 2 * 4 * tokens * words
    assert live.peak < plain.peak / 10


def test_without_gradient_only_a_chunk_is_held():
    hidden, weight, targets = torch.randn(512, 16), torch.randn(1024, 16), torch.randint(1024, (512,))
    with LiveBytes() as live, torch.no_grad():
        LinearCrossEntropy(rows_per_chunk=32)(hidden, weight, targets)
    assert live.peak <= 1.1 * 4 * 32 * 1024


def share_of_rank(rank: int, bounds: list[int]) -> list[torch.Tensor]:
    """A rank's rows with the global count; loss and gradients averaged over ranks, as data-parallel training does."""
    hidden, weight, bias, targets = draw()
    mine = slice(bounds[rank], bounds[rank + 1])
    ranks = torch.distributed.get_world_size()
    count = (targets != -100).sum() / ranks
    loss = LinearCrossEntropy(rows_per_chunk=4)(hidden[mine], weight, targets[mine], bias, count)
    values = [loss.detach(), *torch.autograd.grad(loss, [weight, bias])]
    for value in values:
        torch.distributed.all_reduce(value)
        value /= ranks
    return values


def test_uneven_ranks_with_the_global_count_are_one_process(two_ranks: Ranks):
    hidden, weight, bias, targets = draw()
    loss = oracle(hidden, weight, targets, bias)
    wanted = [loss.detach(), *torch.autograd.grad(loss, [weight, bias])]
    for got in two_ranks.run(share_of_rank, [0, 6, TOKENS]):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"label_smoothing": 1.5}, "not between 0 and 1"), ({"rows_per_chunk": 0}, "at least one")],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LinearCrossEntropy(**settings)


@pytest.mark.gpu
def test_on_a_gpu_bf16_products_are_summed_in_fp32():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    hidden, weight, bias, targets = (each.detach().cuda() for each in draw(torch.bfloat16))
    leaves = [each.requires_grad_() for each in (hidden, weight, bias)]
    got = LinearCrossEntropy(rows_per_chunk=5)(hidden, weight, targets, bias)
    wanted = oracle(hidden.double(), weight.double(), targets, bias.double())
    assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
    for mine, theirs in zip(
        torch.autograd.grad(got, leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=2**-6, atol=2**-6)
