"""The paper kit of a run: Table 1, the flow of exclusions, checklists and result tables in one folder that may be shared."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from deepcoro import atomic
from deepcoro.aggregates import FEWEST
from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.paper.answers import Record, answers
from deepcoro.paper.checklists import CLAIM, TRIPOD_AI, filled, markdown
from deepcoro.paper.exclusion_flow import exclusion_flow, flow_drawing, flow_sheet
from deepcoro.paper.sheets import Sheet, latex, sheet_csv
from deepcoro.paper.table_one import table_one
from deepcoro.report import read_inputs
from deepcoro.report_aggregates import aggregates_of, without_places
from deepcoro.run_config import RunConfig
from deepcoro.run_record import read_record

_NOTE = (
    "Filled by deepcoro from the record of the run. `check`: the record says this, read it and put it into your words; `open`: nobody "
    "but you can write it. A filled line is no claim that the item is met."
)


def write_kit(run_dir: Path, config: RunConfig, output: Path, fewest: int) -> list[Path]:
    """Writes everything; returns the paths. DataError when the data are not those that the run was trained on."""
    shards = Collection.open(config.data)
    record = _record(run_dir, config, shards, fewest)
    flow = exclusion_flow(shards, run_dir, record.documents, fewest)
    about = f"{run_dir.resolve().name}, data {shards.name} ({shards.fingerprint[:16]})"
    written = []
    for sheet in (table_one(shards, fewest), flow_sheet(flow)):
        for suffix, text in (("csv", sheet_csv(sheet)), ("tex", latex(sheet, about))):
            written.append(output / f"{sheet.name}.{suffix}")
            atomic.write_text(written[-1], text)
    for name, text in (("exclusion_flow.svg", flow_drawing(flow)), *_checklists(record)):
        written.append(output / name)
        atomic.write_text(written[-1], text)
    return written


def _record(run_dir: Path, config: RunConfig, shards: Collection, fewest: int = FEWEST) -> Record:
    inputs, remembered = read_inputs(run_dir), _trained_on(run_dir)
    if remembered not in (None, shards.fingerprint):
        raise DataError(
            f"the run was trained on data {remembered[:16]}, these are {shards.fingerprint[:16]}; give the shards and tables of the run "
            "(data.shards=..., data.tables=[...])"
        )
    return Record(
        run_dir=run_dir,
        config=config,
        tree=yaml.safe_load(without_places(inputs.config_text)),
        shards=shards,
        starts=read_record(run_dir).get("starts", []),
        history=aggregates_of(inputs).history,
        documents=inputs.documents,
        fewest=fewest,
    )


def _trained_on(run_dir: Path) -> str | None:
    path = run_dir / "data.json"
    return yaml.safe_load(path.read_text())["fingerprint"] if path.is_file() else None


def _checklists(record: Record) -> Iterator[tuple[str, str]]:
    known = answers(record)
    sheets: list[Sheet] = [
        filled("tripod_ai", "TRIPOD+AI checklist", TRIPOD_AI, known),
        filled("claim", "CLAIM checklist (2020)", CLAIM, known),
    ]
    for sheet in sheets:
        yield f"{sheet.name}.csv", sheet_csv(sheet)
        yield f"{sheet.name}.md", markdown(sheet, _NOTE)
