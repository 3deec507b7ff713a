"""Which output of a head is explained: by the word of its class, by its number, or not at all."""

import argparse

import pytest
import torch
from torch import nn

from deepcoro.config import ConfigError
from deepcoro.explain.targets import chosen_target, head_target
from deepcoro.run_config import run_config_from_dump

PROBE = {
    "type": "linear_probing",
    "head_structure": {"cto": 1, "dominance": 3},
    "head_task": {"cto": "binary_classification", "dominance": "multiclass_classification"},
    "labels_map": {"dominance": {"right": 0, "left": 1, "co": 2}},
}
CONFIG = run_config_from_dump({"objectives": {"probe": PROBE}}, "test")
MODEL, OBJECTIVE = nn.Module(), nn.Module()
OBJECTIVE.heads = nn.ModuleDict({head: nn.Identity() for head in PROBE["head_structure"]})
MODEL.objectives = nn.ModuleDict({"probe": OBJECTIVE})
SAID = {
    "probe/cto/prediction": torch.tensor([[0.6]]),
    "probe/dominance/prediction": torch.tensor([[0.2, 0.7, 0.1]]),
}


@pytest.mark.parametrize(
    ("head", "output", "name", "score"),
    [
        ("dominance", None, "dominance", 0.2),
        ("dominance", "left", "dominance_1", 0.7),
        ("dominance", "2", "dominance_2", 0.1),
        ("cto", None, "cto", 0.6),
        ("cto", "0", "cto", 0.6),
    ],
)
def test_a_class_is_named_by_its_word_or_its_number(
    head: str, output: str | None, name: str, score: float
) -> None:
    target = head_target(MODEL, CONFIG, head, output)
    assert target.name == name and target.objectives == ("probe",)
    assert target.of(SAID).tolist() == pytest.approx([score])


@pytest.mark.parametrize(
    ("head", "output", "told"),
    [
        ("dominance", "5", r"its classes: 0 \(right\), 1 \(left\), 2 \(co\)"),
        ("dominance", "-1", r"its classes: 0 \(right\)"),
        ("dominance", "Left", r"--output 'Left' is no class of the head 'dominance'"),
        ("cto", "5", "it says one number: leave --output out"),
    ],
)
def test_a_class_that_is_not_there_is_one_line_that_lists_what_there_is(
    head: str, output: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        head_target(MODEL, CONFIG, head, output)


def test_a_class_of_no_head_is_refused() -> None:
    options = argparse.Namespace(head=None, text=None, task="cto", output="1")
    with pytest.raises(ConfigError, match="name the head with --head"):
        chosen_target(options, MODEL, CONFIG, None)
