"""The site that `make docs` builds: links that lead somewhere, nothing fetched from elsewhere, no page or part left out."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.launch import ROOT
from tests.test_architecture import CHOICE_FOLDERS

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from site_builder import api_reference, pages  # noqa: E402, it is not part of the package

FETCHING = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """What a built page points to, and what can be pointed to in it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value or "")
            elif name in ("href", "src"):
                (self.fetched if (tag, name) in FETCHING else self.links).add(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site")
    words = ["-q", "-E", "-W", "--keep-going", "-b", "html", "-d", folder / "doctrees", DOCS, folder / "html"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return {file.resolve(): Page(file) for file in (folder / "html").rglob("*.html")}


@pytest.mark.slow
def test_every_link_of_the_built_site_leads_to_a_file_and_every_anchor_to_a_place_in_it(
    site: dict[Path, Page],
) -> None:
    assert len(site) > 30
    links = [(file, link) for file, page in site.items() for link in page.links | page.fetched]
    assert not [f"{file.name}: {link}" for file, link in links if not _leads_somewhere(file, link, site)]


def _leads_somewhere(file: Path, link: str, site: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme in ("http", "https", "mailto"):
        return True
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if parts.fragment and target in site:
        return unquote(parts.fragment) in site[target].anchors
    return target.is_file()


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site: dict[Path, Page]) -> None:
    fetched = {link for page in site.values() for link in page.fetched}
    assert len(fetched) > 5
    assert not [link for link in fetched if urlsplit(link).netloc]
    folder = min(site, key=lambda file: len(file.parts)).parent
    for style in folder.rglob("*.css"):
        assert "http" not in style.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")


@pytest.mark.slow
def test_the_reference_shows_shapes_as_the_source_writes_them(site: dict[Path, Page]) -> None:
    file = next(file for file in site if file.parts[-2:] == ("api", "losses.html"))
    text = "".join(_Text(file).seen)
    assert "Float[Tensor, 'video_row dim']" in text
    assert "deepcoro.losses.clip.clip_loss" in site[file].anchors


class _Text(HTMLParser):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def test_links_that_leave_docs_lead_to_the_page_of_a_file_or_to_its_copy() -> None:
    text = "[a](../shards/README.md#ids), [b](../deepcoro/config.py), [c](memory.md)\n```\n[d](../README.md)\n```\n"
    assert pages.with_links_of_the_site(text, "docs", ".") == (
        "[a](shard_format.md#ids), [b](../deepcoro/config.py), [c](memory.md)\n```\n[d](../README.md)\n```\n"
    )
    deeper = "[a](../../README.md) [b](2026-11-24-data.md) [c](#here)"
    assert pages.with_links_of_the_site(deeper, "docs/benchmarks", "benchmarks") == (
        "[a](../index.md) [b](2026-11-24-data.md) [c](#here)"
    )
    included = "[a](docs/data.md#keys) [b](docs/benchmarks)"
    assert pages.with_links_of_the_site(included, ".", ".") == "[a](data.md#keys) [b](benchmarks/index.md)"


def test_a_page_that_no_menu_names_is_found() -> None:
    index = (DOCS / "index.md").read_text()
    assert pages.OTHER_PAGES in index
    assert "data" not in pages.pages_without_a_place(index)
    assert "data" in pages.pages_without_a_place(index.replace("\ndata\n", "\n"))


def test_every_choice_and_every_key_of_a_run_is_in_the_reference() -> None:
    shown = {
        module
        for page in (DOCS / "api").glob("*.md")
        for module in api_reference.modules_shown(page.read_text())
    }
    for folder in CHOICE_FOLDERS:
        missing = set(api_reference.modules_of(f"deepcoro.{folder}")) - shown
        assert not missing
    for module in shown:
        assert len(api_reference.page_of(module)) > 100, module
    assert "optim" in api_reference.page_of("deepcoro.run_config")


def test_a_module_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"deepcoro\.nowhere: no such module"):
        api_reference.page_of("deepcoro.nowhere")
