"""Texts of films as two tables: what `data.fields.report.type=texts` reads."""

from pathlib import Path


def write_text_tables(folder: Path) -> list[str]:
    """texts.csv and edges.csv, in which each film of the fixture `other_shards` but one has two of seven texts; the words that name them."""
    texts = [f"T{number},text number {number} of seven" for number in range(7)]
    films = [f"other{study}-film{film}" for study in range(12) for film in (0, 1)][1:]
    edges = [
        f"{film},T{(place + far) % 7},{1 - far / 2}" for place, film in enumerate(films) for far in (0, 1)
    ]
    (folder / "texts.csv").write_text("\n".join(["text_id,prompt_text", *texts, ""]))
    (folder / "edges.csv").write_text("\n".join(["clip,text_id,weight", *edges, ""]))
    return [f"data.fields.report.{name}={folder / name}.csv" for name in ("texts", "edges")]
