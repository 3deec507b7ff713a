import pytest
import torch

from deepcoro.kernels import tiled_attention
from deepcoro.kernels.attention_kernels import Attended
from deepcoro.kernels.tiled_attention import tiled_backward, tiled_forward
from tests.kernels.attention_cases import make_case, relative_error, values_and_gradients


@pytest.mark.parametrize("tile", [1, 64 * 25 * 4, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tiles_of_any_size_give_the_same(monkeypatch, tile, dtype):
    case = make_case((2, 6, 7), (2, 3, 4)).to(dtype)
    expected = values_and_gradients(case, "flash")
    monkeypatch.setattr(tiled_attention, "TILE_BYTES", tile)
    found = values_and_gradients(case, "tiled")
    for name, truth in expected.items():
        assert relative_error(found[name], truth) < 1e-5, name


def test_scores_far_from_zero_lose_nothing_to_half_precision_once_centred():
    """A softmax does not see a common shift of a row, bfloat16 does: 100 and 100.25 are the same to it."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 2, 32, generator=generator, dtype=torch.float64) for n in (50, 40, 40))
    q[..., 31] = k[..., 31] = 0
    q[..., 30], k[..., 30] = 100.0, 1.0
    q, k, v = (each.bfloat16() for each in (q, k, v))
    scores = torch.einsum("bqnc,bknc->bnqk", q.double(), k.double())
    truth = torch.einsum("bnqk,bknc->bqnc", scores.softmax(-1), v.double())
    rounded = torch.einsum("bnqk,bknc->bqnc", scores.bfloat16().softmax(-1), v)
    assert relative_error(rounded, truth) > 0.04
    assert relative_error(tiled_forward(q, k, v).out, truth) < 0.004


def test_backward_needs_neither_result_nor_log_sum_exp():
    q, k, v = (torch.randn(1, n, 2, 16) for n in (20, 10, 10))
    attended = tiled_forward(q, k, v)
    assert attended.logsumexp is None
    by_out = torch.randn_like(attended.out)
    nothing = Attended(None, None)
    for one, other in zip(
        tiled_backward(by_out, q, k, v, attended), tiled_backward(by_out, q, k, v, nothing), strict=True
    ):
        assert torch.equal(one, other)
