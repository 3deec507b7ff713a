"""The documents followed to the letter: in a folder that holds the project, a table and films, and nothing else.

The blocks of a page are run in its order. A page may use what the quick start and the pages after it in FIRST leave behind, and nothing of others.
"""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import RUN_PAGE, Block, blocks_of, pages
from tests.launch import ROOT
from tests.warm_python import WarmPython

PROJECT = ("accelerate_configs", "deepcoro", "ds_configs", "tools", "train.py")
# In this order; what they leave behind the others may use.
FIRST = [ROOT / "docs" / f"{name}.md" for name in ("quick_start", "dicom", "paradigms")]
QUICK_START = FIRST[0]
OTHERS = [page for page in pages() if page not in FIRST and any(block.is_run for block in blocks_of(page))]
TIMEOUT_S = 900


class Desk:
    """A new user's folder: the project, `films.csv` and `films/` of AVI files under names of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._followed: list[Path] = []
        self._warm: WarmPython | None = None
        for name in PROJECT:  # copies: a sweep starts its runs where the code lies
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, folder / name)
        self._leave_key(folder / "home" / ".config" / "deepcoro" / "id.key")
        self._environment = {"PYTHONPATH": str(folder), "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        self._lay_out_films(folder / "elsewhere")

    def follow(self, page: Path) -> None:
        """Runs what the page says, and before it what it may build on."""
        needed = FIRST[: FIRST.index(page)] if page in FIRST else FIRST
        for each in [*needed, page]:
            if each not in self._followed:
                self._followed.append(each)
                self._run(each)

    def end(self) -> None:
        if self._warm:
            self._warm.end()

    def _leave_key(self, file: Path) -> None:
        """The secret that the quick start would make by chance: patients are split by it, and one draw in six tests none of sixteen."""
        file.parent.mkdir(parents=True)
        file.write_text("0123456789abcdef0123456789abcdef\n")
        file.chmod(0o600)

    def _lay_out_films(self, made: Path) -> None:
        words = ["--preset", "tiny", "--patients", "16", "--format", "avi", "--seed", "3"]
        self._shell(f"python tools/make_demo_data.py {made} {' '.join(words)}", "set-up")
        (self.folder / "films").mkdir()
        with (
            (made / "dataset.csv").open() as given,
            (self.folder / "films.csv").open("w", newline="") as own,
        ):
            table = csv.writer(own)
            table.writerow(["FileName", "PatientID", "StudyInstanceUID", "Report"])
            for number, row in enumerate(csv.DictReader(given), start=1):
                name = f"films/{number:04}.avi"
                (made / row["FileName"]).rename(self.folder / name)
                table.writerow([name, row["PatientID"], row["StudyInstanceUID"], row["Report"]])

    def _run(self, page: Path) -> None:
        if page != QUICK_START and self._warm is None and sys.platform == "linux":
            self._warm = WarmPython(self.folder / "programs", self._environment)
        names: dict[str, object] = {"__name__": "page"}
        for block in blocks_of(page):
            if block.file:
                (self.folder / block.file).write_text(block.text)
            elif block.is_run:
                self._run_block(block, names)

    def _run_block(self, block: Block, names: dict[str, object]) -> None:
        if block.language == "bash":
            self._shell(block.text, block.name)
        else:
            assert block.language == "python", f"{block.name}: nothing runs a block of {block.language!r}"
            with contextlib.chdir(self.folder):
                exec(compile(block.text, block.name, "exec"), names)  # noqa: S102, it is ours

    def _shell(self, script: str, name: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        warm = self._warm.environment if self._warm else {}
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=os.environ | self._environment | {"PATH": path} | warm,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert ended.returncode == 0, f"{name} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.end()


@pytest.mark.slow
def test_a_new_user_gets_from_the_readme_and_the_quick_start_to_a_model_of_own_films(desk: Desk) -> None:
    assert "(docs/quick_start.md)" in (ROOT / "README.md").read_text()
    desk.follow(QUICK_START)
    folder = desk.folder
    results = json.loads((folder / "runs" / "first" / "results.json").read_text())
    assert results["retrieval/text_to_video/R@5"] >= 0
    assert (folder / "runs" / "first" / "report.html").is_file()
    assert (folder / "shards" / "mine" / "datasheet.html").is_file()
    answers = list((folder / "answers").glob("*.html"))
    studies = {row["StudyInstanceUID"] for row in csv.DictReader((folder / "films.csv").open())}
    assert len(answers) == len(studies)


@pytest.mark.slow
@pytest.mark.parametrize("page", FIRST[1:], ids=lambda page: page.stem)
def test_the_pages_after_the_quick_start_end_in_reports(desk: Desk, page: Path) -> None:
    desk.follow(page)
    left = {"dicom": ["dicom"], "paradigms": ["contrastive", "probe"]}[page.stem]
    assert all((desk.folder / "runs" / run / "report.html").is_file() for run in left)


@pytest.mark.slow
@pytest.mark.parametrize("page", OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_another_page_that_is_run_ends_well(desk: Desk, page: Path) -> None:
    desk.follow(page)


def test_pages_that_are_run_have_no_block_that_cannot_be() -> None:
    whole = [page for page in pages() if RUN_PAGE in page.read_text(encoding="utf-8")]
    assert sorted(whole) == sorted(FIRST)
    run = [block for page in pages() for block in blocks_of(page) if block.is_run]
    assert {block.language for block in run} == {"bash", "python"} and len(run) >= 12
    assert ROOT / "shards" / "README.md" in OTHERS
