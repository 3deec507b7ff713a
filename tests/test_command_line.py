"""What a user meets: one line that says what is wrong and what to do, and an exit code."""

import json
import shutil
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from deepcoro.config import dump, find_config, shipped_names, show
from deepcoro.run_config import load_run_config, run_config_from_dump
from tests.launch import SILENT, exit_code, launch, main_on_this_rank, tiny


def told(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str]:
    """Exit code and the lines on stderr that are not log lines."""
    code = main_on_this_rank("ddp", *words)
    error = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith(("ConfigE", "DataE", "Trace"))
    ]
    return code, "\n".join(error)


BAD_WORDS = {
    "an unknown key": (["demo/tiny", "optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'lr'?"),
    "a value of the wrong kind": (["demo/tiny", "batch_size=many"], "'batch_size' = 'many'"),
    "an override without =": (["demo/tiny", "batch_size"], "has no '='"),
    "an unknown config": (["demo/tinny"], "did you mean 'demo/tiny'?"),
    "no config": ([], "name a config"),
    "an unknown choice": (["demo/tiny", "pooler.type=maen"], "did you mean 'mean'?"),
    "no shards": (["demo/tiny"], "data.shards is not set"),
    "a missing folder": (["demo/tiny", "data.shards=nowhere"], "nowhere holds no manifest.json"),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, case: str
) -> None:
    words, expected = BAD_WORDS[case]
    code, line = told(capsys, *words, *([f"run_dir={tmp_path}"] if words else []))
    assert code == 2
    assert expected in line and "\n" not in line and "Traceback" not in line


def test_the_summary_of_torchs_launcher_ends_with_the_line_of_any_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("RANK", "1")
    assert main_on_this_rank("ddp", "demo/tiny", "optim.lrr=1", f"run_dir={tmp_path}") == 2
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=str(tmp_path / "error.json"))
    last = str(ChildFailedError("train.py", {1: failure})).splitlines()[-2]
    assert "traceback : ConfigError: " in last and "unknown key 'optim.lrr'; did you mean 'lr'?" in last


def without_split(shards: Path, copy: Path, split: str) -> Path:
    shutil.copytree(shards, copy)
    lines = (copy / "splits.csv").read_text().splitlines(keepends=True)
    (copy / "splits.csv").write_text("".join(line for line in lines if not line.endswith(f",{split}\n")))
    return copy


def test_an_empty_split_names_those_there_are(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shards = without_split(tiny_shards, tmp_path / "shards", "val")
    words = tiny(shards, tmp_path / "run", "max_steps=1")
    assert told(capsys, *words)[0] == 0, "training does without"
    code, line = told(capsys, *words, "run_mode=val")
    said = "DataError: split 'val' is empty; splits of this folder: ['train', 'test']"
    assert code == 2 and line == f"{said} [docs/errors.md#empty-split]"
    assert exit_code(tmp_path / "run") == 2


def test_a_text_model_that_is_not_there_says_what_to_do(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = tiny(tiny_shards, tmp_path, "towers.text={type: text_hf, model: no/such}")
    code, line = told(capsys, *words)
    assert code == 2 and line.startswith("ConfigError: towers.text.model = 'no/such' cannot be loaded")
    assert "hf download" in line and "\n" not in line
    record = json.loads((tmp_path / "exit.json").read_text())
    assert record["code"] == 2 and record["reason"] in line and record["rank"] == 0


def test_debug_shows_where_it_came_from(tmp_path: Path) -> None:
    from deepcoro.config import ConfigError

    with pytest.raises(ConfigError, match="data.shards is not set"):
        main_on_this_rank("ddp", "demo/tiny", f"run_dir={tmp_path}", "--debug")


def test_what_was_taken_out_stays_out_when_the_config_is_read_from_a_run_or_checkpoint(
    tmp_path: Path,
) -> None:
    words = ["evaluate.metrics.zero_shot=false", "data.fields.video.frames=4"]
    run = load_run_config(find_config("demo/tiny_probe"), words)
    (tmp_path / "shown.yaml").write_text(show(run))
    again = load_run_config(tmp_path / "shown.yaml", [])
    assert again == run == run_config_from_dump(json.loads(json.dumps(dump(run))), "the checkpoint")
    assert "zero_shot" not in again.evaluate.metrics and "retrieval" in again.evaluate.metrics


@pytest.mark.parametrize("name", shipped_names())
def test_what_is_shown_reads_back_as_the_same_config(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    assert main_on_this_rank("ddp", name, "optim.lr=0.125", "--show") == 0
    shown = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(shown)
    expected = load_run_config(find_config(name), ["optim.lr=0.125"])
    assert load_run_config(tmp_path / "shown.yaml", []) == expected
    assert "# Peak learning rate of the video tower" in shown


@pytest.mark.parametrize(
    ("folder", "types"),
    [
        ("objectives", ["contrastive", "captioning", "masked_modeling", "linear_probing"]),
        ("losses", ["clip", "siglip", "bce", "ce", "focal", "ordinal", "huber", "mse", "mae"]),
        ("towers", ["video_mvit", "video_timm", "text_hf"]),
        (
            "poolers",
            [
                *(
                    "mean",
                    "max",
                    "attention",
                    "cls_token",
                    "mean_cls_token",
                    "attention_cls_token",
                    "transformer",
                ),
                *("multi_instance", "aggregator"),
            ],
        ),
        ("fields", ["video", "report", "caption", "texts"]),
        ("metrics", ["retrieval", "zero_shot", "captioning", "clinical_findings", "reconstruction"]),
    ],
)
def test_a_list_names_every_choice_of_a_folder(
    capsys: pytest.CaptureFixture, folder: str, types: list[str]
) -> None:
    assert main_on_this_rank("ddp", "--list", folder) == 0
    listed = capsys.readouterr().out
    assert [name for name in types if f"type: {name}" not in listed] == []


def test_help_teaches_by_example(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main_on_this_rank("ddp", "--help")
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for taught in (
        "accelerate launch --config_file",
        "--show",
        "--list",
        "run_mode=test",
        "75 preempted",
        "exit.json",
    ):
        assert taught in text


def test_a_bug_leaves_its_code_and_its_traceback(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("deepcoro.train._loop", fail)
    with pytest.raises(ZeroDivisionError):
        main_on_this_rank("ddp", *tiny(tiny_shards, tmp_path, *SILENT))
    assert exit_code(tmp_path) == 1


def test_accelerate_hides_the_code_and_exit_json_tells_it(tmp_path: Path) -> None:
    finished = launch("cpu_1", "demo/tiny", "data.shards=nowhere", f"run_dir={tmp_path}")
    assert finished.code == 1
    # by the rank, and in the summary with which torch's launcher ends
    assert finished.stderr.count("DataError: nowhere holds no manifest.json") == 2
    assert "DataError: nowhere holds no manifest.json" in finished.stderr.splitlines()[-2]
    assert exit_code(tmp_path) == 2
