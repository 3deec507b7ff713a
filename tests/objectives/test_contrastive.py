import math

import pydantic
import pytest
import torch
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from deepcoro.features import Features, Surroundings
from deepcoro.losses import clip, siglip
from deepcoro.objectives.contrastive import Config
from deepcoro.optim import parameter_groups
from deepcoro.run_config import Optim
from tests.ranks import Ranks

VIDEO_DIM, TEXT_DIM = 5, 3
CONFIGS = {
    "clip": Config(embed_dim=4, loss=clip.Config(init_logit_scale=6)),
    "siglip": Config(embed_dim=4, loss=siglip.Config(init_logit_scale=6, init_logit_bias=-2)),
}
FORMS = ("dense", "gather", "ring")
# Report of each row of four global batches of six rows: None = no report, a minus sign = a sample that could not be read.
WINDOW = [[1, 2, 1, 3, 2, 1], [4, None, 5, 5, -4, 4], [-1, None, None, -2, None, -1], [1, 2, 3, 4, 5, 6]]


def beside(video_dim: int, text_dim: int) -> Surroundings:
    return Surroundings(video_dim, text_dim, tokenizer=None, frames=4, size_px=32)


def share_of(objective: torch.nn.Module, features: dict, batch: dict) -> dict:
    return objective(Features(study=features["video"], text=features["text"]), batch)


def text_of(report: int) -> torch.Tensor:
    """What the frozen text tower of these tests makes of a report."""
    return torch.randn(TEXT_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(10**6 + report))


def film_of(position: int) -> torch.Tensor:
    return torch.randn(VIDEO_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(position))


def micro_batch(reports: list[int | None], first_position: int) -> tuple[dict, dict]:
    """Features and batch of one rank, collated as the report field does: a text that rows share is there once."""
    distinct = list(dict.fromkeys(abs(report) for report in reports if report is not None))
    features = {
        "video": torch.stack([film_of(first_position + row) for row in range(len(reports))]),
        "text": torch.stack([text_of(report) for report in distinct or [0]]),
    }
    batch = {
        "valid": torch.tensor([report is None or report > 0 for report in reports]),
        "report_id": torch.tensor([-1 if report is None else abs(report) for report in reports]),
        "report": {
            "index": torch.tensor([0 if each is None else distinct.index(abs(each)) for each in reports])
        },
    }
    return features, batch


def build(name: str, form: str = "dense") -> torch.nn.Module:
    torch.manual_seed(0)
    # tiles of two rows, so that even these batches take several
    config = CONFIGS[name].model_copy(update={"form": form, "tile": 2})
    return config.build(beside(VIDEO_DIM, TEXT_DIM)).double()


def train_window(rank: int, world_size: int, name: str, form: str, window: list[list]) -> dict:
    """One optimiser step's gradients as the training loop takes them: sum * world size / count of the whole window."""
    objective = build(name, form)
    micro_batches = []
    for number, reports in enumerate(window):
        rows = len(reports) // world_size
        mine = reports[rank * rows : (rank + 1) * rows]
        micro_batches.append(micro_batch(mine, 100 * number + rank * rows))
    count = sum(objective.count(batch) for _, batch in micro_batches)
    if world_size > 1:
        torch.distributed.all_reduce(count)
    loss = sum(share_of(objective, *each)["sum"] for each in micro_batches) * world_size / count.clamp(min=1)
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in objective.named_parameters()}
    if world_size > 1:
        for value in (loss.data, *gradients.values()):
            torch.distributed.all_reduce(value)
            value /= world_size
    return {"loss": loss.detach(), "count": count, **gradients}


def train_all(rank: int, world_size: int) -> dict:
    return {
        (name, form, length): train_window(rank, world_size, name, form, WINDOW[:length])
        for name in CONFIGS
        for form in FORMS
        for length in (1, 4)
    }


def unit_vectors(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.square().sum(dim=1, keepdim=True).sqrt()


def radford(logits: torch.Tensor, is_own: torch.Tensor) -> torch.Tensor:
    """Figure 3 of arXiv:2103.00020, where a query of several positives has them all as its target, uniformly."""
    both = [
        functional.cross_entropy(each, own / own.sum(dim=1, keepdim=True))
        for each, own in ((logits, is_own), (logits.T, is_own.T))
    ]
    return sum(both) / 2


def zhai(logits: torch.Tensor, is_own: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of arXiv:2303.15343: labels of 1 and -1, and the sum over all pairs by the number of videos."""
    return -functional.logsigmoid((2 * is_own - 1) * logits).sum() / len(logits)


def by_definition(name: str, window: list[list]) -> dict:
    """The mean over the window's videos with a report, each weighed by the loss of its own batch of distinct texts.

    From the published formulas and torch's own functions: nothing here is ours but the parameters.
    """
    objective = build(name)
    weighed, count = 0, 0
    for number, reports in enumerate(window):
        rows = [row for row, report in enumerate(reports) if report is not None and report > 0]
        if not rows:
            continue
        wanted = torch.tensor([reports[row] for row in rows])
        distinct = torch.tensor(sorted({reports[row] for row in rows}))
        films = torch.stack([film_of(100 * number + row) for row in rows])
        texts = torch.stack([text_of(report) for report in distinct.tolist()])
        video = unit_vectors(films @ objective.video_projection.weight.T)
        text = unit_vectors(texts @ objective.text_projection.weight.T)
        logits = objective.logit_scale.exp() * video @ text.T
        is_own = (wanted[:, None] == distinct).double()
        loss = radford(logits, is_own) if name == "clip" else zhai(logits + objective.logit_bias, is_own)
        weighed, count = weighed + len(rows) * loss, count + len(rows)
    loss = weighed / count
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in objective.named_parameters()}
    return {"loss": loss.detach().reshape(1), "count": torch.tensor([count]), **gradients}


class TextAndObjective(torch.nn.Module):
    """A learning text tower under the objective, as data-parallel training wraps them: one module, one forward."""

    def __init__(self, form: str):
        super().__init__()
        self.text = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 8), torch.nn.Tanh())
        config = CONFIGS["clip"].model_copy(update={"form": form, "tile": 2})
        self.objective = config.build(beside(VIDEO_DIM, 8))

    def forward(self, features: dict, batch: dict) -> dict:
        reports, index = batch["report_id"].unique(return_inverse=True)
        return share_of(
            self.objective, features | {"text": self.text(reports)}, batch | {"report": {"index": index}}
        )


def train_data_parallel(rank: int, world_size: int, form: str) -> dict:
    """Three steps; every parameter at the end."""
    torch.manual_seed(0)
    model = TextAndObjective(form).double()
    # small buckets, so that their reductions run among those of the gathers
    wrapped = DistributedDataParallel(model, bucket_cap_mb=0.001) if world_size > 1 else model
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = len(WINDOW[0]) // world_size
    for step in range(3):
        mine = slice(rank * rows, (rank + 1) * rows)
        features, batch = micro_batch(WINDOW[0][mine], 100 * step + rank * rows)
        loss = wrapped(features, batch)["sum"] * world_size / len(WINDOW[0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {key: parameter.detach() for key, parameter in model.named_parameters()}


def everything(rank: int, world_size: int) -> dict:
    steps = {}
    if world_size < 3:
        steps = {("data_parallel", form): train_data_parallel(rank, world_size, form) for form in FORMS}
    return train_all(rank, world_size) | steps


@pytest.mark.parametrize("form", FORMS)
def test_data_parallel_steps_of_tower_projections_and_scale_are_those_of_one_process(trained, form):
    torch.manual_seed(0)
    started = TextAndObjective("dense").double()
    for key, wanted in trained[1]["data_parallel", "dense"].items():
        torch.testing.assert_close(trained[2]["data_parallel", form][key], wanted, rtol=1e-12, atol=1e-13)
        assert not torch.equal(wanted, started.get_parameter(key))


@pytest.fixture(scope="module")
def trained(ranks_of: dict[int, Ranks]) -> dict[int, dict]:
    """Windows by number of ranks; the ranks agree, so one of them speaks."""
    return {1: everything(0, 1)} | {ranks: ranks_of[ranks].run(everything, ranks)[-1] for ranks in (2, 3)}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 4])
def test_a_window_is_normalised_by_all_its_valid_videos(trained, name, world_size, form, length):
    expected = by_definition(name, WINDOW[:length])
    got = trained[world_size][name, form, length]
    assert got.keys() == expected.keys()
    for key, wanted in expected.items():
        torch.testing.assert_close(
            got[key], wanted, rtol=1e-12, atol=1e-13, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_without_reports_is_a_zero_that_moves_nothing(name, form):
    objective = build(name, form)
    features, batch = micro_batch(WINDOW[2], 0)
    features = {key: value.requires_grad_() for key, value in features.items()}
    result = share_of(objective, features, batch)
    result["sum"].backward()
    assert objective.count(batch).tolist() == [0]
    assert result["sum"].item() == 0
    assert result["in_batch_accuracy"].item() == 0
    for leaf in (*features.values(), *objective.parameters()):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_an_unreadable_sample_changes_nothing_but_its_absence():
    objective = build("clip")
    features, batch = micro_batch([1, -2, 2], 0)
    features["video"][1] = 1e6
    with_it = share_of(objective, features, batch)["sum"]
    without, small = micro_batch([1, 2], 0)
    without["video"][1] = features["video"][2]
    torch.testing.assert_close(with_it, share_of(objective, without, small)["sum"])
    assert objective.count(batch).tolist() == [2]


def test_metrics_show_the_multiplier_and_the_bias_without_gradient():
    objective = build("siglip")
    result = share_of(objective, *micro_batch(WINDOW[0], 0))
    assert result.keys() == {"sum", "logit_scale", "logit_bias", "in_batch_accuracy"}
    assert all(value.shape == (1,) for value in result.values())
    assert [key for key, value in result.items() if value.requires_grad] == ["sum"]
    assert result["logit_scale"].item() == pytest.approx(6)
    assert result["logit_bias"].item() == -2
    assert "logit_bias" not in share_of(build("clip"), *micro_batch(WINDOW[0], 0))


def test_in_batch_accuracy_counts_the_nearest_text_and_shares_ties():
    objective = Config(embed_dim=3).build(beside(3, 3))
    with torch.no_grad():
        objective.video_projection.weight.copy_(torch.eye(3))
        objective.text_projection.weight.copy_(torch.eye(3))
    batch = {
        "valid": torch.tensor([True, True, True, False]),
        "report_id": torch.tensor([5, 6, 5, 6]),
        "report": {"index": torch.tensor([0, 1, 0, 1])},
    }
    video = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])  # right, wrong, tie, not read
    result = share_of(objective, {"video": video, "text": torch.eye(3)[:2]}, batch)
    assert result["in_batch_accuracy"].item() == pytest.approx(1.5 / 3)


BOUNDS = [
    ("logit_scale", math.log(1000), math.log(100), 100),
    ("logit_scale", math.log(0.01), math.log(1), 1),
    ("logit_bias", 120.0, 100.0, 100),
    ("logit_bias", -120.0, -100.0, -100),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "beyond", "bound", "shown"), BOUNDS)
def test_scale_and_bias_stop_at_their_bounds_and_can_come_back(form, name, beyond, bound, shown):
    """Past the bound the value is the bound's, and so is the gradient."""
    gradients = []
    for value in (beyond, bound):
        objective = build("siglip", form)
        with torch.no_grad():
            objective.get_parameter(name).fill_(value)
        result = share_of(objective, *micro_batch(WINDOW[0], 0))
        assert result[name].item() == pytest.approx(shown)
        result["sum"].backward()
        gradients.append(objective.get_parameter(name).grad)
    assert gradients[0].abs().item() > 0
    torch.testing.assert_close(*gradients)


def test_scale_and_bias_are_in_the_optimiser_and_never_decay():
    objective = build("siglip")
    groups = parameter_groups(objective, Optim(weight_decay=0.1))
    decays = {id(each): group["weight_decay"] for group in groups for each in group["params"]}
    assert [decays[id(each)] for each in (objective.logit_scale, objective.logit_bias)] == [0, 0]
    assert {"logit_scale", "logit_bias"} <= objective.state_dict().keys()


def test_under_bf16_autocast_embeddings_are_fp32_unit_vectors():
    objective = CONFIGS["clip"].build(beside(VIDEO_DIM, TEXT_DIM))
    features, batch = micro_batch(WINDOW[0], 0)
    features = {key: value.bfloat16() for key, value in features.items()}
    with torch.autocast("cpu", torch.bfloat16):
        embedding = objective.embed_video(features["video"])
        result = share_of(objective, features, batch)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(6))
    assert {value.dtype for value in result.values()} == {torch.float32}
    exact = share_of(objective.double(), {key: value.double() for key, value in features.items()}, batch)
    assert result["sum"].item() == pytest.approx(exact["sum"].item(), rel=1e-5)


def test_scalars_have_shape_one_and_projections_no_bias():
    shapes = {key: tuple(value.shape) for key, value in build("siglip").named_parameters()}
    assert shapes == {
        "logit_scale": (1,),
        "logit_bias": (1,),
        "video_projection.weight": (4, VIDEO_DIM),
        "text_projection.weight": (4, TEXT_DIM),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_logit_scale": 10}, "is above max_logit_scale"),
        ({"min_logit_scale": 50}, "is below min_logit_scale"),
        ({"loss": siglip.Config(), "max_logit_bias": 5}, "is farther from 0 than max_logit_bias"),
        ({"form": "circle"}, "'auto', 'dense', 'gather' or 'ring'"),
        ({"tile": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        Config(**settings)


def test_by_itself_a_small_batch_is_dense_and_a_large_one_goes_in_tiles():
    """Told apart by the second derivative, which tiles do not have."""
    for tile, is_dense in ((5, True), (2, False)):
        config = CONFIGS["clip"].model_copy(update={"tile": tile})
        objective = config.build(beside(VIDEO_DIM, TEXT_DIM)).double()
        total = share_of(objective, *micro_batch(WINDOW[0], 0))["sum"]
        (gradient,) = torch.autograd.grad(total, [objective.video_projection.weight], create_graph=True)
        (again,) = torch.autograd.grad(gradient.sum(), [objective.logit_scale], allow_unused=True)
        assert (again is not None) == is_dense
