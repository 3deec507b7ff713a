"""How well a trained model guesses hidden arteries of generated films, where the generator knows which pixels those are.

    python tools/vessel_error.py data/demo runs/demo --split test

Reads the recipe of a folder that tools/make_demo_data.py made (its films need not be there) and renders the split again. Prints
errors over all hidden pixels and over those of arteries, beside two guesses without a model, writes them to
RUN_DIR/vessel_error.json and adds those of arteries to RUN_DIR/results.json, where report.html looks for them.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro import atomic
from deepcoro.angiography.folder import read_recipe
from deepcoro.config import ConfigError, DataError
from deepcoro.evaluate import open_run
from deepcoro.run_pages import write_pages
from deepcoro.tool import number_lines
from deepcoro.vessel_error import vessel_error


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of tools/make_demo_data.py; its recipe.json is read")
    parser.add_argument("run_dir", type=Path, help="of a run with the objective masked_modeling")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--checkpoint", default="best", help="best, last or step_N (default: best)")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    try:
        numbers, notes = measure(options)
    except (ConfigError, DataError) as error:
        print(f"vessel_error: {error.told}", file=sys.stderr)
        return 2
    print("\n".join([*number_lines(dict(sorted(numbers.items()))), *notes]))
    return 0


def measure(options: argparse.Namespace) -> tuple[dict[str, float], list[str]]:
    recipe = read_recipe(options.folder)
    config, _, model = open_run(options.run_dir, options.checkpoint)
    if not any(hasattr(each, "pictures") for each in model.objectives.values()):
        raise ConfigError(f"{options.run_dir} has no objective masked_modeling, so nothing is hidden")
    numbers, notes = vessel_error(model, config.data.fields["video"], recipe, options.split)
    atomic.write_text(options.run_dir / "vessel_error.json", json.dumps(numbers, indent=1))
    _add_to_results(options.run_dir, numbers)
    return numbers, notes


def _add_to_results(run_dir: Path, numbers: dict[str, float]) -> None:
    """Beside the numbers of the last evaluation, when there was one."""
    path = run_dir / "results.json"
    if not path.is_file():
        return
    vessels = {key: value for key, value in numbers.items() if "_on_vessels" in key}
    atomic.write_text(path, json.dumps(json.loads(path.read_text()) | vessels, indent=1))
    write_pages(run_dir)


if __name__ == "__main__":
    sys.exit(main())
