"""The documents followed to the letter: in a folder that holds the project, a table and films, and nothing else.

The blocks of a page are run in its order, the pages in the reader's; what one leaves behind the next may use.
"""

import contextlib
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import RUN_PAGE, Block, blocks_of, pages
from tests.launch import ROOT

PROJECT = ("accelerate_configs", "deepcoro", "ds_configs", "tools", "train.py")
QUICK_START = ROOT / "docs" / "quick_start.md"
# After the quick start; the others in the order of their names.
IN_ORDER = [ROOT / "docs" / f"{name}.md" for name in ("dicom", "paradigms")]
TIMEOUT_S = 900


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new user's folder: the project, `films.csv` and `films/` of AVI files under names of their own."""
    folder = tmp_path_factory.mktemp("desk")
    for name in PROJECT:
        (folder / name).symlink_to(ROOT / name)
    made = folder / "elsewhere"
    words = ["--preset", "tiny", "--patients", "16", "--format", "avi", "--seed", "3"]
    _shell(folder, f"python tools/make_demo_data.py {made} {' '.join(words)}")
    (folder / "films").mkdir()
    with (made / "dataset.csv").open() as given, (folder / "films.csv").open("w", newline="") as own:
        table = csv.writer(own)
        table.writerow(["FileName", "PatientID", "StudyInstanceUID", "Report"])
        for number, row in enumerate(csv.DictReader(given)):
            name = f"films/{number:04}.avi"
            (made / row["FileName"]).rename(folder / name)
            table.writerow([name, row["PatientID"], row["StudyInstanceUID"], row["Report"]])
    return folder


@pytest.mark.slow
def test_a_new_user_gets_from_the_readme_and_the_quick_start_to_a_model_of_own_films(desk: Path) -> None:
    assert "(docs/quick_start.md)" in (ROOT / "README.md").read_text()
    for block in blocks_of(QUICK_START):
        if block.is_run:
            _run(desk, block)
    results = json.loads((desk / "runs" / "first" / "results.json").read_text())
    assert results["retrieval/text_to_video/R@5"] >= 0
    assert (desk / "runs" / "first" / "report.html").is_file()
    assert (desk / "shards" / "mine" / "datasheet.html").is_file()
    answers = list((desk / "answers").glob("*.html"))
    studies = {row["StudyInstanceUID"] for row in csv.DictReader((desk / "films.csv").open())}
    assert len(answers) == len(studies)


@pytest.mark.slow
def test_every_other_block_that_is_run_ends_well(desk: Path) -> None:
    others = [page for page in pages() if page not in [QUICK_START, *IN_ORDER]]
    blocks = [block for page in [*IN_ORDER, *others] for block in blocks_of(page) if block.is_run]
    assert {block.page for block in blocks} >= {"docs/dicom.md", "docs/paradigms.md", "shards/README.md"}
    (desk / "FOLDER").symlink_to(desk / "shards" / "dicom")
    for block in blocks:
        _run(desk, block)
    for run in ("dicom", "contrastive", "probe"):
        assert (desk / "runs" / run / "report.html").is_file(), run


def test_pages_that_are_run_have_no_block_that_cannot_be() -> None:
    whole = [page for page in pages() if RUN_PAGE in page.read_text(encoding="utf-8")]
    assert {page.stem for page in whole} == {"quick_start", "dicom", "paradigms"}
    languages = {block.language for page in whole for block in blocks_of(page) if block.is_run}
    assert languages == {"bash", "python"}


def _run(desk: Path, block: Block) -> None:
    if block.language == "bash":
        _shell(desk, block.text, block.name)
    else:
        assert block.language == "python", f"{block.name}: nothing runs a block of {block.language!r}"
        with contextlib.chdir(desk):
            exec(compile(block.text, block.name, "exec"), {"__name__": "block"})  # noqa: S102, it is ours


def _shell(desk: Path, script: str, name: str = "set-up") -> None:
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(desk),
        "HOME": str(desk / "home"),
        "OMP_NUM_THREADS": "1",
    }
    (desk / "home").mkdir(exist_ok=True)
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=desk,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ended.returncode == 0, f"{name} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
