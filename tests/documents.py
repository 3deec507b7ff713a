"""The code blocks of the documents: which are run, which are checked, which are neither and why.

A comment right above a block says so: `<!-- run -->`; `<!-- checked: REASON -->` where only parsers and readers of configs are asked, and
`<!-- not checked: REASON -->`. Commands and Python that are not run say why; YAML is read by its reader without a comment, and
`<!-- file: NAME -->` is also what the page has its reader save under that name. In a page that says
`<!-- every block of this page is run -->` all others are run from top to bottom.
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
_CHECKED, _NOT_CHECKED, _FILE = "checked: ", "not checked: ", "file: "


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
        """Why it is not run; empty where it is, or where nothing is said."""
        return _rest(self.note, _CHECKED) or _rest(self.note, _NOT_CHECKED)

    @property
    def is_checked(self) -> bool:
        return not self.note.startswith(_NOT_CHECKED)

    @property
    def file(self) -> str:
        """Name under which the reader saves it; empty where it is not to be saved."""
        return _rest(self.note, _FILE)


def _rest(note: str, beginning: str) -> str:
    return note.removeprefix(beginning) if note.startswith(beginning) else ""


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
        is_run = note == "run" or whole and not note.startswith((_CHECKED, _NOT_CHECKED))
        line = text[: match.start("language")].count("\n") + 1
        name = str(page.relative_to(ROOT))
        found.append(Block(name, line, match["language"], "".join(lines), note, is_run))
    return found


def all_blocks() -> list[Block]:
    """In reading order, without what only the site's builder reads (`{toctree}`)."""
    return [block for page in pages() for block in blocks_of(page) if not block.language.startswith("{")]
