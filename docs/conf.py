"""The site that `make docs` builds: Sphinx reads docs/*.md through MyST. Any warning ends the build."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from deepcoro import __version__  # noqa: E402, of this checkout, wherever another one is installed

project = "deepcoro"
version = release = __version__
html_title = f"deepcoro {__version__}"
extensions = ["myst_parser", "site_builder.pages", "site_builder.api_reference"]
exclude_patterns = ["site_builder"]

# Headings are link targets under the names that GitHub gives them: `data.md#names-in-pixels`.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Blocks without a language are what a terminal prints.
highlight_language = "none"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["site_builder/static"]
html_css_files = ["wide_tables.css"]
# Pages are read from a folder too, without a server; the sources are in the repository.
html_show_sourcelink = html_copy_source = False
html_show_copyright = False
