import os
from pathlib import Path
from unittest import mock

import pytest

from deepcoro.config import ConfigError
from deepcoro.shared_folder import require_shared
from tests.ranks import Ranks


def ask(rank: int, folders: list[Path], machines: str) -> str:
    """What a rank is told, each rank with its own folder under the common name."""
    with mock.patch.dict(os.environ, {"GROUP_WORLD_SIZE": machines, "LOCAL_RANK": "0"}):
        try:
            require_shared(folders[rank], patience_s=1.0)
        except ConfigError as error:
            return str(error)
    return ""


def test_a_folder_that_all_machines_see_is_shared_and_left_clean(two_ranks: Ranks, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert two_ranks.run(ask, [folder, folder], "2") == ["", ""]
    assert list(folder.iterdir()) == []


def test_a_folder_of_one_machine_is_refused_on_every_rank(two_ranks: Ranks, tmp_path: Path) -> None:
    told = two_ranks.run(ask, [tmp_path / "mine", tmp_path / "yours"], "2")
    for rank, words in enumerate(told):
        assert "is not on a file system that all machines share" in words, rank
        assert "choose a folder that all of them mount" in words
    assert list((tmp_path / "mine").iterdir()) == []


def test_one_machine_is_not_asked(two_ranks: Ranks, tmp_path: Path) -> None:
    assert two_ranks.run(ask, [tmp_path / "mine", tmp_path / "yours"], "1") == ["", ""]
    assert not (tmp_path / "mine").exists()


def test_without_a_group_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUP_WORLD_SIZE", raising=False)
    require_shared(tmp_path / "run")
    assert not (tmp_path / "run").exists()
