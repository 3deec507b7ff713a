"""The tiled forms against the dense one: many shapes, number formats, and the bytes that are alive."""

import itertools

import pytest
import torch
from torch.nn import functional

from deepcoro.kernels.tiled_contrastive import Share, Tiling
from deepcoro.live_bytes import LiveBytes
from deepcoro.losses import clip, siglip
from deepcoro.pairing import PositiveWeights, pair_up
from deepcoro.planning.pretend import Kind, pretended

LOSSES = {"clip": clip.Config().build(), "siglip": siglip.Config().build()}


def draw(
    rows: tuple[int, int], dim: int, seed: int, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    """Unit vectors of videos and texts, scale and bias: leaves."""
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randn(count, dim, dtype=torch.float64, generator=generator) for count in rows]
    numbers = [torch.tensor([number], dtype=torch.float64) for number in (9.0, -2.0)]
    leaves = [functional.normalize(side, dim=-1).to(dtype) for side in sides] + numbers
    return [each.requires_grad_() for each in leaves]


def draw_ids(rows: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A quarter of the rows is excluded; ids repeat, and some have no partner."""
    generator = torch.Generator().manual_seed(100 + seed)
    highest = max(rows) // 2 + 1
    sides = [torch.randint(highest, (count,), generator=generator) for count in rows]
    return tuple(ids.masked_fill(torch.rand(len(ids), generator=generator) < 0.25, -1) for ids in sides)


def draw_weights(ids: tuple[torch.Tensor, torch.Tensor], seed: int) -> PositiveWeights:
    """Two pairs a video, the same ones for equal ids wherever they are."""
    videos = ids[0].unique().repeat(2)
    texts = (videos * 7 + torch.arange(len(videos)) // (len(videos) // 2 or 1) + seed) % (len(videos) + 1)
    return PositiveWeights(videos, texts, (1 + videos % 4).double() / 4)


def share_of(name: str, leaves: list, ids: tuple, weights: PositiveWeights | None, tiling: Tiling) -> Share:
    pairs = pair_up(*leaves[:2], *ids, weights)
    return LOSSES[name].share(pairs, leaves[2], leaves[3] if name == "siglip" else None, tiling)


def outcome(name: str, leaves: list, ids: tuple, weights: PositiveWeights | None, tiling: Tiling) -> dict:
    """Sum, accuracy and gradients; 3 stands for the upstream gradient of the loop."""
    share = share_of(name, leaves, ids, weights, tiling)
    wanted = leaves if name == "siglip" else leaves[:3]
    return {
        "sum": share.sum.detach(),
        "accuracy": share.in_batch_accuracy,
        "gradients": torch.autograd.grad(3 * share.sum, wanted),
    }


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(
    ("rows", "tile"), [((37, 53), 8), ((64, 16), 16), ((5, 90), 7), ((1, 1), 4), ((0, 9), 4)]
)
def test_tiles_have_loss_gradients_and_accuracy_of_the_dense_form(name, weighed, rows, tile):
    ids = draw_ids(rows, seed=tile)
    weights = draw_weights(ids, seed=1) if weighed else None
    results = [
        outcome(name, draw(rows, 6, 0), ids, weights, Tiling(form, tile)) for form in ("dense", "gather")
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def random_batches(rank: int, row_counts: list[list[int]]) -> list[dict]:
    """On uneven ranks: sums and gradients added up over ranks, where the forms must agree, and my own accuracy."""
    results = []
    for seed, (name, weighed) in enumerate(itertools.product(LOSSES, (False, True))):
        rows = (row_counts[0][rank], row_counts[1][rank])
        ids = draw_ids(rows, 10 * seed + rank)
        weights = draw_weights(ids, seed) if weighed else None
        of_forms = {}
        for form in ("dense", "gather", "ring"):
            found = outcome(name, draw(rows, 5, 10 * seed + rank), ids, weights, Tiling(form, 4))
            features, shared = found["gradients"][:2], torch.stack(
                [found["sum"].reshape(1), *found["gradients"][2:]]
            )
            torch.distributed.all_reduce(shared)
            of_forms[form] = [shared, *features, found["accuracy"]]
        results.append(of_forms)
    return results


ROWS = {
    2: [[11, 6], [3, 14]],
    3: [[9, 0, 5], [0, 7, 6]],
    4: [[5, 13, 1, 0], [8, 2, 0, 9]],
}


@pytest.fixture(scope="module", params=[2, 3, pytest.param(4, marks=pytest.mark.slow)])
def uneven(request, ranks_of) -> tuple[list[list[int]], list]:
    """The rows of each rank, and what every rank finds for them."""
    rows = ROWS[request.param]
    return rows, ranks_of[request.param].run(random_batches, rows)


def test_on_uneven_ranks_all_forms_agree(uneven):
    for of_rank in uneven[1]:
        for of_forms in of_rank:
            for form in ("gather", "ring"):
                torch.testing.assert_close(of_forms[form], of_forms["dense"], rtol=1e-11, atol=1e-11)


def one_process(name: str, row_counts: list[list[int]], seed: int, weighed: bool) -> tuple[list, list]:
    """What `random_batches` gives on all ranks together, from the rows of all in one dense loss."""
    draws, ids = [], []
    for rank, rows in enumerate(zip(*row_counts, strict=True)):
        draws.append(draw(rows, 5, 10 * seed + rank))
        ids.append(draw_ids(rows, 10 * seed + rank))
    leaves = [torch.cat(sides).detach().requires_grad_() for sides in list(zip(*draws, strict=True))[:2]]
    leaves += draws[0][2:]
    weights = [draw_weights(each, seed) for each in ids]
    joined = PositiveWeights(
        *(torch.cat([getattr(each, key) for each in weights]) for key in ("video_ids", "text_ids", "weight"))
    )
    all_ids = tuple(torch.cat(side) for side in zip(*ids, strict=True))
    found = outcome(name, leaves, all_ids, joined if weighed else None, Tiling("dense"))
    return [found["sum"].reshape(1), *found["gradients"][2:]], list(found["gradients"][:2])


def test_on_uneven_ranks_all_forms_are_the_dense_loss_of_one_process(uneven):
    rows, results = uneven
    for seed, (name, weighed) in enumerate(itertools.product(LOSSES, (False, True))):
        shared, features = one_process(name, rows, seed, weighed)
        for form in ("dense", "gather", "ring"):
            of_ranks = [of_rank[seed][form] for of_rank in results]
            got = [torch.cat([each[side] for each in of_ranks]) for side in (1, 2)]
            torch.testing.assert_close(got, features, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(of_ranks[0][0], torch.stack(shared), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighed", [False, True])
def test_finite_differences_agree(name, weighed):
    leaves, ids = draw((5, 4), 3, seed=0), (torch.tensor([5, 6, 5, -1, 7]), torch.tensor([6, 5, 5, 8]))
    weights = PositiveWeights(*torch.tensor([[5, 6, 7], [6, 5, 8]]), torch.tensor([0.5, 1.0, 0.7]))
    given = weights if weighed else None
    wanted = leaves if name == "siglip" else leaves[:3]
    assert torch.autograd.gradcheck(
        lambda *inputs: share_of(name, [*inputs, None], ids, given, Tiling("gather", 2)).sum, wanted
    )


@pytest.mark.parametrize("name", LOSSES)
def test_equally_near_texts_share_a_hit_across_tiles(name):
    """Six equal texts in three tiles, two of them the video's own; another video has one nearest text."""
    video, text = torch.eye(2)[[0, 1]], torch.eye(2)[[0, 0, 0, 0, 0, 0, 1]]
    ids = (torch.tensor([4, 9]), torch.tensor([1, 4, 2, 3, 4, 5, 9]))
    leaves = [video, text, torch.tensor([10.0]), torch.tensor([0.0])]
    for tiling in (Tiling("dense"), Tiling("gather", 2)):
        assert share_of(name, leaves, ids, None, tiling).in_batch_accuracy.item() == pytest.approx(
            (2 / 6 + 1) / 2
        )


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_a_hundred_neither_overflow_nor_vanish(name):
    """Every positive at the lowest logit there is, every negative at the highest."""
    video = functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)[
        [0] * 6
    ]
    for leaves in (
        [video, -video, torch.tensor([100.0]), torch.tensor([-10.0])],
        [video, torch.cat([video[:3], -video[:3]]), torch.tensor([100.0]), torch.tensor([-10.0])],
    ):
        ids = (torch.arange(6), torch.arange(6).flip(0))
        got, exact = (
            outcome(name, [each.to(dtype).requires_grad_() for each in leaves], ids, None, tiling)
            for dtype, tiling in ((torch.float32, Tiling("gather", 4)), (torch.float64, Tiling("dense")))
        )
        torch.testing.assert_close(got, exact, rtol=1e-5, atol=2e-3, check_dtype=False)


@pytest.mark.parametrize("name", LOSSES)
def test_what_an_excluded_row_holds_reaches_neither_loss_nor_gradient(name):
    video, text, *numbers = draw((5, 5), 4, seed=0)
    ids = (torch.tensor([1, -1, 2, 3, 1]), torch.tensor([2, 1, -1, 3, 9]))
    clean = outcome(name, [video, text, *numbers], ids, None, Tiling("gather", 2))
    dirty_video, dirty_text = video.detach().clone(), text.detach().clone()
    dirty_video[1], dirty_text[2] = torch.nan, torch.inf
    leaves = [dirty_video.requires_grad_(), dirty_text.requires_grad_(), *numbers]
    dirty = outcome(name, leaves, ids, None, Tiling("gather", 2))
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
    assert dirty["gradients"][0][1].eq(0).all() and dirty["gradients"][1][2].eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("text_dtype", [torch.bfloat16, torch.float32])
def test_bf16_features_have_fp32_logits(name, autocast, text_dtype):
    video, text, *numbers = draw((48, 48), 64, seed=0, dtype=torch.bfloat16)
    text = text.detach().to(text_dtype).requires_grad_()
    scale, bias = (number.detach().float().requires_grad_() for number in (10 * numbers[0], numbers[1]))
    ids = (torch.arange(48), torch.arange(48))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = outcome(name, [video, text, scale, bias], ids, None, Tiling("gather", 16))
    wide = [each.detach().double().requires_grad_() for each in (video, text, scale, bias)]
    exact = outcome(name, wide, ids, None, Tiling("dense"))
    assert got["sum"].dtype == torch.float32
    assert got["sum"].item() == pytest.approx(exact["sum"].item(), rel=1e-5)
    for mine, theirs, leaf in zip(
        got["gradients"], exact["gradients"], [video, text, scale, bias], strict=False
    ):
        assert mine.dtype == leaf.dtype
        error = (mine.double() - theirs).norm() / theirs.norm()
        assert error < (1e-5 if leaf.dtype == torch.float32 else 3e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_without_gradient_the_loss_is_the_same(name):
    leaves, ids = draw((9, 9), 4, seed=0), (torch.arange(9), torch.arange(9))
    with_gradient = share_of(name, leaves, ids, None, Tiling("gather", 4))
    with torch.no_grad():
        without = share_of(name, leaves, ids, None, Tiling("gather", 4))
    assert not without.sum.requires_grad
    torch.testing.assert_close(without, Share(*(each.detach() for each in with_gradient)))


def test_a_second_derivative_is_refused():
    leaves = draw((4, 4), 3, seed=0)
    share = share_of("clip", leaves, (torch.arange(4), torch.arange(4)), None, Tiling("gather", 2))
    (gradient,) = torch.autograd.grad(share.sum**2, leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_weights_beyond_one_are_refused():
    ids = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="above 0, up to 1"):
        PositiveWeights(ids, ids, torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="name pairs of ids"):
        pair_up(torch.eye(2), torch.eye(2), None, None, PositiveWeights(ids, ids, torch.ones(2)))


@pytest.mark.parametrize(
    ("tiling", "rows", "chosen"),
    [
        (Tiling("auto", 8), (8, 8), "dense"),
        (Tiling("auto", 8), (8, 9), "gather"),
        (Tiling("dense", 8), (80, 90), "dense"),
        (Tiling("ring", 8), (2, 2), "gather"),
        (Tiling(), (128, 128), "dense"),
        (Tiling(), (128, 129), "gather"),
    ],
)
def test_one_rank_takes_tiles_where_the_logits_fill_more_than_one_or_a_cpu_is_faster_with_them(
    tiling, rows, chosen
):
    assert tiling.chosen_for(pairs_of(rows)) == chosen


def test_a_gpu_is_dense_up_to_a_whole_tile():
    for rows, chosen in (((1024, 1024), "dense"), ((1024, 1025), "gather")):
        with pretended("cuda", Kind()):
            assert Tiling().chosen_for(pairs_of(rows)) == chosen


def pairs_of(rows):
    return pair_up(*(torch.zeros(count, 4) for count in rows), *(torch.arange(count) for count in rows))


def chosen_on_rank(rank: int) -> list[str]:
    """The ranks hold different numbers of rows, and agree all the same: 90 x 181 logits are fewer than 128 x 128, 91 x 181 more."""
    chosen = []
    for size, rows, dim in ((16, 3, 4), (1024, 90, 4), (16, 40, 4), (16, 40, 2**22)):
        video = torch.zeros(rows + rank, 1).expand(-1, dim)
        pairs = pair_up(video, video, torch.arange(rows + rank), torch.arange(rows + rank))
        chosen.append(Tiling("auto", size).chosen_for(pairs))
    return chosen


def test_several_ranks_choose_alike_and_go_round_where_all_texts_are_too_many(ranks_of):
    assert ranks_of[2].run(chosen_on_rank) == [["dense", "gather", "gather", "ring"]] * 2


ROWS_OF_RANK, DIM, TILE = 192, 256, 32
# three matrices and softplus's result; videos, texts and what masks them, in fp32
TILE_BYTES = 4 * (4 * TILE * TILE + 4 * TILE * DIM)


def live_bytes(rank: int) -> dict:
    """Peak and largest of forward and backward, on every form and format."""
    found = {}
    for name, dtype, form in itertools.product(
        LOSSES, (torch.bfloat16, torch.float32), ("dense", "gather", "ring")
    ):
        generator = torch.Generator().manual_seed(rank)
        sides = [
            torch.randn(ROWS_OF_RANK, DIM, generator=generator).to(dtype).requires_grad_() for _ in range(2)
        ]
        leaves = [*sides, torch.tensor([10.0], requires_grad=True), torch.tensor([-5.0], requires_grad=True)]
        ids = torch.arange(ROWS_OF_RANK) + ROWS_OF_RANK * rank
        with LiveBytes() as live:
            share = share_of(name, leaves, (ids, ids), None, Tiling(form, TILE))
            gradients = torch.autograd.grad(share.sum, sides)
        del gradients
        found[name, dtype, form] = (live.peak, live.largest)
    return found


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_ring_holds_seventeen_times_the_bytes_of_one_byte_features(ranks_of, world_size):
    """At most 17 b D bytes and a tile with features of two bytes, 21 b D with four; no matrix of b x B."""
    unit = ROWS_OF_RANK * DIM
    for of_rank in ranks_of[world_size].run(live_bytes):
        for name in LOSSES:
            for dtype, times in ((torch.bfloat16, 17), (torch.float32, 21)):
                peak, largest = of_rank[name, dtype, "ring"]
                assert (times - 1) * unit <= peak <= times * unit + TILE_BYTES, (name, dtype, peak / unit)
                assert largest == 4 * unit
                peak, largest = of_rank[name, dtype, "gather"]
                gathered = (dtype.itemsize + 4) * world_size * unit
                assert peak <= gathered + 13 * unit + TILE_BYTES, (name, dtype, peak / unit)
            peak, largest = of_rank[name, torch.float32, "dense"]
            assert largest == max(4 * ROWS_OF_RANK**2 * world_size, 4 * unit * world_size)
