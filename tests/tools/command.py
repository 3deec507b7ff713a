"""A tool of `tools/` called as a user calls it, in this process."""

import importlib.util
import sys
from types import ModuleType

from tests.launch import ROOT


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_tool(name: str, words: tuple[object, ...], monkeypatch, capsys) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    code = load_tool(name).main()
    return (code, *capsys.readouterr())
