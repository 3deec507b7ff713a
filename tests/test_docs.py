"""Every code block of the documents: the commands would start, the YAML is a config, the Python compiles; and pages agree with the code."""

import ast
import importlib
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml

from deepcoro import config
from deepcoro.config import ConfigError
from deepcoro.ingest.labels import read_rules
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.sweeping.sweep_file import read_sweep
from tests.documented_commands import check, check_script
from tests.documents import LANGUAGES, Block, all_blocks, blocks_of
from tests.launch import ROOT
from tests.test_architecture import LAYERS

BLOCKS = all_blocks()
# Blocks that nothing holds to the truth. A new one raises the number, and says in the page why.
MOST_UNCHECKED = 12


def of_language(language: str) -> list[pytest.param]:
    return [
        pytest.param(block, id=block.name)
        for block in BLOCKS
        if block.language == language and block.is_checked
    ]


@pytest.mark.parametrize("block", of_language("bash"))
def test_the_commands_would_start(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, timeout=60)
    check_script(block.text)


@pytest.mark.parametrize("block", of_language("python"))
def test_the_python_compiles_and_its_imports_are_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Import):
            assert [importlib.import_module(alias.name) for alias in node.names]


@pytest.mark.parametrize("block", of_language("yaml"))
def test_the_yaml_is_what_its_reader_takes(block: Block, tmp_path: Path) -> None:
    tree = yaml.safe_load(block.text)
    file = tmp_path / "block.yaml"
    if "rules" in tree:
        file.write_text(block.text)
        assert read_rules(file)
    elif "method" in tree:
        file.write_text(block.text)
        assert read_sweep(str(file)).parameters
    elif "pipeline_project" in tree:
        file.write_text(block.text)
        with pytest.raises(ConfigError, match="import_config"):
            load_run_config(file, [])
    else:
        assert set(tree) <= set(RunConfig.model_fields), "neither a run's keys nor rules of labels"
        file.write_text(yaml.safe_dump(_laid_over(_base_of(tree), tree)))
        load_run_config(file, [])


def _base_of(tree: dict) -> dict:
    """What a block says is laid over a shipped config: heads over that of the probe, whose own heads it replaces."""
    probing = "linear_probing" in tree.get("objectives", {})
    base = yaml.safe_load(
        config.find_config("linear_probing/base_config" if probing else "clip/base_config").read_text()
    )
    for replaced in {"pooler", "objectives", "towers"} & set(tree):
        base.pop(replaced, None)
    return base | {"objectives": _all_objectives(tree)} if {"schedules", "loss_weights"} & set(tree) else base


def _all_objectives(tree: dict) -> dict:
    return tree.get("objectives") or {"contrastive": {}, "captioning": {}, "masked_modeling": {}}


def _laid_over(base: dict, tree: dict) -> dict:
    merged = dict(base)
    for key, value in tree.items():
        under = merged.get(key)
        merged[key] = (
            _laid_over(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
        )
    return merged


def test_a_block_without_a_language_is_no_command() -> None:
    commands = re.compile(
        r"^\s*(python|accelerate|train\.py\s+\S+/\S+|make|pip|sbatch|tools/\S+\.sh)\s", re.MULTILINE
    )
    assert [block.name for block in BLOCKS if not block.language and commands.search(block.text)] == []
    assert {block.language for block in BLOCKS} <= set(LANGUAGES)


def test_what_is_neither_run_nor_checked_is_rare() -> None:
    unchecked = [block.name for block in BLOCKS if not block.is_checked]
    assert len(unchecked) <= MOST_UNCHECKED, unchecked


def test_commands_and_python_that_are_not_run_say_why() -> None:
    silent = [
        block.name
        for block in BLOCKS
        if block.language in ("bash", "python") and not block.is_run and len(block.reason.split()) < 3
    ]
    assert silent == [], "above each: <!-- run -->, or <!-- checked: REASON -->"


def test_a_note_above_a_block_is_one_that_is_known() -> None:
    assert [block.name for block in BLOCKS if block.note and not _is_known(block)] == []


def _is_known(block: Block) -> bool:
    return block.note == "run" or bool(block.reason or block.file)


def test_a_wrong_flag_key_program_or_file_is_found() -> None:
    for wrong in (
        "python tools/predict.py films --checkpoint runs/mine --output answers --htlm",
        "python tools/no_such_tool.py",
        "no_such_program --help",
        "make no-such-target",
        "pip install 'deepcoro[nothing]'",
        "accelerate launch --config_file accelerate_configs/none.yaml train.py demo/tiny",
        "tools/runner.sh --base_config demo/tiny --selected_gpu 0",
    ):
        with pytest.raises((ValueError, ConfigError, SystemExit)):
            check_script(wrong)
    with pytest.raises(ConfigError, match="lrr"):
        check(["python", "train.py", "demo/tiny", "optim.lrr=1"])


def test_notes_above_a_block_are_read(tmp_path: Path) -> None:
    page = ROOT / "docs" / "quick_start.md"
    runs = [block.is_run for block in blocks_of(page) if block.language == "bash"]
    assert True in runs
    assert False in runs
    assert all(block.is_run or block.reason for block in blocks_of(page))
    assert all(block.is_checked for block in blocks_of(page))


def test_the_layers_of_the_architecture_page_are_those_that_the_tests_hold() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split("## The layers\n")[1].split("```")[1].strip("\n")
    written = [f"{number:2}  {_wrapped(sorted(layer))}" for number, layer in enumerate(LAYERS, 1)]
    assert section == "\n".join(
        written
    ), "write docs/architecture.md, 'The layers', anew from LAYERS:\n" + "\n".join(written)


def _wrapped(names: list[str]) -> str:
    return textwrap.fill(" ".join(names), 100, initial_indent="    ", subsequent_indent="    ").lstrip()


def test_folders_and_files_that_the_architecture_names_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    first_column = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    for cell in first_column:
        for path in re.findall(r"`([\w./]+)`", cell):
            places = (ROOT / path, ROOT / "deepcoro" / path)
            assert any(place.exists() for place in places), path
