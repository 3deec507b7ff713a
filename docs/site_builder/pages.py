"""Pages as GitHub shows them become pages of the site: links that leave docs/, and pages that no menu names yet."""

import os
import re
from pathlib import Path, PurePosixPath

from sphinx.application import Sphinx

DOCS = Path(__file__).parent.parent
REPOSITORY = DOCS.parent

# Files outside docs/ that are pages of the site. Other files are offered for download as they are.
PAGES_OF_FILES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "shards/README.md": "shard_format.md",
    "ds_configs/README.md": "memory_switches.md",
    "docs/benchmarks": "benchmarks/index.md",
}
OTHER_PAGES = "{other pages}"
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=[)#])")
_FENCED = re.compile(r"(^```.*?^```[ ]*$)", re.DOTALL | re.MULTILINE)
_LISTED = re.compile(r"^(?:.*<)?([\w./-]+?)>?$", re.MULTILINE)
_MENU = re.compile(r"^```{toctree}$(.*?)^```$", re.DOTALL | re.MULTILINE)


def with_links_of_the_site(text: str, folder: str, site_folder: str) -> str:
    """`text` was written in `folder` of the repository and is shown on a page of `site_folder`, below docs/.

    Links to what is on the site lead to its page, links to other files to a copy of the file; code stays as it is.
    """
    parts = _FENCED.split(text)
    parts[::2] = [
        _LINK.sub(lambda match: _target(match[1], folder, site_folder), part) for part in parts[::2]
    ]
    return "".join(parts)


def _target(link: str, folder: str, site_folder: str) -> str:
    path = os.path.normpath(PurePosixPath(folder) / link)
    page = PAGES_OF_FILES.get(path)
    return os.path.relpath(f"docs/{page}" if page else path, PurePosixPath("docs") / site_folder)


def pages_without_a_place(menu: str) -> list[str]:
    """Pages right below docs/ that no toctree of the index names, in the order of their names."""
    placed = {name for tree in _MENU.findall(menu) for name in _LISTED.findall(tree)} | {"index"}
    return [page.stem for page in sorted(DOCS.glob("*.md")) if page.stem not in placed]


def _page_is_read(app: Sphinx, name: str, source: list[str]) -> None:
    if name == "index":
        source[0] = source[0].replace(OTHER_PAGES, "\n".join(pages_without_a_place(source[0])))
    folder = str(PurePosixPath(name).parent)
    source[0] = with_links_of_the_site(source[0], str(PurePosixPath("docs") / folder), folder)


def _file_is_included(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    folder = (DOCS / path).resolve().relative_to(REPOSITORY).parent
    source[0] = with_links_of_the_site(source[0], str(folder), str(PurePosixPath(page).parent))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _page_is_read)
    app.connect("include-read", _file_is_included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
