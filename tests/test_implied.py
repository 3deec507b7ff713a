"""What a run's tree leaves unsaid: fields that objectives read, and no text tower where nobody reads texts."""

import numpy as np
import pydantic
import pytest

from deepcoro.config import Block, ConfigError, dump, parse
from deepcoro.embed import told_heads
from deepcoro.fields import labels
from deepcoro.implied import with_needs
from deepcoro.run_config import RunConfig, run_config_from_dump
from tests.metrics.heads import evaluated


class Heads(Block):
    """Stands for an objective of heads."""

    needs: dict = {}

    def needed_fields(self) -> dict[str, dict]:
        return {"labels": self.needs}


DOMINANCE = {"columns": ["dominance"], "values": {"dominance": {"left": 0, "right": 1}}}


def completed(fields: dict, *needs: dict) -> dict:
    tree = {"objectives": {f"probe{number}": Heads(needs=each) for number, each in enumerate(needs)}}
    whole = with_needs(tree | {"data": {"fields": fields}}, (dict[str, Heads], {}), (Heads | None, None))
    return whole["data"]["fields"]


def test_columns_and_maps_of_several_objectives_and_of_the_yaml_are_joined() -> None:
    fields = completed({"labels": {"columns": ["cto"], "conflict": "max"}}, DOMINANCE, {"columns": ["lvef"]})
    block = labels.Config(**fields["labels"])
    assert block.columns == ["cto", "dominance", "lvef"]
    assert block.values == {"dominance": {"left": 0.0, "right": 1.0}}
    assert block.conflict == "max"


def test_a_map_that_says_otherwise_than_an_objective_needs_is_refused() -> None:
    agreed = completed({"labels": {"values": {"stent": {True: 1}}}}, {"values": {"stent": {"1": 1}}})
    assert agreed["labels"]["values"] == {"stent": {"1": 1}}
    with pytest.raises(ValueError, match=r"data.fields.labels.values.dominance.left is 1.*objectives.probe0"):
        completed({"labels": {"values": {"dominance": {"left": 1}}}}, DOMINANCE)


def test_a_field_that_is_needed_cannot_be_taken_out() -> None:
    with pytest.raises(ValueError, match="reads the field 'labels'"):
        completed({"labels": False}, DOMINANCE)


SIZES = {"cto": 1, "calcification": 1, "dominance": 3, "lvef": 1, "max_stenosis": 1}
LOSSES = {"cto": "bce", "calcification": "focal", "dominance": "ce", "lvef": "mae", "max_stenosis": "huber"}


def probing(*heads: str) -> dict:
    return {
        "type": "linear_probing",
        "head_structure": {head: SIZES[head] for head in heads},
        "loss_structure": {head: LOSSES[head] for head in heads},
    }


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (("lvef", "dominance", "cto", "calcification"), "heads/macro/auroc"),
        (("lvef", "dominance", "cto"), "heads/cto/auroc"),
        (("cto",), "heads/cto/auroc"),
        (("lvef", "dominance"), "heads/dominance/macro_auroc"),
        (("lvef", "max_stenosis"), "heads/macro/pearson_r"),
        (("lvef",), "heads/lvef/pearson_r"),
    ],
)
def test_the_best_checkpoint_of_heads_alone_is_chosen_by_a_metric_of_heads(
    heads: tuple[str, ...], expected: str
) -> None:
    probe = probing(*heads)
    config = RunConfig(objectives={"heads": probe}, evaluate={"every_steps": 5})
    assert (config.evaluate.best_metric, config.evaluate.best_metric_mode) == (expected, "max")
    assert config.evaluate.every_steps == 5
    assert run_config_from_dump(dump(config), "dump") == config
    beside = RunConfig(objectives={"contrastive": {}, "heads": probe})
    assert beside.evaluate.best_metric == "retrieval/text_to_video/R@5"


@pytest.mark.parametrize("num_binary", [0, 1, 2])
@pytest.mark.parametrize("num_numbers", [0, 1, 2])
@pytest.mark.parametrize("num_of_classes", [0, 1])
def test_what_chooses_the_best_checkpoint_is_among_what_evaluation_measures(
    num_binary: int, num_numbers: int, num_of_classes: int
) -> None:
    names = ["cto", "calcification"][:num_binary] + ["lvef", "max_stenosis"][:num_numbers]
    names += ["dominance"][:num_of_classes]
    if not names:
        return
    config = RunConfig(objectives={"probe": probing(*names)})
    heads = {key.removeprefix("probe/"): head for key, head in told_heads(config).items()}
    generator = np.random.default_rng(0)
    said = {name: generator.random((30, SIZES[name])) for name in names}
    truth = {name: (np.arange(30) % max(SIZES[name], 2)).tolist() for name in names}
    measured: dict[str, float] = {}
    for name in ("classification", "regression"):
        metric = config.evaluate.metrics[name].model_copy(update={"bootstrap_samples": 0}).build()
        measured |= metric.measure(evaluated(heads, said, truth))[0]
    assert config.evaluate.best_metric in measured


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        ({"masked_modeling": {}}, ("masked_modeling/error", "min")),
        ({"captioning": {}}, ("captioning/cider_d", "max")),
        ({"masked_modeling": {}, "captioning": {}}, ("captioning/cider_d", "max")),
        ({"masked_modeling": {}, "heads": probing("lvef")}, ("heads/lvef/pearson_r", "max")),
        ({"captioning": {}, "contrastive": {}}, ("retrieval/text_to_video/R@5", "max")),
    ],
)
def test_a_run_without_contrastive_is_not_judged_by_searches(
    objectives: dict, expected: tuple[str, str]
) -> None:
    config = RunConfig(objectives=objectives)
    assert (config.evaluate.best_metric, config.evaluate.best_metric_mode) == expected


def test_a_best_metric_that_is_named_is_never_replaced() -> None:
    probe = {"linear_probing": {"head_structure": {"lvef": 1}, "loss_structure": {"lvef": "mae"}}}
    named = {"best_metric": "linear_probing/lvef/mae", "best_metric_mode": "min"}
    config = RunConfig(objectives=probe, evaluate=named)
    assert (config.evaluate.best_metric, config.evaluate.best_metric_mode) == tuple(named.values())


def test_the_mode_alone_does_not_turn_the_best_metric_into_one_that_heads_do_not_have() -> None:
    config = RunConfig(objectives={"heads": probing("lvef")}, evaluate={"best_metric_mode": "max"})
    assert config.evaluate.best_metric == "heads/lvef/pearson_r"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"objectives": {"heads": probing("lvef") | {"head_lr": {"lvf": 1}}}}, "did you mean 'lvef'"),
        ({"objectives": {"heads": probing("lvef") | {"loss_structure": {"lvef": "maee"}}}}, "'maee'"),
        ({"pooler": {"type": "atention"}}, "did you mean 'attention'"),
    ],
)
def test_what_is_wrong_of_objectives_and_pooler_is_all_that_is_told(changes: dict, cause: str) -> None:
    tree = {"objectives": {"heads": probing("lvef")}, "data": {"fields": {"labels": {"conflict": "max"}}}}
    with pytest.raises(ConfigError) as told:
        parse(RunConfig, tree | changes, "a.yaml")
    assert cause in str(told.value) and "columns" not in str(told.value)


def test_a_run_whose_objectives_read_no_text_has_no_text_tower_and_no_field_of_texts() -> None:
    config = RunConfig(
        objectives={"masked_modeling": {}},
        towers={"text": {"type": "text_hf", "text_freeze_ratio": 1}},
        data={"fields": {"report": {"max_tokens": 8}, "caption": {}}},
    )
    assert config.towers.text is None
    assert sorted(config.data.fields) == ["video"]
    again = run_config_from_dump(dump(config), "dump")
    assert again == config


def test_a_run_that_reads_texts_needs_a_text_tower() -> None:
    assert RunConfig().towers.text is not None
    assert "report" in RunConfig().data.fields
    with pytest.raises(pydantic.ValidationError, match=r"objectives \['contrastive'\] read texts"):
        RunConfig(towers={"text": None})


def test_a_tree_that_is_wrong_keeps_its_own_error() -> None:
    with pytest.raises(pydantic.ValidationError, match="temperature"):
        RunConfig(objectives={"contrastive": {"temperature": 1}})
