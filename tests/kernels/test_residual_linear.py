import pytest
import torch
import torch.nn.functional as F

from deepcoro.kernels.norm_linear import NormLinear, ReadNorm
from deepcoro.kernels.residual_linear import Residual, ResidualLinear


@pytest.mark.parametrize("scale", [None, torch.tensor([0.0, 1.25])[:, None, None]])
def test_it_equals_a_linear_layer_added_to_what_is_skipped(scale):
    torch.manual_seed(0)
    linear = ResidualLinear(6, 4).double()
    rows = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    inputs = [rows, skip, *linear.parameters()]
    branch = F.linear(rows, linear.weight, linear.bias)
    torch.testing.assert_close(linear(rows), branch)
    expected = skip + (branch if scale is None else branch * scale)
    got = linear(rows, Residual(skip, scale))
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(
        torch.autograd.grad(got.sin().sum(), inputs),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_sum_has_the_format_asked_for_where_the_skip_has_another():
    skip = torch.randn(2, 3, 4).bfloat16()
    linear = ResidualLinear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(2, 3, 4), Residual(skip), torch.float32).dtype == torch.float32


@pytest.mark.parametrize("used", ["both", "the tokens alone", "the result alone"])
def test_tokens_handed_on_by_a_norm_bring_their_gradient_back(used):
    torch.manual_seed(0)
    norm, linear = ReadNorm(6).double(), NormLinear(6, 5).double()
    tokens = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    result, same = norm(tokens, reader=linear, hands_on=True)
    assert torch.equal(same, tokens)
    wanted = {"both": (1, 1), "the tokens alone": (0, 1), "the result alone": (1, 0)}[used]
    expected = wanted[0] * linear(norm(tokens)).sin().sum() + wanted[1] * tokens.cos().sum()
    got = sum(loss().sum() for weight, loss in zip(wanted, (result.sin, same.cos), strict=True) if weight)
    torch.testing.assert_close(torch.autograd.grad(got, tokens)[0], torch.autograd.grad(expected, tokens)[0])


def test_tokens_without_gradient_are_handed_on_without():
    norm, linear = ReadNorm(6), NormLinear(6, 5)
    result, same = norm(torch.randn(2, 7, 6), reader=linear, hands_on=True)
    assert result.requires_grad
    assert not same.requires_grad
