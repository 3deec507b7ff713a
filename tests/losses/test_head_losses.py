"""Losses of heads against torch, torchvision and the formula written out, with and without missing labels."""

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from deepcoro.losses import bce, ce, focal, huber, mae, mse, ordinal

ROWS, HEADS = 7, 3


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def classes(number):
    return torch.randint(number, (ROWS, HEADS), generator=torch.Generator().manual_seed(number)).double()


def falling(num_thresholds):
    """Cumulative logits as an ordinal head gives them."""
    steps = functional.softplus(draw(ROWS, HEADS, num_thresholds)) + 0.1
    return 2 - steps.cumsum(-1)


def by_class(number):
    return draw(HEADS, number).exp()


WEIGHTED = {
    "bce": (bce.Config(), draw(ROWS, HEADS, 1), classes(2), by_class(2)),
    "ce": (ce.Config(), draw(ROWS, HEADS, 4), classes(4), by_class(4)),
    "focal": (focal.Config(gamma=1.5), draw(ROWS, HEADS, 1), classes(2), by_class(2)),
    "focal of classes": (focal.Config(), draw(ROWS, HEADS, 4), classes(4), by_class(4)),
    "ordinal": (ordinal.Config(), falling(3), classes(4), by_class(4)),
}
UNWEIGHTED = {
    "huber": (huber.Config(delta=0.7), draw(ROWS, HEADS, 1), 2 * draw(ROWS, HEADS), None),
    "mse": (mse.Config(), draw(ROWS, HEADS, 1), 2 * draw(ROWS, HEADS), None),
    "mae": (mae.Config(), draw(ROWS, HEADS, 1), 2 * draw(ROWS, HEADS), None),
}
ALL = WEIGHTED | UNWEIGHTED


def by_hand(title, outputs, target, weights):
    """One label's loss; `outputs` [output], `weights` [class]."""
    if title in UNWEIGHTED:
        functions = {"mse": functional.mse_loss, "mae": functional.l1_loss}
        function = functions.get(title) or (lambda *given: functional.huber_loss(*given, delta=0.7))
        return function(outputs[0], target)
    weight, true = weights[int(target)], int(target)
    if title == "bce":
        ratio = weights[1] / weights[0]
        return weights[0] * functional.binary_cross_entropy_with_logits(outputs[0], target, pos_weight=ratio)
    if title == "ce":
        return functional.cross_entropy(outputs, target.long(), weight=weights, reduction="sum")
    if title == "focal":
        return weight * sigmoid_focal_loss(outputs[0], target, alpha=-1, gamma=1.5)
    if title == "focal of classes":
        chance = outputs.softmax(0)[true]
        return -weight * (1 - chance) ** 2 * chance.log()
    above = [1.0, *outputs.sigmoid(), 0.0]
    return -weight * torch.log(above[true] - above[true + 1])


@pytest.mark.parametrize("title", ALL)
@pytest.mark.parametrize("is_weighted", [True, False])
def test_every_label_has_the_loss_written_out(title, is_weighted):
    config, outputs, target, weights = ALL[title]
    weights = weights if is_weighted else None
    got = config.build()(outputs, target, weights)
    plain = torch.ones(HEADS, 4, dtype=torch.float64) if weights is None else weights
    plain = plain[:, : 2 if outputs.shape[2] == 1 else None]
    expected = [
        [by_hand(title, outputs[row, head], target[row, head], plain[head]) for head in range(HEADS)]
        for row in range(ROWS)
    ]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("title", ALL)
def test_a_missing_label_has_no_loss_and_no_gradient_whatever_the_head_says(title):
    config, outputs, target, weights = ALL[title]
    loss, whole = config.build(), outputs.clone().requires_grad_()
    expected = loss(whole, target, weights)
    expected[1:].sum().backward()
    broken, partly = outputs.clone(), target.clone()
    partly[0], broken[0, 1] = torch.nan, torch.inf
    broken[0, 0] = torch.nan
    broken.requires_grad_()
    got = loss(broken, partly, weights)
    got.sum().backward()
    assert got[0].eq(0).all() and broken.grad[0].eq(0).all()
    torch.testing.assert_close(got[1:], expected[1:])
    torch.testing.assert_close(broken.grad[1:], whole.grad[1:])


@pytest.mark.parametrize("title", ALL)
def test_finite_differences_agree(title):
    config, outputs, target, weights = ALL[title]
    target = target.clone()
    target[2, 1] = torch.nan
    assert torch.autograd.gradcheck(
        lambda given: config.build()(given, target, weights), outputs.clone().requires_grad_()
    )


@pytest.mark.parametrize("title", ALL)
@pytest.mark.parametrize("size", [50, 3000])
def test_sure_answers_right_or_wrong_have_finite_losses_and_gradients(title, size):
    config, outputs, target, weights = ALL[title]
    outputs = (size * outputs).float().requires_grad_()
    losses = config.build()(outputs, target.float(), weights)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert losses.isfinite().all() and outputs.grad.isfinite().all()


@pytest.mark.parametrize("title", ALL)
def test_bf16_outputs_have_fp32_losses(title):
    config, outputs, target, _ = ALL[title]
    got = config.build()(outputs.bfloat16(), target.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, config.build()(outputs.bfloat16().float(), target.float()))


def test_without_a_focus_the_focal_loss_is_cross_entropy():
    for title, plain in (("focal", bce.Config()), ("focal of classes", ce.Config())):
        _, outputs, target, weights = ALL[title]
        got = focal.Config(gamma=0).build()(outputs, target, weights)
        torch.testing.assert_close(got, plain.build()(outputs, target, weights))


def test_a_focal_root_has_a_gradient_where_the_answer_is_sure():
    outputs = torch.tensor([[[200.0]], [[-200.0]]], requires_grad=True)
    focal.focal_loss(outputs, torch.tensor([[1.0], [1.0]]), gamma=0.5).sum().backward()
    assert outputs.grad.isfinite().all()


def test_doubt_of_a_reader_is_between_yes_and_no():
    _, outputs, target, weights = ALL["bce"]
    no, half, yes = (bce.bce_loss(outputs, torch.full_like(target, each), weights) for each in (0, 0.5, 1))
    torch.testing.assert_close(half, (no + yes) / 2)


@pytest.mark.parametrize("num_thresholds", [1, 2, 5])
def test_ordinal_probabilities_are_those_of_the_sigmoids_and_sum_to_one(num_thresholds):
    cumulative = falling(num_thresholds)
    got = ordinal.log_class_probabilities(cumulative).exp()
    above = functional.pad(functional.pad(cumulative.sigmoid(), (1, 0), value=1.0), (0, 1))
    torch.testing.assert_close(got, above[..., :-1] - above[..., 1:])
    torch.testing.assert_close(got.sum(-1), torch.ones(ROWS, HEADS, dtype=torch.float64))


def test_nearby_thresholds_far_out_keep_their_digits():
    """In fp32 the difference of the sigmoids would be 0."""
    chances = ordinal.log_class_probabilities(torch.tensor([40.0, 39.999]))
    exact = ordinal.log_class_probabilities(torch.tensor([40.0, 39.999], dtype=torch.float64))
    torch.testing.assert_close(chances.double(), exact, rtol=1e-3, atol=0)
