"""Configuration: what is wrong is named by its key, with what is allowed and the nearest name, before anything starts."""

from pathlib import Path

import pytest
import yaml

from deepcoro import config
from deepcoro.config import ConfigError
from deepcoro.resumable import changed_keys
from deepcoro.run_config import RunConfig, keys_changed_since, load_run_config

TINY = config.SHIPPED / "demo" / "tiny.yaml"


def message_of(*overrides: str, path: Path = TINY) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_key_is_named_with_the_nearest_one_and_those_allowed() -> None:
    message = message_of("optim.lrr=1e-3")
    assert "unknown key 'optim.lrr'" in message
    assert "did you mean 'lr'?" in message
    assert "weight_decay" in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "objectives.contrastive.loss.type=clpi",
            ("'objectives.contrastive.loss.type' is 'clpi'", "'clip'", "siglip"),
        ),
        ("towers.video.type=mvit", ("'towers.video.type' is 'mvit'", "'video_mvit'")),
        ("data.fields.video.frame=3", ("unknown key 'data.fields.video.frame'", "'frames'")),
        (
            "objectives.contrastive.embed_dmi=3",
            ("unknown key 'objectives.contrastive.embed_dmi'", "'embed_dim'"),
        ),
        ("towers.video.variant=huge", ("'towers.video.variant' = 'huge'", "mvit_v2_s")),
        ("batch_size=many", ("'batch_size' = 'many'", "integer")),
        ("checkpoint.keep=1", ("'checkpoint.keep' = 1", "greater than or equal to 2")),
        ("loss_weights.captioning=2", ("loss_weights names ['captioning']", "['contrastive']")),
    ],
)
def test_every_kind_of_mistake_names_key_value_and_remedy(override: str, parts: tuple[str, ...]) -> None:
    message = message_of(override)
    for part in parts:
        assert part in message


def test_all_mistakes_are_listed_at_once() -> None:
    message = message_of("optim.lrr=1", "batch_size=0")
    assert "optim.lrr" in message
    assert "batch_size" in message


def test_an_override_without_a_value_and_one_below_a_number_are_refused() -> None:
    assert "has no '='" in message_of("optim.lr")
    assert "'batch_size' holds 4" in message_of("batch_size.x=1")


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\nb: 2")
    assert "not valid YAML" in message_of(path=broken)
    broken.write_text("- a list")
    assert "a mapping of keys is expected" in message_of(path=broken)


def test_a_config_that_is_nowhere_names_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'demo/tiny'"):
        config.find_config("demo/tny")


def test_numbers_in_scientific_notation_are_numbers() -> None:
    assert load_run_config(TINY, ["optim.lr=3e-4"]).optim.lr == 3e-4


def test_the_key_of_a_block_is_its_default_type_and_false_takes_a_default_out() -> None:
    run = load_run_config(TINY, ["evaluate.metrics={retrieval: {recall_at: [2]}, zero_shot: false}"])
    assert "zero_shot" not in run.evaluate.metrics and "captioning" in run.evaluate.metrics
    assert run.evaluate.metrics["retrieval"].recall_at == (2,)
    assert set(run.data.fields) == {"video", "report"}


def test_checkpoint_alone_means_which_one_to_load() -> None:
    run = load_run_config(TINY, ["checkpoint.every_steps=7", "checkpoint=last"])
    assert (run.checkpoint.load, run.checkpoint.every_steps) == ("last", 7)


def test_what_show_prints_reads_back_as_the_same_tree(tmp_path: Path) -> None:
    run = load_run_config(TINY, ["optim.lr=3e-4", "data.shards=some/folder"])
    shown = tmp_path / "shown.yaml"
    shown.write_text(config.show(run))
    assert load_run_config(shown, []) == run


def test_every_key_has_its_sentence() -> None:
    def without(block: type[config.Block], path: str) -> list[str]:
        missing = []
        for name, field in block.model_fields.items():
            if name != "type" and not field.description:
                missing.append(f"{path}{name}")
            for inner in config._blocks_of(field.annotation):
                missing += without(inner, f"{path}{name}.")
        return missing

    assert without(RunConfig, "") == []


def test_keys_that_may_change_on_resume_do_not_count_as_changed() -> None:
    old = config.dump(load_run_config(TINY, []))
    new = config.dump(
        load_run_config(TINY, ["max_steps=99", "data.num_workers=3", "optim.lr=1", "pooler.type=attention"])
    )
    assert changed_keys(old, new) == ["optim.lr", "pooler.hidden_dim", "pooler.hierarchical", "pooler.type"]


def test_a_key_that_a_saved_config_lacks_counts_as_its_default() -> None:
    now = load_run_config(TINY, [])
    saved = config.dump(now)
    for block, key in (
        (saved, "schedules"),
        (saved["optim"], "mvm_lr"),
        (saved["towers"]["video"], "compile"),
    ):
        del block[key]
    assert keys_changed_since(saved, now, "step_3") == []
    changed = load_run_config(TINY, ["optim.mvm_lr=1", "towers.video.compile=true", "max_steps=7"])
    assert keys_changed_since(saved, changed, "step_3") == ["optim.mvm_lr", "towers.video.compile"]


def test_a_saved_config_with_a_key_that_is_no_more_is_named() -> None:
    saved = config.dump(load_run_config(TINY, []))
    saved["optim"]["momentum"] = 0.9
    with pytest.raises(ConfigError, match="step_3: unknown key 'optim.momentum'"):
        keys_changed_since(saved, load_run_config(TINY, []), "step_3")


def test_the_shipped_configs_are_these() -> None:
    assert config.shipped_names() == [
        "clip/base_config",
        "clip/multi_site_config",
        "clip/multi_video_config",
        "clip/multitask_config",
        "clip/remote_config",
        "clip/siglip_config",
        "clip/siglip_texts_config",
        "clip/timm_config",
        "demo/multitask",
        "demo/small",
        "demo/small_probe",
        "demo/tiny",
        "demo/tiny_multitask",
        "demo/tiny_probe",
        "linear_probing/base_config",
        "linear_probing/segments_config",
    ]


@pytest.mark.parametrize("name", config.shipped_names())
def test_line_one_of_a_shipped_config_is_the_command_that_runs_it(name: str) -> None:
    first = config.find_config(name).read_text().splitlines()[0]
    assert first.startswith("# accelerate launch --config_file accelerate_configs/")
    words = first.removeprefix("# ").split()
    assert Path(words[3]).is_file()
    assert words[4:6] == ["train.py", name]
    run = load_run_config(config.find_config(name), words[6:])
    assert yaml.safe_load(config.show(run))["run_dir"] == words[7].removeprefix("run_dir=")


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.read_tree(tmp_path / "latin.yaml")


def test_a_block_of_ninety_heads_does_not_hide_what_is_said_of_it() -> None:
    path = config.find_config("linear_probing/segments_config")
    told = message_of("objectives.linear_probing.head_lr={ctoo: 1}", path=path)
    assert "head_lr names 'ctoo'" in told and "82 more" in told
    assert len(told) < 800
