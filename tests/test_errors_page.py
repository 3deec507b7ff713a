"""docs/errors.md and the code: every pointer leads to a heading, every heading is pointed to, every message shown is one of the code's."""

import ast
import pickle
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

from deepcoro import command_line
from deepcoro.checkpoint import CheckpointError
from deepcoro.config import ERRORS_PAGE, ConfigError, DataError, pointer
from deepcoro.data.watch import WorkerFault
from deepcoro.exit_record import EXIT_BAD_INPUT
from tests.launch import ROOT

CLASSES = {
    each.__name__: each
    for each in (ConfigError, DataError, CheckpointError, WorkerFault, command_line.MemoryFull)
}
PAGE = (ROOT / ERRORS_PAGE).read_text()
ENTRIES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SHOWN = {
    title.lower().replace(" ", "-"): re.search(r"```text\n(.*?)\n```", body, re.DOTALL)[1]
    for title, body in ENTRIES.items()
}


class Message(NamedTuple):
    """An error as the code makes it."""

    topic: str
    patterns: list[str]
    """Its text as a regular expression, anything where the code fills something in. Of a text that is made elsewhere: all of its file."""


def messages() -> Iterator[Message]:
    for path in sorted([*(ROOT / "deepcoro").rglob("*.py"), *(ROOT / "tools").glob("*.py")]):
        tree = ast.parse(path.read_text())
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        of_file = [pattern for each in texts if is_telling(pattern := pattern_of(each))]
        for topic, text in raised(tree):
            own = pattern_of(text)
            yield Message(topic, [own] if is_telling(own) else of_file)


def raised(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Topic and text of each error that is made, and of each pointer that is printed behind something else."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
            continue
        if node.func.id == "pointer" and isinstance(node.args[0], ast.Constant):
            yield node.args[0].value, ast.Name("elsewhere")
        elif node.func.id in CLASSES:
            named = [each.value for each in node.keywords if each.arg == "topic"]
            topic = named[0] if named else ast.Constant(CLASSES[node.func.id].topic)
            # the topic of another error, to whose text this one adds
            if isinstance(topic, ast.Constant):
                yield topic.value, node.args[0]


def pattern_of(text: ast.expr) -> str:
    if isinstance(text, ast.Constant):
        return re.escape(str(text.value))
    if isinstance(text, ast.JoinedStr):
        return "".join(pattern_of(each) for each in text.values)
    if isinstance(text, ast.BinOp):
        return pattern_of(text.left) + pattern_of(text.right)
    return ".*?"


def is_telling(pattern: str) -> bool:
    return len(re.sub(r"\.\*\?|\\", "", pattern)) >= 15


MESSAGES = list(messages())


def test_every_pointer_leads_to_a_heading_and_every_heading_is_pointed_to() -> None:
    assert len(MESSAGES) > 300
    assert {each.topic for each in MESSAGES} == SHOWN.keys()


@pytest.mark.parametrize("topic", SHOWN)
def test_the_message_that_the_page_shows_is_one_of_the_codes(topic: str) -> None:
    patterns = [pattern for each in MESSAGES if each.topic == topic for pattern in each.patterns]
    printed = f"{SHOWN[topic]} {pointer(topic)}\n"
    assert any(re.search(pattern, printed) for pattern in patterns), patterns


@pytest.mark.parametrize("title", ENTRIES)
def test_an_entry_says_in_a_few_lines_what_to_do(title: str) -> None:
    explained = ENTRIES[title].partition("\n```\n")[2].strip()
    assert 1 <= len(explained.splitlines()) <= 6


def test_a_topic_is_in_what_is_printed_alone() -> None:
    known = DataError("films are gone", topic="shards-missing")
    assert known.told == "films are gone [docs/errors.md#shards-missing]"
    assert str(known) == "films are gone"  # logs, exit.json and errors that quote it have the message alone
    assert pickle.loads(pickle.dumps(known)).told == known.told


def test_train_py_ends_its_one_line_with_the_pointer(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["demo/tiny", "optim.lrr=1"]) == EXIT_BAD_INPUT
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ConfigError: ")]
    assert "did you mean 'lr'" in line and line.endswith(pointer("unknown-keys"))


def test_a_full_gpu_is_told_in_one_line_by_its_own_rank(tmp_path, capsys, monkeypatch) -> None:
    def full(config: object) -> int:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
        )

    monkeypatch.setattr("deepcoro.train.run", full)
    monkeypatch.setattr(command_line, "end_with_launcher", lambda: None)
    monkeypatch.setenv("RANK", "3")
    assert command_line.main(["demo/tiny", "data.shards=none", f"run_dir={tmp_path}"]) == EXIT_BAD_INPUT
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MemoryFull: ")]
    assert line.startswith(
        "MemoryFull: rank 3: CUDA out of memory. Tried to allocate 2.00 GiB. `python tools/plan_memory.py"
    )
    assert line.endswith(pointer("out-of-memory"))
    assert '"code": 2' in (tmp_path / "exit.json").read_text()
