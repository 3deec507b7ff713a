"""A copy of the project as it stands in the working tree: what a recipe would pack, what a change is tried on."""

import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from tests.launch import ROOT


def copy_tree(target: Path, chosen: Collection[str] | None = None) -> None:
    """Files that git knows or would take; of the names `chosen` in the project's folder alone."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for path in map(Path, listed.splitlines()):
        if (chosen is None or path.parts[0] in chosen) and (ROOT / path).is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, target / path)
