"""What several test files share and is dear to make: shards to train on, two ranks to train with."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before anything imports torch: on tensors as small as these a second thread only waits, at the cost of a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from deepcoro.data.manifest import Encoding
from tests.data.folder import moving_film, study_with, write_folder
from tests.launch import ROOT
from tests.processes import LONGEST, ByFile, shared_folder
from tests.ranks import Ranks

# An example has no deadline and their making no health check, since both judge the speed of the machine; and a run draws the examples
# that the last one drew. `--hypothesis-profile=default` draws others.
settings.register_profile(
    "any machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

_DEAR = {"ranks_of", "two_ranks", "tiny_shards"}
"""Fixtures of the files that train or launch: long ones."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadfile":
        return None
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that short ones fill the end where several processes share them."""
    asked: dict[Path, set[str]] = {}
    for item in items:
        asked.setdefault(item.path, set()).update(getattr(item, "fixturenames", ()))
    place = {ROOT / file: number for number, file in enumerate(LONGEST)}
    items.sort(
        key=lambda item: (
            *("ranks_of" not in asked[item.path], place.get(item.path, len(place))),
            not asked[item.path] & _DEAR,
        )
    )


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated films in shards: train, val and test splits, patients named."""
    return shared_folder(tmp_path_factory, "tiny", _make_tiny) / "shards"


def _make_tiny(folder: Path) -> None:
    _run("tools/make_demo_data.py", folder / "data", "--preset", "tiny", "--seed", "0")
    table, key = folder / "data" / "dataset.csv", folder / "data" / "demo.key"
    _run(
        *("tools/shard_dataset.py", "--csv", table, "--output", folder / "shards"),
        *("--report_scope", "side", "--key_file", key),
    )


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other films of other patients, as of another hospital."""
    studies = [
        study_with(
            f"other{number}", [moving_film(number + clip, 12) for clip in (0, 1)], Encoding(), f"p{number}"
        )
        for number in range(12)
    ]
    splits = {f"other{number}": ("train", "train", "val", "test")[number % 4] for number in range(12)}
    return write_folder(tmp_path_factory.mktemp("other"), studies, splits=splits)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    """A process group of two, started when first asked."""
    ranks = Ranks(2)
    yield ranks
    ranks.end()


@pytest.fixture(scope="session")
def ranks_of(two_ranks: Ranks) -> Iterator[dict[int, Ranks]]:
    """Process groups by number of ranks, each started when first asked."""
    groups = {2: two_ranks, 3: Ranks(3), 4: Ranks(4)}
    yield groups
    for world_size in (3, 4):
        groups[world_size].end()


def _run(*words: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True, capture_output=True, timeout=900)


def pytest_runtest_setup() -> None:
    """A tool's `logging.basicConfig` writes to the captured stderr of its test, which is closed by now."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(getattr(handler, "stream", None), "closed", False):
            root.removeHandler(handler)
