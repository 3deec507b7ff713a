"""README is run: its commands with small data in the place of the reader's own, its paths, keys and names against the project."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deepcoro import command_line, config
from deepcoro.run_config import load_run_config
from tests.launch import ROOT
from tests.test_run_config import tiny_twin

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]


def test_the_five_lines_take_a_table_of_films_to_a_report(tmp_path: Path) -> None:
    shard, train, evaluate = (shlex.split(line) for line in COMMANDS)
    data, shards, run_dir = tmp_path / "data", tmp_path / "shards", tmp_path / "run"
    _python("tools/make_demo_data.py", data, "--preset", "tiny")
    given = {
        "films.csv": data / "dataset.csv",
        "shards/mine": shards,
        "~/.config/deepcoro/id.key": data / "demo.key",
    }
    _python(*(given.get(word, word) for word in shard[1:]))
    for words in (train, evaluate):
        assert words[:3] == ["accelerate", "launch", "--config_file"]
        assert (ROOT / words[3]).is_file()
        assert words[4] == "train.py"
        twin = tiny_twin(words[5], shards, run_dir)
        own = [word for word in words[6:] if not word.startswith(("data.shards=", "run_dir="))]
        assert command_line.main([words[5], *twin, *own]) == 0
    assert (run_dir / "report.html").is_file()


def test_inline_commands_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    for line in re.findall(r"`python train.py ([^`]*)`", README):
        assert command_line.main(shlex.split(line)) == 0
        assert len(capsys.readouterr().out.splitlines()) > 3


def test_named_files_and_folders_exist() -> None:
    linked = re.findall(r"\]\(([^)]+)\)", README)
    named = re.findall(r"`((?:deepcoro|accelerate_configs|ds_configs|tools|docs)/[\w./]+?)/?`", README)
    for path in {*linked, *named} - {path for path in named if "NAME" in path}:
        assert (ROOT / path.split("#")[0]).exists(), path


def test_named_switches_and_configs_are_real() -> None:
    tiny = config.find_config("demo/tiny")
    switches = re.findall(r"`([a-z_.]+=[\w.]+)`", README)
    assert len(switches) >= 4
    for switch in switches:
        load_run_config(tiny, [switch])
    for name in re.findall(r"`((?:clip|demo|linear_probing)/\w+)`", README):
        config.find_config(name)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([\w-]+)`", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_map_names_every_file_of_the_house() -> None:
    tree = re.search(r"## The house\n```\n(.*?)```", README, re.DOTALL)
    assert tree is not None
    for folder in ("objectives", "towers", "poolers", "losses", "fields", "metrics"):
        for path in (ROOT / "deepcoro" / folder).glob("*.py"):
            if path.stem != "__init__":
                assert path.stem in tree[1], f"{folder}/{path.stem} is not on the map"


def _python(*words: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, timeout=900)
