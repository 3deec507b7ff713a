"""The predecessor's prompt tables: `videos.csv` names the prompts of each film, `texts.csv` says what they are."""

from collections.abc import Mapping
from pathlib import Path

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.table import Table, read_table, with_column

IDS = "positive_text_ids"
"""Column of a film's prompts, such as `T1|T2`."""


def with_prompts(table: Table, texts: Path) -> Table:
    """The table with a column Report: the prompts of each film, in the order of its ids, one sentence after another.

    ConfigError when a column is absent; DataError when a film names a prompt that is not in `texts`, or an id is there twice.
    """
    if IDS not in table.columns:
        raise ConfigError(f"--texts needs a table with the column {IDS}, as the predecessor's videos.csv has")
    prompts = _prompts(read_table(texts))
    cells = [
        None if row is None else _report(number, row[IDS], prompts)
        for number, row in enumerate(table.rows, 1)
    ]
    return with_column(table, "Report", cells)


def _prompts(table: Table) -> dict[str, str]:
    for column in ("text_id", "prompt_text"):
        if column not in table.columns:
            raise ConfigError(f"--texts has no column '{column}'; it needs text_id and prompt_text")
    prompts: dict[str, str] = {}
    for number, row in enumerate(table.rows, start=1):
        if row is None or row["text_id"] is None or row["prompt_text"] is None:
            continue
        if row["text_id"] in prompts:
            raise DataError(
                f"--texts, row {number}: its text_id is there twice; keep one of the rows", topic="ids-twice"
            )
        prompts[row["text_id"]] = row["prompt_text"]
    return prompts


def _report(number: int, cell: str | None, prompts: Mapping[str, str]) -> str | None:
    """None for a film without prompts: nothing is known of it, which is not the same as nothing found."""
    ids = [each.strip() for each in (cell or "").split("|") if each.strip()]
    lost = sum(each not in prompts for each in ids)
    if lost:
        raise DataError(f"row {number}: {lost} of its {len(ids)} prompts are not in --texts; complete it")
    sentences = [prompts[each].rstrip(". ") + "." for each in dict.fromkeys(ids)]
    return " ".join(sentences) or None
