"""docs/extending.md: each of its changes applies to the project as it is, keeps the rules of the house, trains and is measured."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.copied import copy_tree
from tests.launch import METRICS, ROOT

PAGE = ROOT / "docs" / "extending.md"
CHANGES = {
    title: re.findall(r"```diff\n(.*?)```", body, re.DOTALL)
    for title, body in re.findall(
        r"^## (A .*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
}
REFRESH = (
    "docs/extending.md, '{title}': its block no longer applies to the project. In a clean checkout make the same change by hand, then put "
    "`git add -N . && git diff -U1` (without the lines `diff`, `index` and `new file`) in the place of the block. git says: {said}"
)


def apply(title: str, tree: Path) -> list[str]:
    """Files that the change touches."""
    [change] = CHANGES[title]
    # outside of any repository, or git would leave out what that one ignores
    alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run(["git", "apply", "-"], input=change, cwd=tree, env=alone, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, REFRESH.format(title=title, said=done.stderr)
    return re.findall(r"^\+\+\+ b/(\S+)$", change, re.MULTILINE)


def test_the_page_shows_one_change_for_each_kind_of_part() -> None:
    assert list(CHANGES) == ["A loss", "A backbone", "A field", "A metric"]
    assert all(len(blocks) == 1 for blocks in CHANGES.values())


@pytest.mark.parametrize("title", CHANGES)
def test_a_change_applies_by_itself_and_touches_its_file_and_the_folders_list(
    title: str, tmp_path: Path
) -> None:
    copy_tree(tmp_path / "tree", {"deepcoro"})
    before = set((tmp_path / "tree").rglob("*.py"))
    touched = [tmp_path / "tree" / name for name in apply(title, tmp_path / "tree")]
    new = [path for path in touched if path not in before]
    # a field comes with the objective that reads it
    assert len(new) == (2 if title == "A field" else 1)
    assert {path for path in touched if path in before} == {path.parent / "__init__.py" for path in new}


@pytest.mark.slow
def test_all_changes_together_keep_the_rules_train_and_are_measured(
    tiny_shards: Path, tmp_path: Path
) -> None:
    tree, run_dir = tmp_path / "tree", tmp_path / "run"
    copy_tree(tree)
    touched = [name for title in CHANGES for name in apply(title, tree)]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}

    def python(*words: str | Path) -> None:
        done = subprocess.run([sys.executable, *map(str, words)], cwd=tree, env=environment, capture_output=True, text=True, timeout=900)  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]

    python("-m", "ruff", "check", *touched)
    python("-m", "black", "--check", *touched)
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_architecture.py")
    silent = ", ".join(f"{name}: false" for name in METRICS)
    python(
        *("train.py", "demo/tiny", f"data.shards={tiny_shards}", f"run_dir={run_dir}"),
        *("max_steps=8", "checkpoint.every_steps=8", "optim.lr=0.02", "optim.warmup_steps=0"),
        "objectives={contrastive: {embed_dim: 32}, film_length: {}, linear_probing: {head_structure: {max_stenosis: 1}}}",
        "objectives.linear_probing.loss_structure.max_stenosis={type: log_cosh, scale: 5}",
        *("loss_weights.linear_probing=0.02", "towers.video={type: video_plain, width: 32}"),
        f"evaluate.metrics={{{silent}, reciprocal_rank: {{bootstrap_samples: 20}}}}",
        "evaluate.best_metric=reciprocal_rank/mean",
    )
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    for name in ("train/film_length/loss", "train/linear_probing/max_stenosis_loss"):
        curve = [line[name] for line in steps]
        assert len(curve) == 8 and all(math.isfinite(value) and value > 0 for value in curve), name
    assert steps[-1]["train/film_length/loss"] < steps[0]["train/film_length/loss"]
    results = lines[-1]
    assert 0 < results["val/reciprocal_rank/chance"] < 1 and results["val/reciprocal_rank/num"] == 16
    assert results["val/reciprocal_rank/mean_ci_low"] <= results["val/reciprocal_rank/mean"] <= 1
    towers = {
        name
        for name in load_file(run_dir / "checkpoints/step_8/weights.safetensors")
        if name.startswith("towers.video.")
    }
    assert "towers.video.layers.0.weight" in towers and len(towers) == 12
