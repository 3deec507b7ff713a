import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepcoro.kernels import norm_mlp
from deepcoro.kernels.norm_linear import ReadNorm
from deepcoro.kernels.norm_mlp import NormMlp
from deepcoro.live_bytes import saved_bytes


def parts(dim=6, dtype=torch.float64):
    torch.manual_seed(0)
    norm, mlp = ReadNorm(dim), NormMlp(dim, 4 * dim)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.to(dtype), mlp.to(dtype)


def oracle(norm, mlp, tokens, scale):
    widen, narrow = mlp
    normed = F.layer_norm(tokens, norm.weight.shape, norm.weight, norm.bias, norm.eps)
    hidden = F.gelu(F.linear(normed, widen.weight, widen.bias))
    branch = F.linear(hidden, narrow.weight, narrow.bias)
    return tokens + (branch if scale is None else scale * branch)


def gradients(result, inputs):
    return torch.autograd.grad(result.sin().sum(), inputs)


@pytest.mark.parametrize("keep_hidden", [True, False])
@pytest.mark.parametrize("scale", [None, torch.tensor([0.0, 1.25, 1.25])[:, None, None]])
@pytest.mark.parametrize("rows", [4, 100])
def test_it_equals_the_plain_block_in_values_and_gradients(monkeypatch, keep_hidden, scale, rows):
    monkeypatch.setattr(norm_mlp, "CPU_ROWS", rows)
    norm, mlp = parts()
    tokens = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    inputs = [tokens, *norm.parameters(), *mlp.parameters()]
    got = norm(tokens, reader=mlp, scale=scale, keep_hidden=keep_hidden)
    expected = oracle(norm, mlp, tokens, scale)
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_transposed_view_of_tokens_is_read_as_it_stands():
    norm, mlp = parts()
    tokens = torch.randn(5, 3, 6, dtype=torch.float64).transpose(0, 1).requires_grad_()
    got, expected = norm(tokens, reader=mlp), oracle(norm, mlp, tokens, None)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradients(got, [tokens]), gradients(expected, [tokens]))


def test_it_keeps_one_wide_activation_for_backward_or_none():
    norm, mlp = parts(64, torch.float32)
    tokens = torch.zeros(2, 50, 64, requires_grad=True)
    result = wide = tokens.nbytes
    wide *= 4
    assert saved_bytes(lambda x: norm(x, reader=mlp), tokens) == wide + result
    assert saved_bytes(lambda x: norm(x, reader=mlp, keep_hidden=False), tokens) == result
    with torch.no_grad():
        assert saved_bytes(lambda x: norm(x, reader=mlp), tokens) == result


def test_a_bfloat16_stream_keeps_half_and_an_fp32_stream_stays_fp32_under_autocast():
    norm, mlp = parts(64, torch.float32)
    for dtype in (torch.bfloat16, torch.float32):
        tokens = torch.randn(2, 50, 64, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = norm(tokens, reader=mlp)
            assert saved_bytes(lambda x: norm(x, reader=mlp), tokens) == 2 * 100 * 256 + out.nbytes
        assert out.dtype == dtype
        out.sum().backward()
        assert tokens.grad.dtype == dtype
        assert {p.grad.dtype for p in (*norm.parameters(), *mlp.parameters())} == {torch.float32}
        torch.testing.assert_close(out.float(), oracle(norm, mlp, tokens.float(), None), rtol=0.05, atol=0.05)


def test_weights_in_bfloat16_without_autocast_multiply_in_bfloat16():
    norm, mlp = parts(8, torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32):
        tokens = torch.randn(1, 4, 8, dtype=dtype, requires_grad=True)
        out = norm(tokens, reader=mlp)
        out.sum().backward()
        assert out.dtype == dtype
    assert mlp[0].weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("frozen", ["norm", "mlp", "both"])
def test_frozen_parts_get_no_gradient_and_pass_it_on(frozen):
    norm, mlp = parts()
    for name, part in (("norm", norm), ("mlp", mlp)):
        part.requires_grad_(frozen not in (name, "both"))
    tokens = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    inputs = [tokens, *(p for part in (norm, mlp) for p in part.parameters() if p.requires_grad)]
    got, expected = norm(tokens, reader=mlp), oracle(norm, mlp, tokens, None)
    for mine, theirs in zip(gradients(got, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert all((p.grad is None) for part in (norm, mlp) for p in part.parameters())


def test_names_of_parameters_are_those_of_public_checkpoints():
    assert [name for name, _ in NormMlp(2, 8).named_parameters()] == [
        "0.weight",
        "0.bias",
        "3.weight",
        "3.bias",
    ]
