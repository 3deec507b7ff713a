import torch
from torch import nn

from deepcoro.kernels.gelu_linear import GeluLinear


def test_it_equals_linear_after_gelu_in_values_and_gradients():
    torch.manual_seed(0)
    layer = GeluLinear(8, 3).double()
    hidden = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    inputs = [hidden, layer.weight, layer.bias]
    got = layer(hidden)
    expected = nn.functional.linear(nn.functional.gelu(hidden), layer.weight, layer.bias)
    torch.testing.assert_close(got, expected)
    for mine, theirs in zip(
        torch.autograd.grad(got.sin().sum(), inputs),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_it_keeps_one_wide_activation_for_backward_instead_of_two():
    layer = GeluLinear(64, 4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        layer(torch.randn(7, 64, requires_grad=True))
    assert [tuple(tensor.shape) for tensor in kept].count((7, 64)) == 1


def test_frozen_weights_get_no_gradient():
    layer = GeluLinear(8, 3).requires_grad_(False)
    hidden = torch.randn(2, 8, requires_grad=True)
    layer(hidden).sum().backward()
    assert hidden.grad is not None
    assert layer.weight.grad is None


def test_autocast_gives_bfloat16_and_fp32_gradients_of_the_weights():
    layer = GeluLinear(8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(2, 8))
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
