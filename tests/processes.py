"""Several test processes (`make test`, pytest-xdist): which tests stay together, and what is made once for all."""

import fcntl
import functools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.launch import ROOT

LARGE_GROUPS = "process groups of three and four ranks"
ALONE = (
    *("tests/faults/test_kill.py", "tests/faults/test_kill_chain.py"),
    *("tests/launching/test_runner.py", "tests/launching/test_slurm.py"),
)
"""Files whose tests launch runs of a minute and more and share nothing: any test process may take any of them."""

LONGEST = (
    *(*ALONE, "tests/faults/test_stall.py", "tests/test_save_load_matrix.py"),
    *("tests/test_docs_run.py", "tests/sweeping/test_real_trainings.py", "tests/tools/test_sweep.py"),
    *("tests/test_extending.py", "tests/test_container.py", "tests/test_averages.py"),
    *("tests/migration/test_migrating_page.py", "tests/sharing/test_whole_path.py"),
    *(
        "tests/planning/test_activations.py",
        "tests/test_non_finite.py",
        "tests/tools/test_benchmark_video.py",
    ),
    *("tests/data/test_resume.py", "tests/data/test_withdrawal.py", "tests/faults/test_worker.py"),
    *(
        "tests/faults/test_full_disk.py",
        "tests/towers/test_video_levers.py",
        "tests/ingest/test_burned_in.py",
    ),
    *("tests/kernels/test_triton_pooling.py", "tests/statistics/test_coverage.py"),
    *("tests/data/test_duplicates.py", "tests/data/test_damage.py", "tests/fuzz/test_fuzz.py"),
    *("tests/data/test_engines.py", "tests/test_levers.py"),
)
"""Files of `make test-slow` that take three quarters of a minute and more, the longest first: one that is begun last is waited for."""

_ASKS_FOR_LARGE_GROUPS = re.compile(r"\b(ranks_of|of_ranks)\b")


class ByFile(LoadFileScheduling):
    """`--dist loadfile`, the tests of a file in one process, since they share what is dear to make (those `ALONE` do not); and all
    files that ask for groups of three and four ranks in one, or each test process would hold nine ranks of its own.

    Not `--dist loadgroup`: xdist 3.8 sets an attribute for it that pytest 9.2 no longer reads, and every test goes anywhere.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file in ALONE:
            return nodeid
        return LARGE_GROUPS if _asks_for_large_groups(file) else file


@functools.cache
def _asks_for_large_groups(file: str) -> bool:
    return bool(_ASKS_FOR_LARGE_GROUPS.search((ROOT / file).read_text(encoding="utf-8")))


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills once a run: by the test process that asks first, while the others wait. To be read, not changed."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, unfinished = base / name, base / f"{name}.unfinished"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
