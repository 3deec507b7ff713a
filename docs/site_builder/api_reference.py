"""A module's public names with shapes and docstrings, read from its source: nothing is imported, so the site builds without torch.

    ```{api} deepcoro.losses.clip
    ```

A name that ends in `.*` stands for all modules of a folder, each under a heading of its own.
"""

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

REPOSITORY = Path(__file__).parent.parent.parent
# More colons than a docstring would use, so that its own fences end before ours.
_FENCE = "::::::"
_FOLDER = re.compile(r"^```{api} ([\w.]+)\.\*\n```$", re.MULTILINE)
_SHOWN = re.compile(r"^```{api} ([\w.]+)$", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_of(module: str) -> Path:
    """The file of a dotted module. ValueError when there is none."""
    path = REPOSITORY / module.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    raise ValueError(f"{module}: no such module; the API page names modules of this repository")


def with_folders_written_out(text: str) -> str:
    """A page's text with each `{api} FOLDER.*` replaced by its modules."""
    return _FOLDER.sub(lambda match: "\n".join(map(_headed, modules_of(match[1]))), text)


def modules_shown(text: str) -> list[str]:
    """Dotted modules that a page describes."""
    return _SHOWN.findall(with_folders_written_out(text))


def modules_of(folder: str) -> list[str]:
    """Dotted modules of a package, in the order of their names, without the package itself."""
    return [f"{folder}.{file.stem}" for file in sorted(source_of(folder).parent.glob("[!_]*.py"))]


def _headed(module: str) -> str:
    return f"## `{module.removeprefix('deepcoro.')}`\n```{{api}} {module}\n```\n"


def page_of(module: str) -> str:
    """MyST text: the module's docstring, then each public function and class in the order of the file."""
    tree = ast.parse(source_of(module).read_text())
    parts = [f"```{{py:module}} {module}\n```", ast.get_docstring(tree) or ""]
    parts += [_of_function(node, "function") for node in _public(tree) if isinstance(node, Function)]
    parts += [_of_class(node) for node in _public(tree) if isinstance(node, ast.ClassDef)]
    return "\n\n".join(parts) + "\n"


def _public(parent: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    """Functions and classes that say what they are for and do not start with an underscore."""
    for node in parent.body:
        named = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
        if named and ast.get_docstring(node):
            yield node


def _of_function(node: Function, kind: str) -> str:
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = ast.unparse(_without_self(node.args) if kind == "method" else node.args)
    return _described(kind, f"{node.name}({arguments}){returned}", ast.get_docstring(node) or "")


def _without_self(arguments: ast.arguments) -> ast.arguments:
    names = [each for each in arguments.args if each.arg not in ("self", "cls")]
    return ast.arguments(**{**dict(ast.iter_fields(arguments)), "args": names})


def _of_class(node: ast.ClassDef) -> str:
    members = [_of_field(field, text) for field, text in _documented_fields(node)]
    members += [_of_function(each, "method") for each in _public(node) if isinstance(each, Function)]
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    body = "\n\n".join([ast.get_docstring(node) or "", *members])
    return _described("class", f"{node.name}({bases})" if bases else node.name, body)


def _documented_fields(node: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Keys of a configuration block: an annotation and the string below it."""
    for field, below in zip(node.body, node.body[1:], strict=False):
        text = below.value.value if _is_string(below) else None
        if isinstance(field, ast.AnnAssign) and text:
            yield field, textwrap.dedent(text)


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def _of_field(field: ast.AnnAssign, text: str) -> str:
    options = f":type: {json.dumps(ast.unparse(field.annotation))}"
    if field.value is not None:
        options += f"\n:value: {json.dumps(ast.unparse(field.value))}"
    return _described("attribute", ast.unparse(field.target), text, options)


def _described(kind: str, signature: str, text: str, options: str = "") -> str:
    fence = _FENCE + ("::" if kind == "class" else "")
    return f"{fence}{{py:{kind}}} {signature}\n{options}\n\n{text}\n{fence}"


def _names_known_to(module: str) -> dict[str, str]:
    """Names of this project as the module writes them in annotations -> in full."""
    tree = ast.parse(source_of(module).read_text())
    known = {node.name: f"{module}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepcoro."):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def _link_names(container: nodes.container, known: dict[str, str]) -> None:
    """Sphinx looks a bare name up in all modules and may take another's class: give it the full name, or no link."""
    for link in list(container.findall(addnodes.pending_xref)):
        if link.get("refdomain") == "py" and link["reftarget"] in known:
            link["reftarget"] = known[link["reftarget"]]
        elif link.get("refdomain") == "py":
            link.parent.replace(link, link.children)


class Api(SphinxDirective):
    """`{api} MODULE`: the page of a module at this place."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        file = source_of(self.arguments[0])
        self.env.note_dependency(str(file))
        lines = page_of(self.arguments[0]).splitlines()
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source=str(file)), self.content_offset, container)
        _link_names(container, _names_known_to(self.arguments[0]))
        return container.children


def _page_is_read(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = with_folders_written_out(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("api", Api)
    app.connect("source-read", _page_is_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
