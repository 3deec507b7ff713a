"""One finding: what was found, whether it hinders, and one line of advice."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

Level = Literal["ok", "note", "slow", "broken"]
_COLOUR = {"ok": "green", "note": "cyan", "slow": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Finding:
    """`slow`: it works and could be better; `broken`: a run would fail or crawl."""

    about: str
    level: Level
    found: str
    advice: str = ""
    """What to do; nothing where nothing is to be done."""


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where something is broken."""
    return int(any(each.level == "broken" for each in findings))


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps([asdict(each) for each in findings], indent=1)


def as_table(findings: Sequence[Finding]) -> "Table":
    from rich.table import Table

    table = Table(show_lines=False, pad_edge=False)
    for name in ("about", "", "found", "advice"):
        table.add_column(name, overflow="fold")
    for each in findings:
        mark = f"[{_COLOUR[each.level]}]{each.level}[/]"
        table.add_row(each.about, mark, each.found, each.advice)
    return table


def as_lines(findings: Sequence[Finding]) -> str:
    """For pipes and logs."""
    return "\n".join(
        f"{each.level:6}  {each.about}: {each.found}" + (f"\n        -> {each.advice}" if each.advice else "")
        for each in findings
    )


def join(words: Sequence[str], most: int = 3) -> str:
    """A list for reading; the rest is counted."""
    shown = ", ".join(words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
