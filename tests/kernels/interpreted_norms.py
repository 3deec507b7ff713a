"""The Triton norms and steps between products against torch in fp64; on CPU run by test_triton_norm.py in a process of its own
under TRITON_INTERPRET=1."""

import pytest
import torch
import torch.nn.functional as F

from deepcoro.kernels import norm_linear, norm_mlp, residual_linear, triton_columns, triton_norm
from deepcoro.kernels.norm_linear import NormLinear, ReadNorm
from deepcoro.kernels.norm_mlp import NormMlp
from deepcoro.kernels.residual_linear import Residual, ResidualLinear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""The interpreter cuts bfloat16 off where a device rounds."""


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """The same values in every format and on every device."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return values.to(DEVICE, dtype)


def close(got: torch.Tensor, expected: torch.Tensor, bound: float) -> bool:
    return ((got.double() - expected).norm() / expected.norm()).item() < bound


@pytest.fixture(autouse=True)
def few_programs_where_each_costs_the_interpreter_a_second(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(triton_norm, "PROGRAMS_OF_BACKWARD", 2)
        monkeypatch.setattr(triton_columns, "PROGRAMS", 2)


@pytest.mark.parametrize(
    ("num_rows", "dim", "dtype"),
    [
        (90, 96, torch.float32),
        (5, 768, torch.float32),
        (40, 72, torch.bfloat16),
        (3, 10, torch.float16),
        (1, 1300, torch.float32),
    ],
    ids=str,
)
def test_a_norm_and_its_gradients_equal_those_in_fp64(num_rows, dim, dtype):
    rows, weight, bias = (drawn(num_rows, dim, dtype=dtype), *drawn(2, dim, seed=1))
    gradient, plus = drawn(num_rows, dim, dtype=dtype, seed=2), drawn(num_rows, dim, dtype=dtype, seed=3)
    exact = [each.double().requires_grad_() for each in (rows * 3 + 1, weight, bias)]
    expected = F.layer_norm(exact[0], (dim,), *exact[1:], 1e-3)
    by_rows, by_weight, by_bias = torch.autograd.grad(expected, exact, gradient.double())
    rows = exact[0].detach().to(dtype)
    bound = BOUNDS[dtype]
    assert close(triton_norm.norm_rows(rows, weight, bias, 1e-3, dtype), expected, bound)
    bare = triton_norm.norm_rows_backward(gradient, rows, (weight, bias), 1e-3)
    assert bare.normed is None
    assert close(bare.by_rows, by_rows, bound)
    full = triton_norm.norm_rows_backward(gradient, rows, (weight, bias), 1e-3, plus, torch.bfloat16)
    assert full.by_rows.dtype == dtype
    assert close(full.by_rows, by_rows + plus, bound)
    assert close(full.normed, expected, BOUNDS[torch.bfloat16])
    for given in (bare, full):
        assert close(given.by_weight, by_weight, BOUNDS[torch.float32])
        assert close(given.by_bias, by_bias, BOUNDS[torch.float32])


def test_a_norm_without_eps_keeps_rows_past_the_end_out_of_its_sums():
    rows, gradient, ones = drawn(3, 16), drawn(3, 16, seed=1), torch.ones(16, device=DEVICE)
    given = triton_norm.norm_rows_backward(gradient, rows, (ones, ones), 0.0)
    assert given.by_weight.isfinite().all()
    assert given.by_rows.isfinite().all()


@pytest.mark.parametrize(("num_rows", "width"), [(70, 96), (33, 288), (4, 1536)])
def test_sums_of_rows_equal_those_in_fp64(num_rows, width):
    rows = drawn(num_rows, width, dtype=torch.bfloat16)
    assert close(triton_columns.sum_rows(rows), rows.double().sum(0), 1e-6)


@pytest.mark.parametrize("has_factors", [True, False])
def test_rows_are_scaled_clip_by_clip_cast_and_summed_in_one_step(has_factors):
    rows, factors = drawn(3 * 20, 100), torch.tensor([0.0, 1.25, 0.3], device=DEVICE)
    factors = factors if has_factors else None
    expected = rows.double().view(3, 20, 100) * (1.0 if factors is None else factors.double()[:, None, None])
    scaled, total = triton_columns.scale_rows(rows, factors, torch.bfloat16)
    assert close(scaled, expected.flatten(0, 1), BOUNDS[torch.bfloat16])
    assert close(total, expected.sum((0, 1)), 1e-6)


@pytest.mark.parametrize("has_factors", [True, False])
def test_a_branch_is_added_clip_by_clip(has_factors):
    rows, branch = drawn(3 * 20, 100), drawn(60, 100, dtype=torch.bfloat16, seed=1)
    factors = torch.tensor([0.0, 1.25, 0.3], device=DEVICE) if has_factors else None
    scaled = branch.double().view(3, 20, 100) * (1.0 if factors is None else factors.double()[:, None, None])
    assert close(
        triton_columns.add_branch(rows, branch, factors, torch.float32), rows + scaled.flatten(0, 1), 1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_and_its_gradient_are_those_of_the_exact_form_far_out_as_well(dtype):
    hidden = torch.linspace(-12, 12, 40 * 96, device=DEVICE).view(40, 96).to(dtype)
    gradient = drawn(40, 96, dtype=dtype)
    exact = hidden.double().requires_grad_()
    expected = F.gelu(exact)
    (by_hidden,) = torch.autograd.grad(expected, exact, gradient.double())
    got = gradient.clone()
    activation, total = triton_columns.gelu_backward_(got, hidden)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(activation.double(), expected, rtol=tolerance, atol=tolerance / 10)
    torch.testing.assert_close(got.double(), by_hidden, rtol=tolerance, atol=tolerance / 10)
    assert close(total, by_hidden.sum(0), 1e-6)
    alone = gradient.clone()
    assert triton_columns.gelu_backward_(alone, hidden, needs_activation=False)[0] is None
    assert torch.equal(alone, got)


def test_no_rows_give_empty_results_and_sums_of_zero():
    rows, weight = drawn(0, 96), torch.ones(96, device=DEVICE)
    assert triton_norm.norm_rows(rows, weight, weight, 1e-6, torch.bfloat16).shape == (0, 96)
    given = triton_norm.norm_rows_backward(rows, rows, (weight, weight), 1e-6, rows, torch.float32)
    sums = (given.by_weight, given.by_bias, triton_columns.sum_rows(rows))
    assert all(torch.equal(each, torch.zeros_like(weight)) for each in sums)
    assert triton_columns.add_branch(rows, rows, None, torch.float32).shape == (0, 96)


class HalfBlock(torch.nn.Module):
    """A branch from a norm back to its tokens; the skip may be narrower in format."""

    def __init__(self, scale: torch.Tensor | None, skip: torch.dtype | None) -> None:
        super().__init__()
        self.norm, self.widen = ReadNorm(24), NormLinear(24, 40)
        self.narrow, self.scale, self.skip = ResidualLinear(40, 24), scale, skip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        wide, same = self.norm(tokens, reader=self.widen, hands_on=True)
        skip = same if self.skip is None or tokens.dtype == torch.float64 else same.to(self.skip)
        return self.narrow(wide, Residual(skip, self.scale), tokens.dtype)


class Half(torch.nn.Module):
    """A norm and its reader."""

    def __init__(self, reader: torch.nn.Module, **more: object) -> None:
        super().__init__()
        self.norm, self.reader, self.more = ReadNorm(24), reader, more

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(tokens, reader=self.reader, **self.more)


SCALE = torch.tensor([0.5, 1.25], device=DEVICE)[:, None, None]
MODULES = {
    "linear": lambda: Half(NormLinear(24, 40)),
    "mlp": lambda: Half(NormMlp(24, 96)),
    "mlp, scaled, hidden made again": lambda: Half(NormMlp(24, 96), scale=SCALE, keep_hidden=False),
    "half a block": lambda: HalfBlock(None, None),
    "half a block, scaled": lambda: HalfBlock(SCALE, None),
    "half a block, a skip in bfloat16": lambda: HalfBlock(None, torch.bfloat16),
}


def results(name: str, precise: bool, stream: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Values and gradients of a module, in fp64 by torch or under autocast by the kernels."""
    module = MODULES[name]()
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = drawn(*parameter.shape, seed=seed) / parameter.shape[-1] ** 0.5
    dtype = torch.float64 if precise else torch.float32
    module = module.to(DEVICE, dtype)
    tokens = drawn(2, 30, 24, dtype=dtype if precise else stream, seed=9).requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=not precise):
        out = module(tokens)
    gradient = drawn(*out.shape, seed=8).to(out.dtype)
    return [out, *torch.autograd.grad(out, [tokens, *module.parameters()], gradient)]


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODULES)
def test_modules_made_of_the_kernels_equal_the_same_in_fp64(name, stream, monkeypatch):
    expected = results(name, True)
    for module in (norm_linear, norm_mlp, residual_linear):
        monkeypatch.setattr(module, "runs_in_triton", lambda tokens, dtype: dtype != torch.float64)
    got = results(name, False, stream)
    for ours, oracle in zip(got, expected, strict=True):
        assert close(ours, oracle, 1.5e-2)
    again = results(name, False, stream)
    assert all(torch.equal(one, other) for one, other in zip(got, again, strict=True))
