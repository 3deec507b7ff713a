import pytest
import torch
from torch.nn import functional

from deepcoro.losses import siglip
from deepcoro.losses.siglip import siglip_count, siglip_loss, siglip_sum
from tests.losses import cases

EVERY_CASE = [(ranks, title) for ranks, titled in cases.CASES.items() for title in titled]


def oracle(video, text, scale, bias, video_ids, text_ids, weight_of):
    """The definition, one pair at a time."""
    total = 0 * (video.sum() + text.sum() + scale.sum() + bias.sum())
    for row, video_id in zip(video, video_ids, strict=True):
        for column, text_id in zip(text, text_ids, strict=True):
            if -1 in (video_id, text_id):
                continue
            chance = torch.sigmoid(scale[0] * (row @ column) + bias[0])
            weight = weight_of(video_id, text_id)
            total = total - weight * chance.log() - (1 - weight) * (1 - chance).log()
    return total / max(sum(number != -1 for number in video_ids), 1)


@pytest.mark.parametrize("form", cases.FORMS)
@pytest.mark.parametrize(("world_size", "title"), EVERY_CASE)
def test_averaged_over_ranks_loss_and_gradients_are_those_of_one_process(of_ranks, world_size, title, form):
    results = [result["siglip", title, form] for result in of_ranks[world_size]]
    cases.assert_equal_to_one_process(results, cases.by_hand(oracle, cases.CASES[world_size][title]))


@pytest.mark.parametrize("form", cases.FORMS)
@pytest.mark.parametrize("weights", [None, [[(7, 8, 0.5), (7, 7, 1.0), (99, 8, 0.25)]]])
def test_without_a_process_group_the_loss_is_that_of_one_process(form, weights):
    case = cases.of_ids([[7, 7, 8, -1, 99]], [[7, 8, 8, -1]], weights)
    result = cases.on_rank(0, "siglip", case, form)
    cases.assert_equal_to_one_process([result], cases.by_hand(oracle, case))


def test_two_embeddings_by_hand():
    """Logits are 1 on the diagonal and -1 off it: four terms of log(1 + exp(-1)), over two videos."""
    features = torch.eye(2)
    loss = siglip_loss(features, features, torch.tensor([2.0]), torch.tensor([-1.0]))
    assert loss.item() == pytest.approx(2 * 0.313262, abs=1e-5)


def test_finite_differences_agree():
    generator = torch.Generator().manual_seed(0)
    video, text = (
        torch.randn(rows, 3, dtype=torch.float64, generator=generator, requires_grad=True) for rows in (4, 3)
    )
    scale, bias = (torch.tensor([number], dtype=torch.float64, requires_grad=True) for number in (2.0, -1.0))
    ids = (torch.tensor([5, 6, 5, -1]), torch.tensor([6, 5, 5]))
    assert torch.autograd.gradcheck(lambda *inputs: siglip_loss(*inputs, *ids), (video, text, scale, bias))


def test_a_batch_without_any_report_is_a_zero_that_moves_nothing():
    video, text = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    scale, bias = torch.tensor([10.0], requires_grad=True), torch.tensor([-10.0], requires_grad=True)
    loss = siglip_loss(video, text, scale, bias, torch.full((3,), -1), torch.full((2,), -1))
    loss.backward()
    assert loss.item() == 0
    for leaf in (video, text, scale, bias):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_what_an_excluded_row_holds_reaches_neither_loss_nor_gradient():
    video, text = torch.randn(3, 4), torch.randn(3, 4)
    ids = torch.tensor([1, -1, 2])
    video[1] = torch.nan
    text[1] = torch.inf
    video.requires_grad_()
    text.requires_grad_()
    numbers = (torch.tensor([10.0]), torch.tensor([-10.0]))
    loss = siglip_loss(video, text, *numbers, ids, ids)
    loss.backward()
    torch.testing.assert_close(loss, siglip_loss(video[[0, 2]], text[[0, 2]], *numbers))
    assert video.grad[1].eq(0).all()
    assert text.grad.isfinite().all()


def test_equal_reports_are_never_negatives():
    """With one report for all videos every pair is positive, and perfect pairs cost nothing."""
    features = torch.eye(2)[[0, 0, 0]]
    ids = torch.tensor([4, 4, 4])
    loss = siglip_loss(features, features, torch.tensor([50.0]), torch.tensor([-10.0]), ids, ids)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_features_have_fp32_logits(autocast):
    generator = torch.Generator().manual_seed(0)
    video, text = (
        functional.normalize(torch.randn(8, 64, generator=generator), dim=-1).bfloat16() for _ in range(2)
    )
    numbers = (torch.tensor([100.0]), torch.tensor([-10.0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = siglip_loss(video, text, *numbers)
    assert loss.dtype == torch.float32
    exact = siglip_loss(video.double(), text.double(), *(number.double() for number in numbers))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_the_sum_is_the_loss_times_its_videos():
    video, text = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    numbers = (torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    ids = (torch.tensor([7, 7, 8, -1]), torch.tensor([7, 8, 8, -1]))
    assert siglip_count(ids[0]).tolist() == [3]
    torch.testing.assert_close(
        siglip_sum(video, text, *numbers, *ids), 3 * siglip_loss(video, text, *numbers, *ids)
    )


def test_the_config_builds_a_loss_with_its_start():
    loss = siglip.Config().build()
    assert (loss.init_logit_scale, loss.init_logit_bias) == (10, -10)
