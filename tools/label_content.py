#!/usr/bin/env python3
"""Tells what each film shows: structure, contrast, state of the procedure, stents. Learns it from labelled shards, writes a table."""

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError, parse  # noqa: E402
from deepcoro.content.measures import as_text, hardly_sees, measure_head  # noqa: E402
from deepcoro.content.model import ContentModel  # noqa: E402
from deepcoro.content.pictures import HEADS, Films, read_pictures  # noqa: E402
from deepcoro.content.table import content_table, write_content  # noqa: E402
from deepcoro.content.train import Training, train_content  # noqa: E402
from deepcoro.data.shards import Shards  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

CONSOLE = Console(stderr=True)
EXAMPLES = """\
examples:
  Learn from generated films (two minutes from nothing), then from your own labelled ones too:
    python tools/make_demo_data.py data/content --preset content
    python tools/shard_dataset.py --csv data/content/dataset.csv --output shards/content --key_file data/content/demo.key
    python tools/label_content.py train --shards shards/content shards/labelled --output content.safetensors

  Label the films of another folder, then train on diagnostic injections alone:
    python tools/label_content.py predict --shards shards/archive --model content.safetensors --output content.csv
    accelerate launch train.py CONFIG data.shards=shards/archive data.tables=[content.csv] \\
        data.where="status == 'diagnostic' and contrast_agent == 1"

what is read: the columns main_structure, contrast_agent, status and stent_presence of the shards. An empty cell is not
assessed: it teaches nothing and counts nowhere. Training reads the split `train`; thresholds and the numbers shown are
of `val`. In the table an answer below its threshold stays empty: not assessed, never the likelier of two guesses.
An answer that is hardly more often right than always saying the most frequent class is marked so: at 96 px stents, and the state POST_PCI
that only they tell, are hardly seen; take these two columns from your own table. Generated films are no real ones: check the answers on your own films (--check shows them on val) before you rely on them.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="label_content.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    learn = verbs.add_parser("train", help="learn from the labels of shard folders")
    learn.add_argument(
        "--shards", nargs="+", required=True, metavar="FOLDER", help="shard folders with labels"
    )
    learn.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="MODEL.safetensors",
        help="a .json of the same name tells what it is",
    )
    for name, field in Training.model_fields.items():
        text = f"{' '.join((field.description or '').split())} (default: {field.default})".replace("%", "%%")
        learn.add_argument(f"--{name}", type=field.annotation, default=field.default, help=text)
    tell = verbs.add_parser("predict", help="write a table of what each film shows")
    tell.add_argument(
        "--shards", required=True, metavar="FOLDER", help="shard folder; all its splits are labelled"
    )
    tell.add_argument("--model", type=Path, required=True, metavar="MODEL.safetensors", help="made by train")
    tell.add_argument(
        "--output", type=Path, required=True, metavar="FILE.csv", help="a table for data.tables"
    )
    floor = "answers less sure than this stay empty (default: each head's own, calibrated on val)"
    tell.add_argument("--min_confidence", type=float, default=None, metavar="0..1", help=floor)
    check = "also compare with the labels that the folder's own val films have"
    tell.add_argument("--check", action="store_true", help=check)
    return parser.parse_args(arguments)


def train(options: argparse.Namespace) -> None:
    if options.output.suffix != ".safetensors":
        raise ConfigError(f"--output '{options.output.name}' must end in .safetensors")
    chosen = {name: getattr(options, name) for name in Training.model_fields}
    settings = parse(Training, chosen, "command line")
    opened = [Shards.open(folder) for folder in options.shards]
    parts = [read(shards, settings.size_px, ("train", "val")) for shards in opened]
    model, measures = train_content(
        parts,
        [shards.fingerprint for shards in opened],
        settings,
        lambda epoch, loss: CONSOLE.print(
            f"epoch {epoch}/{settings.epochs}: loss {loss:.3f}", highlight=False
        ),
    )
    model.save(options.output)
    for head, measure in measures.items():
        print(as_text(head, model.card.heads[head].classes, measure))
    print(f"written {options.output} and {options.output.with_suffix('.json').name}")


def predict(options: argparse.Namespace) -> None:
    floor = options.min_confidence
    if floor is not None and not 0 <= floor <= 1:
        raise ConfigError(f"--min_confidence is {floor}; allowed: 0 to 1")
    model = ContentModel.load(options.model)
    films = read(Shards.open(options.shards), model.card.size_px, None)
    rows = content_table(model, films, floor)
    write_content(options.output, rows)
    for head in model.card.heads:
        counts = Counter(row[head] or "not assessed" for row in rows)
        print(f"{head}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
        if warning := hardly_sees(head, model.card.measured):
            print(f"  {warning}")
    if options.check:
        check(model, films.of_split("val"), floor)
    print(f"written {options.output}")


def check(model: ContentModel, films: Films, floor: float | None) -> None:
    """Prints how the answers agree with the labels that val films already have."""
    chances = model.probabilities(films) if len(films.clips) else {}
    for head in HEADS:
        card = model.card.heads.get(head)
        if card is None or head not in chances:
            continue
        threshold = card.min_confidence if floor is None else floor
        measure = measure_head(chances[head].numpy(), films.targets(head, card.classes).numpy(), threshold)
        print(f"{head}: no label in val" if measure is None else as_text(head, card.classes, measure))


def read(shards: Shards, size_px: int, splits: tuple[str, ...] | None) -> Films:
    total = shards.studies.num_films
    bar = iter(track(range(total), description="films read", console=CONSOLE))
    return read_pictures(shards, size_px, lambda: next(bar, None), splits)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    work = {"train": train, "predict": predict}[options.verb]
    return exit_code("label_content", lambda: work(options), debug=False)


if __name__ == "__main__":
    sys.exit(main())
