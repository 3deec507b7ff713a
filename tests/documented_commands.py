"""Whether a command of the documents would start: its program is there, takes these flags, and the config with these keys loads.

Nothing is run: the parsers of the tools are asked, and stop the tool when they are content.
"""

import argparse
import contextlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

from accelerate.commands.launch import launch_command_parser

from deepcoro import config
from deepcoro.launching.arguments import read_request
from deepcoro.run_config import load_run_config
from tests.launch import ROOT

# What stands in documents for the reader's own, and what lines of the same page have written.
STANDS_FOR_A_CONFIG = {
    "CONFIG": "clip/base_config",
    "ours.yaml": "clip/base_config",
    "runs/probe/config.yaml": "demo/tiny_probe",
    "runs/sweep/best_config.yaml": "demo/tiny",
}
# The shell's and the system's own words; what they do is not ours to check.
OTHER_PROGRAMS = {
    *("awk", "cat", "cd", "cp", "curl", "echo", "export", "git", "hf", "kill", "ls", "mkdir", "open"),
    *("openssl", "tee", "wait", "wandb"),
}


class Accepted(Exception):
    """A tool's parser took the words."""


def check_script(text: str) -> int:
    """Number of commands that were checked. ValueError, ConfigError or SystemExit when one would not start."""
    commands = [words for line in _lines(text) for words in _commands(line)]
    for words in commands:
        check(words)
    return len(commands)


def _lines(text: str) -> list[str]:
    """Without the line breaks of long commands, and with a word in the place of what a command in brackets answers."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line for line in re.sub(r"\$\([^)]*\)", "ANSWER", joined).splitlines() if line.strip()]


def _commands(line: str) -> list[list[str]]:
    """Words of each command of a line, without comments and without variables that are set for it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Za-z_]+=.*", word):
            found[-1].append(word)
    return [words for words in found if words]


def check(words: list[str]) -> None:
    """One command. ValueError when its program is not known."""
    program, rest = words[0], words[1:]
    if program == "python" and rest[0] == "train.py":
        _check_run(rest[1:])
    elif program == "python" and rest[0].startswith("tools/"):
        _check_tool(ROOT / rest[0], rest[1:])
    elif program == "accelerate" and rest[0] == "launch":
        _check_launch(rest[1:])
    elif program in CHECKS:
        CHECKS[program](rest)
    elif program not in OTHER_PROGRAMS:
        raise ValueError(f"{program!r}: what it takes is not known to tests/documented_commands.py")


def _check_run(words: list[str]) -> None:
    """`train.py CONFIG key=value ...`"""
    given = [STANDS_FOR_A_CONFIG.get(word, word) for word in words]
    if given[0] == "--list":
        return
    pairs = [word for word in given[1:] if not word.startswith("--")]
    load_run_config(config.find_config(given[0]), pairs)


def _check_launch(words: list[str]) -> None:
    options = launch_command_parser().parse_args(words)
    if options.config_file is not None and not (ROOT / options.config_file).is_file():
        raise ValueError(f"{options.config_file}: no such launch file")
    if options.training_script != "train.py":
        raise ValueError(f"{options.training_script}: train.py is what is launched")
    _check_run(options.training_script_args)


def _check_runner(words: list[str]) -> None:
    request = read_request(["0" if word in ("R", "K") else word for word in words])
    _check_run([request.base_config, *request.words])


def _check_sbatch(words: list[str]) -> None:
    """`sbatch [options of SLURM] tools/train.sbatch CONFIG [words of tools/runner.sh]`"""
    place = words.index("tools/train.sbatch")
    _check_runner(["--base_config", *words[place + 1 :]])


def _check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for word in words if "=" not in word]
    for target in targets:
        if not re.search(rf"^{target}:", makefile, re.MULTILINE):
            raise ValueError(f"make {target}: no such target")


def _check_pip(words: list[str]) -> None:
    extras = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    for listed in re.findall(r"(?:deepcoro|\.)\[([\w,]+)\]", " ".join(words)):
        missing = [
            name for name in listed.split(",") if not re.search(rf"^{name} = \[", extras, re.MULTILINE)
        ]
        if missing:
            raise ValueError(f"pip {' '.join(words)}: no extra {missing}")


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "tools/runner.sh": _check_runner,
    "sbatch": _check_sbatch,
    "make": _check_make,
    "pip": _check_pip,
    "train.py": _check_run,
}

_loaded: dict[Path, ModuleType] = {}


def _check_tool(path: Path, words: list[str]) -> None:
    """SystemExit, as the parser gives it, when a flag is wrong; ValueError when the tool asks no parser."""
    tool = _loaded.get(path) or _loaded.setdefault(path, _module(path))
    with contextlib.ExitStack() as stack:
        for name in ("parse_args", "parse_intermixed_args"):
            stack.enter_context(mock.patch.object(argparse.ArgumentParser, name, _accepting(name)))
        stack.enter_context(mock.patch.object(sys, "argv", [str(path), *words]))
        stack.enter_context(contextlib.suppress(Accepted))
        tool.main()
        raise ValueError(f"{path.name} reads its words without argparse")


def _accepting(name: str) -> Callable[..., None]:
    """The method `name` of a parser, which does not come back once the words are parsed."""
    real = getattr(argparse.ArgumentParser, name)

    def accept(parser: argparse.ArgumentParser, *given: object, **named: object) -> None:
        real(parser, *given, **named)
        raise Accepted

    return accept


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{path.name}: no such tool")
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
