"""Pages from `deepcoro/templates`: in HTML and SVG every string escaped, in Markdown none (a filter has to), a missing value an error."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from deepcoro.numerals import decimals, number, signed, significant

_TEMPLATES = Path(__file__).parent / "templates"
_NUMBERS = {each.__name__: each for each in (decimals, number, signed, significant)}


def render_page(template: str, filters: Mapping[str, Callable] = {}, /, **values: Any) -> str:
    """The page as one text. `filters` are functions that the template applies with `|`, beside those of numbers."""
    return _environment(tuple(filters.items())).get_template(template).render(**values)


@functools.cache
def _environment(filters: tuple[tuple[str, Callable], ...]) -> jinja2.Environment:
    """One for each set of filters, since it keeps the templates it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(("html", "svg"), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _NUMBERS | dict(filters)
    return environment
