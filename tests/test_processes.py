"""Test processes beside each other: what is dear is made once, and files that need many ranks stay together."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.launch import ROOT
from tests.processes import ALONE, LARGE_GROUPS, LONGEST, ByFile, shared_folder


def test_files_that_ask_for_three_or_four_ranks_stay_together_and_others_by_themselves() -> None:
    split = object.__new__(ByFile)._split_scope
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        file = str(path.relative_to(ROOT))
        asks = re.search(r"def \w+\([^)]*\b(ranks_of|of_ranks)\b", path.read_text()) is not None
        if file in ALONE:
            assert "scope=" not in path.read_text(), "its tests share something"
            assert not asks and split(f"{file}::test_one") != split(f"{file}::test_two")
            continue
        assert split(f"{file}::test_one[a@b::c]") == split(f"{file}::test_two") == (
            LARGE_GROUPS if asks else file
        ) or path == Path(__file__)
    assert (
        split("tests/losses/test_clip.py::test_x")
        == split("tests/test_distributed.py::test_x")
        == LARGE_GROUPS
    )


def test_the_longest_files_exist_and_hold_slow_tests() -> None:
    assert set(ALONE) < set(LONGEST) and len(set(LONGEST)) == len(LONGEST)
    for file in LONGEST:
        assert "pytest.mark.slow" in (ROOT / file).read_text(), file


@pytest.mark.parametrize("process", [None, "gw0"])
def test_a_shared_folder_is_made_once_and_again_only_where_making_failed(
    tmp_path, monkeypatch, process
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    if process:
        monkeypatch.setenv("PYTEST_XDIST_WORKER", process)
    made = []

    def make(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "film").write_text("half")
        made.append(folder)
        if len(made) == 1:
            raise OSError("no space")

    own = tmp_path / "popen-gw0"
    own.mkdir()
    factory = SimpleNamespace(getbasetemp=lambda: own)
    with pytest.raises(OSError, match="no space"):
        shared_folder(factory, "tiny", make)
    first, second = (shared_folder(factory, "tiny", make) for _ in range(2))
    assert first == second == (tmp_path if process else own) / "tiny" and len(made) == 2
    assert [each.name for each in first.iterdir()] == ["film"]
