"""The code blocks of the documents: which are run, which are checked, which are neither and why.

A comment right above a block says so: `<!-- run -->`, or `<!-- not checked: REASON -->`; without one it is checked. A page that says
`<!-- every block of this page is run -->` is run from top to bottom. In a page that is run `<!-- checked -->` marks what is not.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.launch import ROOT

RUN_PAGE = "<!-- every block of this page is run -->"
LANGUAGES = ("bash", "python", "yaml", "csv", "diff", "text", "")
_BLOCK = re.compile(
    r"^(?:[ ]*<!-- (?P<note>[^\n]*?) -->\n)?(?P<indent>[ ]*)```(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^[ ]*```[ ]*$",
    re.DOTALL | re.MULTILINE,
)
_NOT_CHECKED = "not checked: "


@dataclass(frozen=True)
class Block:
    page: str
    """Path below the project."""
    line: int
    language: str
    text: str
    note: str
    is_run: bool

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def reason(self) -> str:
        """Why it is neither run nor checked; empty where it is."""
        return self.note.removeprefix(_NOT_CHECKED) if self.note.startswith(_NOT_CHECKED) else ""


def pages() -> list[Path]:
    """Every document that a user reads, the newcomer's first."""
    start = [ROOT / "README.md", ROOT / "docs" / "quick_start.md"]
    others = [
        *sorted((ROOT / "docs").rglob("*.md")),
        *(ROOT / folder / "README.md" for folder in ("shards", "ds_configs")),
    ]
    return [*start, *(page for page in others if page not in start)]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    whole = RUN_PAGE in text
    found = []
    for match in _BLOCK.finditer(text):
        note = match["note"] or ""
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines(keepends=True)]
        is_run = note == "run" or whole and not note.startswith(("checked", _NOT_CHECKED))
        line = text[: match.start("language")].count("\n") + 1
        name = str(page.relative_to(ROOT))
        found.append(Block(name, line, match["language"], "".join(lines), note, is_run))
    return found


def all_blocks() -> list[Block]:
    """In reading order, without what only the site's builder reads (`{toctree}`)."""
    return [block for page in pages() for block in blocks_of(page) if not block.language.startswith("{")]
