"""tools/ablate.py: subsets and seeds as runs, nothing run twice, one table of all."""

import csv
import json
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

from deepcoro import ablation
from deepcoro.config import ConfigError
from tests.launch import ROOT, main_on_this_rank
from tests.tools.command import call_tool

TWO = (
    "objectives={contrastive: {embed_dim: 16}, other: {type: contrastive, embed_dim: 16}}",
    "loss_weights.other=0.5",
    "schedules.other={warmup_fraction: 0.5}",
)
QUICK = ("max_steps=1", "evaluate.metrics={retrieval: {bootstrap_samples: 0}, zero_shot: false}")


class Launches:
    """Stands for `accelerate launch`: writes what a run leaves behind, and remembers its words."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.fails_at: int | None = None

    def __call__(self, words: Sequence[str]) -> int:
        self.words.append(list(words))
        given = dict(word.partition("=")[::2] for word in words[1:])
        folder = Path(given["run_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        if len(self.words) == self.fails_at:
            (folder / "exit.json").write_text(json.dumps({"code": 2, "reason": "the disk is full"}))
            return 1
        if given["run_mode"] != "train":
            (folder / "results").mkdir()
            size = len(folder.parent.name.split("+"))
            metrics = {
                "retrieval/text_to_video/R@5": 0.1 * size + 0.02 * int(given["seed"]),
                "only/here": 1.0,
            }
            (folder / "results" / f"tiny_{given['run_mode']}.json").write_text(
                json.dumps({"metrics": metrics})
            )
        return 0


@pytest.fixture
def launches(monkeypatch) -> Launches:
    made = Launches()
    monkeypatch.setattr(ablation, "launcher", lambda accelerate_config, script: made)
    return made


def call(folder: Path, monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    return call_tool("ablate", ("demo/tiny", "--output", folder, *words), monkeypatch, capsys)


def run_folders(launches: Launches) -> list[str]:
    found = [dict(word.partition("=")[::2] for word in words[1:])["run_dir"] for words in launches.words]
    return ["/".join(Path(each).parts[-2:]) for each in found]


def test_every_subset_is_trained_with_every_seed_and_evaluated(tmp_path, launches, monkeypatch, capsys):
    code, out, _ = call(tmp_path, monkeypatch, capsys, "--seeds", "2", *TWO)
    assert code == 0
    rounds = [
        f"{name}/seed_{seed}" for seed in (0, 1) for name in ("contrastive", "other", "contrastive+other")
    ]
    assert run_folders(launches) == [folder for folder in rounds for _ in range(2)]
    alone, evaluated = launches.words[:2]
    assert "objectives.other=false" in alone and "run_mode=train" in alone and "seed=0" in alone
    assert (
        "loss_weights={}" in alone and "schedules={}" in alone
    ), "those of an objective that is off are an error"
    assert evaluated[-2:] == ["run_mode=test", "checkpoint=last"]
    assert not any(word.startswith(("loss_weights={", "schedules={")) for word in launches.words[-1])
    table = (tmp_path / "ablation.md").read_text().splitlines()
    assert table[0] == "| contrastive | other | seeds | `retrieval/text_to_video/R@5` |"
    assert table[2] == "| ✓ |  | 2 | 0.110 ± 0.014 |"
    assert table[4] == "| ✓ | ✓ | 2 | 0.210 ± 0.014 |"
    with (tmp_path / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["objectives"] for row in rows} == {"contrastive", "other", "contrastive+other"}
    assert {row["metric"] for row in rows} == {"retrieval/text_to_video/R@5", "only/here"}
    assert float(rows[1]["mean"]) == pytest.approx(0.11) and rows[1]["seeds"] == "2"
    assert str(tmp_path / "ablation.md") in out


def test_a_failed_run_is_named_and_the_same_command_goes_on(tmp_path, launches, monkeypatch, capsys):
    launches.fails_at = 3
    code, _, err = call(tmp_path, monkeypatch, capsys, "--seeds", "1", *TWO)
    assert code == 2 and "other/seed_0 (train) failed: the disk is full" in err
    code, _, _ = call(tmp_path, monkeypatch, capsys, "--seeds", "1", *TWO)
    assert code == 0
    again = run_folders(launches)[3:]
    assert again == ["other/seed_0"] * 2 + ["contrastive+other/seed_0"] * 2, "the finished run stays"
    code, _, _ = call(tmp_path, monkeypatch, capsys, "--seeds", "1", *TWO)
    assert code == 0 and len(launches.words) == 7


def test_chosen_subsets_and_columns(tmp_path, launches, monkeypatch, capsys):
    words = ("--subsets", "other+contrastive", "--seeds", "1", "--metrics", "only/*", "--split", "val", *TWO)
    assert call(tmp_path, monkeypatch, capsys, *words)[0] == 0
    assert run_folders(launches) == ["contrastive+other/seed_0"] * 2
    assert "run_mode=val" in launches.words[1]
    assert (tmp_path / "ablation.md").read_text().splitlines()[2] == "| ✓ | ✓ | 1 | 1.000 |"


def test_what_is_not_switched_is_always_on(tmp_path, launches, monkeypatch, capsys):
    assert call(tmp_path, monkeypatch, capsys, "--objectives", "other", "--seeds", "1", *TWO)[0] == 0
    assert run_folders(launches) == ["none/seed_0"] * 2 + ["other/seed_0"] * 2
    assert "objectives.other=false" in launches.words[0]


def test_the_table_alone_runs_nothing(tmp_path, launches, monkeypatch, capsys):
    assert call(tmp_path, monkeypatch, capsys, "--table_only", *TWO)[0] == 0
    assert launches.words == []
    assert (tmp_path / "ablation.md").read_text().splitlines()[2] == "| ✓ |  | 0 |"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--subsets", "contrastive,contrastive+dreaming"),
            "names ['dreaming']; allowed: ['contrastive', 'other']",
        ),
        (("--subsets", "other+other"), "names an objective twice"),
        (("--objectives", "dreaming"), "['dreaming'] are not in demo/tiny"),
        (("--seeds", "0"), "at least 1"),
    ],
)
def test_faults_of_the_command_are_one_line(tmp_path, launches, monkeypatch, capsys, words, told):
    code, _, err = call(tmp_path, monkeypatch, capsys, *words, *TWO)
    assert code == 2 and told in err and err.count("\n") == 1


def test_a_star_stands_for_one_part_of_a_name():
    names = {
        "zero_shot/side/auroc",
        "zero_shot/cto/auroc",
        "zero_shot/control/cto/auroc",
        "zero_shot/cto/auroc_ci_low",
    }
    assert list(ablation._columns(names, ["zero_shot/*/auroc"])) == [
        "zero_shot/cto/auroc",
        "zero_shot/side/auroc",
    ]
    assert list(ablation._columns(names, ["zero_shot/cto/*", "none"])) == [
        "zero_shot/cto/auroc",
        "zero_shot/cto/auroc_ci_low",
    ]


def test_a_launch_is_of_train_py_on_one_machine(tmp_path, monkeypatch):
    seen = []
    done = types.SimpleNamespace(returncode=3)
    monkeypatch.setattr(ablation.subprocess, "run", lambda command, check: seen.append(command) or done)
    cpu = ROOT / "accelerate_configs" / "cpu_1.yaml"
    assert ablation.launcher(cpu, ROOT / "train.py")(["demo/tiny", "seed=0"]) == 3
    assert seen[0][3:] == ["--config_file", str(cpu), "--main_process_port", "0", str(ROOT / "train.py"), "demo/tiny", "seed=0"]  # fmt: skip
    with pytest.raises(ConfigError, match="is not a file"):
        ablation.launcher(tmp_path / "none.yaml", ROOT / "train.py")
    (tmp_path / "two.yaml").write_text("num_machines: 2\n")
    with pytest.raises(ConfigError, match="is of 2 machines"):
        ablation.launcher(tmp_path / "two.yaml", ROOT / "train.py")


@pytest.mark.slow
def test_real_runs_are_compared_and_another_run_in_the_folder_is_refused(
    tiny_shards: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    launched = []

    def in_this_process(words: Sequence[str]) -> int:
        launched.append(words)
        return main_on_this_rank("ddp", *words)

    monkeypatch.setattr(ablation, "launcher", lambda accelerate_config, script: in_this_process)
    words = ("--seeds", "1", f"data.shards={tiny_shards}", *TWO, *QUICK)
    assert call(tmp_path, monkeypatch, capsys, *words)[0] == 0
    assert call(tmp_path, monkeypatch, capsys, *words)[0] == 0 and len(launched) == 6
    table = (tmp_path / "ablation.md").read_text().splitlines()
    assert (
        table[0].startswith("| contrastive | other | seeds | `retrieval/text_to_video/R@5`")
        and len(table) == 5
    )
    code, _, err = call(tmp_path, monkeypatch, capsys, *words, "optim.lr=0.5")
    assert code == 2 and "was run with other values of ['optim.lr']" in err
    code, _, err = call(tmp_path, monkeypatch, capsys, *words, "max_steps=2")
    assert code == 2 and "other values of ['max_steps']" in err
