#!/usr/bin/env python3
"""Films the same generated scene with and without each lesion and asks a trained model: does the score rise with the lesion?

    python tools/counterfactuals.py data/small runs/small --task cto
    python tools/counterfactuals.py data/small runs/small --head max_stenosis --vendors Aster Borealis Cormorant

FOLDER is one that tools/make_demo_data.py made; its recipe is read, its films need not be there. The patients of --split are used, which
must not be those of the training. A lesion is visible where it changes 0.04 % of a frame (20 px at 224 px) by 25 grey levels and contrast
shows half of its segment; a model that sees lesions raises the score in at least 90 % of visible pairs. A visible pair is decisive where
no other lesion of --min_stenosis is left without it, so that the right answer changes. The control changes nothing but noise and
background. --vendors films each scene with each make of machine: train on a folder of `make_demo_data.py --vendors Aster Borealis` to
see what the third does. RUN/counterfactuals.json holds the numbers, an entry each checkpoint, split, data set, --min_stenosis and --pairs.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""

import argparse
import itertools
import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro import checkpoint  # noqa: E402
from deepcoro.angiography.folder import read_recipe  # noqa: E402
from deepcoro.config import DataError  # noqa: E402
from deepcoro.evaluate import open_run  # noqa: E402
from deepcoro.explain.counterfactuals import measure, pairs_of, score_pairs  # noqa: E402
from deepcoro.explain.targets import add_target_arguments, chosen_target  # noqa: E402
from deepcoro.lesion_pairs import LesionPairs, add_lesion_pairs  # noqa: E402
from deepcoro.tool import exit_code, number_lines  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="counterfactuals.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of tools/make_demo_data.py")
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.shards=...")
    add_target_arguments(parser)
    parser.add_argument("--min_stenosis", type=int, default=70, metavar="PERCENT", help="of lesions (70)")
    parser.add_argument("--vendors", nargs="+", default=[None], metavar="NAME", help="film with each of them")
    parser.add_argument("--pairs", type=int, default=200, metavar="N", help="at most, of each vendor (200)")
    parser.add_argument("--split", default="test", help="train, val or test (test)")
    parser.add_argument("--checkpoint", default="best", help="best, last or step_N (best)")
    return parser.parse_args(words)


def compare(options: argparse.Namespace) -> None:
    recipe = read_recipe(options.folder)
    config, parts, model = open_run(options.run_dir, options.checkpoint, options.overrides)
    saved = checkpoint.find(config.checkpoint_folder, config.checkpoint.load)
    target = chosen_target(options, model, config, parts.tokenizer)
    numbers: dict[str, float] = {}
    for vendor in options.vendors:
        pairs = pairs_of(recipe, options.split, vendor, options.min_stenosis)
        scored = score_pairs(
            model, config.data.fields["video"], target, list(itertools.islice(pairs, options.pairs))
        )
        if not scored:
            raise DataError(
                f"no film of the split '{options.split}' of this data set has a lesion of {options.min_stenosis} % or more"
            )
        prefix = f"{target.name}/{vendor}" if vendor else target.name
        numbers |= {f"{prefix}/{key}": value for key, value in measure(scored).items()}
    found = LesionPairs(
        checkpoint=saved.title(),
        split=options.split,
        recipe=json.loads(recipe.text()),
        min_stenosis_percent=options.min_stenosis,
        max_pairs=options.pairs,
        numbers=numbers,
    )
    add_lesion_pairs(options.run_dir, found)
    print("\n".join(number_lines(numbers)))


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return exit_code("counterfactuals", lambda: compare(options), debug=False)


if __name__ == "__main__":
    sys.exit(main())
