import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepcoro.kernels.norm_linear import NormLinear, ReadNorm
from deepcoro.live_bytes import saved_bytes


def parts(dim=6, dim_out=5, dtype=torch.float64):
    torch.manual_seed(0)
    norm, linear = ReadNorm(dim), NormLinear(dim, dim_out)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.to(dtype), linear.to(dtype)


def oracle(norm, linear, tokens):
    normed = F.layer_norm(tokens, norm.weight.shape, norm.weight, norm.bias, norm.eps)
    return F.linear(normed, linear.weight, linear.bias)


def test_it_equals_a_norm_and_a_linear_layer_in_values_and_gradients():
    norm, linear = parts()
    tokens = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    inputs = [tokens, *norm.parameters(), *linear.parameters()]
    got, expected = norm(tokens, reader=linear), oracle(norm, linear, tokens)
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(
        torch.autograd.grad(got.sin().sum(), inputs),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("frozen", ["norm", "linear"])
def test_frozen_parts_get_no_gradient_and_pass_it_on(frozen):
    norm, linear = parts()
    (norm if frozen == "norm" else linear).requires_grad_(False)
    tokens = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    norm(tokens, reader=linear).sin().sum().backward()
    expected = torch.autograd.grad(oracle(norm, linear, tokens).sin().sum(), tokens)[0]
    torch.testing.assert_close(tokens.grad, expected)
    assert all((p.grad is None) is (frozen == "norm") for p in norm.parameters())
    assert all((p.grad is None) is (frozen == "linear") for p in linear.parameters())


def test_a_first_layer_whose_tokens_need_no_gradient_still_trains():
    norm, linear = parts()
    norm(torch.randn(2, 7, 6, dtype=torch.float64), reader=linear).sum().backward()
    assert norm.weight.grad is not None
    assert linear.weight.grad is not None


def test_it_keeps_the_tokens_alone():
    norm, linear = parts(64, 8, torch.float32)
    tokens = torch.zeros(2, 50, 64, requires_grad=True)
    assert saved_bytes(lambda x: norm(x, reader=linear), tokens) == 4 * 100 * 8
    assert saved_bytes(lambda x: linear(norm(x)), tokens) > 4 * 100 * (8 + 64)


def test_without_a_reader_a_norm_is_a_norm_and_a_linear_layer_a_linear_layer():
    norm, linear = parts()
    tokens = torch.randn(2, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(linear(norm(tokens)), oracle(norm, linear, tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_bfloat16_and_gives_the_tokens_gradients_of_their_format(dtype):
    norm, linear = parts(8, 4, torch.float32)
    tokens = torch.randn(2, 7, 8, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(tokens, reader=linear)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert tokens.grad.dtype == dtype
    assert {p.grad.dtype for p in (*norm.parameters(), *linear.parameters())} == {torch.float32}
    torch.testing.assert_close(out.float(), oracle(norm, linear, tokens.float()), rtol=0.05, atol=0.05)
