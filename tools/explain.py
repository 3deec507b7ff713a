#!/usr/bin/env python3
"""Where a trained model looks in films, checked by blurring what it looks at; pictures go into RUN/report.html.

    python tools/explain.py runs/mine --task cto                       a zero-shot task
    python tools/explain.py runs/mine --text "Severe stenosis of the mid LAD." --clip 3f0a5c1e77aa0912
    python tools/explain.py runs/mine --head max_stenosis --maps tokens pixels --check 64

--clip names films or studies by their keyed ids (predictions/*.csv has them); without it films are taken at equal distances through the
split. --check films are scored with parts blurred: by the map, and at random; RUN/explain/TARGET.json holds the numbers (`gain`: how much
lower the score lies than at random, with an interval over patients), with checkpoint, split and data that they are of. Of studies whose
pooler weighs clips, it also says what tools/shortcuts.py measured of the clip attended to most: how much worse the model is without it than
without a random one, over the same resampled patients. The pictures show films: share report_aggregates.html instead.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""

import argparse
import json
import logging
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro import atomic, checkpoint  # noqa: E402
from deepcoro.evaluate import open_run  # noqa: E402
from deepcoro.explain.films import explain_films, spread_units, units_named  # noqa: E402
from deepcoro.explain.maps import METHODS  # noqa: E402
from deepcoro.explain.targets import add_target_arguments, chosen_target  # noqa: E402
from deepcoro.report_explanations import CHECKS, write_explanations  # noqa: E402
from deepcoro.report_shortcuts import clips_taken, read_shortcuts  # noqa: E402
from deepcoro.run_pages import write_pages  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="explain.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.shards=...")
    add_target_arguments(parser)
    parser.add_argument("--clip", nargs="*", default=[], metavar="KEY", help="films or studies to explain")
    parser.add_argument("--maps", nargs="+", default=["tokens"], choices=METHODS, help="kinds (tokens)")
    parser.add_argument("--check", type=int, default=16, metavar="N", help="films without --clip (16)")
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help="of so many films (4)")
    parser.add_argument("--split", default="test", help="train, val or test (test)")
    parser.add_argument("--checkpoint", default="best", help="best, last or step_N (best)")
    return parser.parse_args(words)


def explain(options: argparse.Namespace) -> None:
    config, parts, model = open_run(options.run_dir, options.checkpoint, options.overrides)
    saved = checkpoint.find(config.checkpoint_folder, config.checkpoint.load)
    target = chosen_target(options, model, config, parts.tokenizer)
    units = parts.shards.units(options.split, config.data.multi_video, config.data.num_videos)
    named = units_named(units, parts, options.clip)
    chosen = named or spread_units(units, options.check)
    num_pictures = len(named) or options.pictures
    found = explain_films(model, parts, units, target, options.maps, chosen, num_pictures)
    numbers = found.numbers(target.name)
    name = re.sub(r"[^\w-]+", "_", target.name)[:60]
    facts = {
        "checkpoint": saved.title(),
        "split": options.split,
        "data_fingerprint": parts.shards.fingerprint,
    }
    path = options.run_dir / CHECKS / f"{name}.json"
    atomic.write_text(path, json.dumps(facts | {"numbers": numbers}, indent=1))
    write_explanations(options.run_dir, found.pictures)
    for key, value in numbers.items():
        print(f"{key:60} {value:10.4f}")
    if config.data.multi_video and model.pooler.weighs_clips:
        print("\n".join(clips_taken(read_shortcuts(options.run_dir), facts)))
    print(f"pictures: {write_pages(options.run_dir)}")


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return exit_code("explain", lambda: explain(options), debug=False)


if __name__ == "__main__":
    sys.exit(main())
