"""Pages from `deepcoro/templates`: in HTML and SVG every string escaped, in Markdown none (a filter has to), a missing value an error."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, filters: Mapping[str, Callable] = {}, /, **values: Any) -> str:
    """The page as one text. `filters` are functions that the template applies with `|`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(("html", "svg"), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)
