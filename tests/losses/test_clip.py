import pytest
import torch
from torch.nn import functional

from deepcoro.losses import clip
from deepcoro.losses.clip import clip_count, clip_loss, clip_sum
from tests.losses import cases

EVERY_CASE = [(ranks, title) for ranks, titled in cases.CASES.items() for title in titled]


def oracle(video, text, scale, bias, video_ids, text_ids, weight_of):
    """The definition, one query at a time."""

    def mean_over_queries(queries, query_ids, candidates, candidate_ids, weight_of):
        losses = []
        for query, query_id in zip(queries, query_ids, strict=True):
            kept = [row for row, number in enumerate(candidate_ids) if number != -1]
            weights = {row: weight_of(query_id, candidate_ids[row]) for row in kept}
            if query_id == -1 or not sum(weights.values()):
                continue
            total = sum((scale[0] * (query @ candidates[row])).exp() for row in kept)
            logs = {row: ((scale[0] * (query @ candidates[row])).exp() / total).log() for row in kept}
            losses.append(-sum(weights[row] * logs[row] for row in kept) / sum(weights.values()))
        return sum(losses) / len(losses) if losses else 0 * (queries.sum() + candidates.sum() + scale.sum())

    one = mean_over_queries(video, video_ids, text, text_ids, weight_of)
    other = mean_over_queries(
        text, text_ids, video, video_ids, lambda text_id, video_id: weight_of(video_id, text_id)
    )
    return (one + other) / 2


@pytest.mark.parametrize("form", cases.FORMS)
@pytest.mark.parametrize(("world_size", "title"), EVERY_CASE)
def test_averaged_over_ranks_loss_and_gradients_are_those_of_one_process(of_ranks, world_size, title, form):
    results = [result["clip", title, form] for result in of_ranks[world_size]]
    cases.assert_equal_to_one_process(results, cases.by_hand(oracle, cases.CASES[world_size][title]))


@pytest.mark.parametrize("form", cases.FORMS)
@pytest.mark.parametrize("weights", [None, [[(7, 8, 0.5), (7, 7, 1.0), (99, 8, 0.25)]]])
def test_without_a_process_group_the_loss_is_that_of_one_process(form, weights):
    case = cases.of_ids([[7, 7, 8, -1, 99]], [[7, 8, 8, -1]], weights)
    result = cases.on_rank(0, "clip", case, form)
    cases.assert_equal_to_one_process([result], cases.by_hand(oracle, case))


def test_two_embeddings_by_hand():
    """One right angle: logits are [[2, 0], [0, 2]], so that each query loses log(1 + exp(-2))."""
    features = torch.eye(2)
    loss = clip_loss(features, features, torch.tensor([2.0]))
    assert loss.item() == pytest.approx(0.126928, abs=1e-6)


def test_finite_differences_agree():
    generator = torch.Generator().manual_seed(0)
    video, text = (
        torch.randn(rows, 3, dtype=torch.float64, generator=generator, requires_grad=True) for rows in (4, 3)
    )
    scale = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    ids = (torch.tensor([5, 6, 5, -1]), torch.tensor([6, 5, 5]))
    assert torch.autograd.gradcheck(lambda *inputs: clip_loss(*inputs, *ids), (video, text, scale))


def test_a_batch_without_any_report_is_a_zero_that_moves_nothing():
    video, text = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    scale = torch.tensor([10.0], requires_grad=True)
    loss = clip_loss(video, text, scale, torch.full((3,), -1), torch.full((2,), -1))
    loss.backward()
    assert loss.item() == 0
    for leaf in (video, text, scale):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_no_rows_at_all_is_a_zero_too():
    video, text = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    loss = clip_loss(video, text, torch.ones(1))
    loss.backward()
    assert loss.item() == 0


def test_what_an_excluded_row_holds_reaches_neither_loss_nor_gradient():
    video, text = torch.randn(3, 4), torch.randn(3, 4)
    ids = torch.tensor([1, -1, 2])
    video[1] = torch.nan
    text[1] = torch.inf
    video.requires_grad_()
    text.requires_grad_()
    loss = clip_loss(video, text, torch.tensor([10.0]), ids, ids)
    loss.backward()
    kept = [0, 2]
    torch.testing.assert_close(loss, clip_loss(video[kept], text[kept], torch.tensor([10.0])))
    assert video.grad[1].eq(0).all()
    assert text.grad.isfinite().all()


def test_equal_reports_are_never_negatives():
    """Videos of one report that all sit on their text cannot do better, though another row holds the same text."""
    text = torch.eye(3)[[0, 0, 1]]
    loss = clip_loss(text, text, torch.tensor([50.0]), torch.tensor([4, 4, 5]), torch.tensor([4, 4, 5]))
    assert loss.item() == pytest.approx(2 / 3 * torch.tensor(2.0).log().item(), abs=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_features_have_fp32_logits(autocast):
    generator = torch.Generator().manual_seed(0)
    video, text = (
        functional.normalize(torch.randn(8, 64, generator=generator), dim=-1).bfloat16() for _ in range(2)
    )
    scale = torch.tensor([100.0])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = clip_loss(video, text, scale)
    assert loss.dtype == torch.float32
    exact = clip_loss(video.double(), text.double(), scale.double())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_the_sum_is_the_loss_times_its_queries():
    case = cases.of_ids([[7, 7, 8, -1]], [[7, 8, 8, -1]])
    video, text = (torch.randn(4, 6, dtype=torch.float64) for _ in range(2))
    scale = torch.ones(1, dtype=torch.float64)
    ids = (torch.tensor(case.video_ids[0]), torch.tensor(case.text_ids[0]))
    assert clip_count(ids[0]).tolist() == [3]
    torch.testing.assert_close(clip_sum(video, text, scale, *ids), 3 * clip_loss(video, text, scale, *ids))


def test_ids_of_one_side_alone_are_refused():
    with pytest.raises(ValueError, match="give both, or neither"):
        clip_loss(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1), video_ids=torch.tensor([1]))


def test_the_config_builds_a_loss_with_its_start():
    loss = clip.Config().build()
    assert loss.init_logit_scale == pytest.approx(14.2857, abs=1e-4)
    assert loss.init_logit_bias is None
