"""What a config says that cannot be meant is told when it is loaded, in one line that says what to change."""

import pytest

from deepcoro.config import ConfigError, dump, find_config
from deepcoro.run_config import RunConfig, config_of_run, load_run_config, run_config_from_dump

PROBE = "linear_probing/base_config"
OUTCOME = "evaluate.metrics.survival.outcomes={death: {head: %s, event: mace, time: mace_days}}"


def load(*words: str) -> RunConfig:
    return load_run_config(find_config(PROBE), list(words))


def test_the_best_checkpoint_by_an_error_is_the_one_with_the_smallest() -> None:
    evaluate = load("evaluate.best_metric=linear_probing/lvef/mae").evaluate
    assert (evaluate.best_metric, evaluate.best_metric_mode) == ("linear_probing/lvef/mae", "min")


@pytest.mark.parametrize(
    ("metric", "mode", "better"),
    [("linear_probing/lvef/mae", "max", "lower"), ("linear_probing/cto/auroc", "min", "higher")],
)
def test_a_mode_that_would_keep_the_worst_checkpoint_is_refused(metric: str, mode: str, better: str) -> None:
    words = (f"evaluate.best_metric={metric}", f"evaluate.best_metric_mode={mode}")
    with pytest.raises(ConfigError, match=f"best_metric_mode is {mode}, and a {better} '{metric}' is better"):
        load(*words)
    assert load(*words, "run_mode=test").evaluate.best_metric_mode == mode, "it chooses nothing there"


def test_of_a_metric_that_nobody_knows_the_word_of_the_user_holds() -> None:
    words = ("evaluate.best_metric=mine/distance", "evaluate.best_metric_mode=min")
    assert load(*words).evaluate.best_metric_mode == "min"
    assert load(words[0]).evaluate.best_metric_mode == "max"


def test_patience_that_is_never_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"early_stop_patience=3 counts.*set evaluate\.every_steps"):
        load("evaluate.early_stop_patience=3", "evaluate.every_steps=null")


def test_a_run_that_is_there_already_is_read_whatever_it_was_told(tmp_path) -> None:
    tree = dump(load()) | {"run_dir": str(tmp_path)}
    tree["evaluate"] |= {"every_steps": None, "best_metric": "linear_probing/lvef/mae", "best_metric_mode": "max"}  # fmt: skip
    kept = run_config_from_dump(tree, "the checkpoint")
    assert kept.evaluate.early_stop_patience == 10
    (tmp_path / "config.yaml").write_text("evaluate: {early_stop_patience: 3}\n")
    assert config_of_run(tmp_path, []).evaluate.early_stop_patience == 3


def test_the_head_of_an_outcome_is_named_with_its_objective() -> None:
    with pytest.raises(ConfigError, match=r"outcomes\.death\.head is 'cto'.*did you mean 'linear_probing/cto'") as told:  # fmt: skip
        load(OUTCOME % "cto")
    assert "linear_probing/lvef" in str(told.value) and "dominance" not in str(told.value)
    with pytest.raises(ConfigError, match="is 'linear_probing/dominance'"):
        load(OUTCOME % "linear_probing/dominance")
    assert load(OUTCOME % "linear_probing/cto").evaluate.metrics["survival"].outcomes


def test_a_run_without_heads_may_keep_the_outcomes_of_its_siblings() -> None:
    words = [OUTCOME % "linear_probing/cto"]
    assert load_run_config(find_config("demo/tiny"), words).evaluate.metrics["survival"].outcomes


def test_a_field_of_labels_that_nobody_reads_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.fields\.labels\.columns is empty.*name at least one column"):  # fmt: skip
        load_run_config(find_config("demo/tiny"), ["data.fields.labels={}"])
