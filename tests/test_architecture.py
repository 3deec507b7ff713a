"""The house rules that a machine can hold: imports run down, siblings do not know each other, files and functions stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "deepcoro"
CHOICE_FOLDERS = ("towers", "poolers", "positives", "objectives", "losses", "fields", "metrics")

# Lower layers know nothing of higher ones. A module may import from its own layer and those before it.
LAYERS = [
    {
        "config",
        "resumable",
        "schedules",
        "atomic",
        "exported",
        "page",
        "numerals",
        "tool",
        "weights",
        "seen",
        "sample",
        "evaluated",
        "facts",
        "label_means",
        "angiography",
        "distributed",
        "profiling",
        "shared_folder",
        "draws",
        "preemption",
        "features",
        "bootstrap",
        "calibrated",
        "live_bytes",
        "pretended",
        "pairing",
        "captions",
        "assessed",
        "matching",
        "aggregates",
        "small_cells",
        "gradient_cache",
        "averages",
        "finite",
        "skipped",
        "exit_record",
        "watchdog",
    },
    {"kernels", "statistics"},
    {"mvit", "masked_video", "captioning", "heads", "pooling"},
    {"fields", "ingest", "augment", "normalisation", "tokens", "text_bank", "stored_features"},
    {"data"},
    {"towers", "poolers", "positives", "losses", "metrics", "answers", "judged"},
    {"objectives"},
    {"run_config", "groups", "implied", "contradictions"},
    {
        "model",
        "optim",
        "timetable",
        "speed",
        "teachers",
        "video_benchmark",
        "tracking",
        "logged_films",
        "ablation",
        "predictions",
        "scored",
        "comparison",
        "embeddings",
        "head_columns",
        "bank",
        "report_captions",
        "report_confusions",
        "report_costs",
        "report_examples",
        "report_figures",
        "report_reconstructions",
        "report_explanations",
        "lesion_pairs",
        "report_shortcuts",
        "report_groups",
        "report_head_errors",
        "report_head_figures",
        "report_heads",
        "report_intervals",
        "report_sites",
        "report_survival",
        "report_tables",
        "content",
    },
    {"engine", "build", "report", "run_record"},
    {"report_aggregates", "findings_table", "cross_validation", "fold_measures", "shortcut_overview"},
    {
        "paper",
        "run_pages",
        "strips",
        "checkpoint",
        "saving",
        "embed",
        "frozen_texts",
        "frozen_films",
        "positives_page",
        "reconstructions",
        "vessel_error",
    },
    {"evaluate", "step", "planning", "run_state"},
    {"readings"},
    {"train", "predict", "explain", "search", "inference", "sharing"},
    {"search_page", "launching", "doctor", "migration"},
    {"sweeping"},
    {"command_line"},
]
# The model never reads shards: data and ingest stand beside it.
BESIDE = {"data", "ingest"}
MODEL_SIDE = {
    "masked_video",
    "augment",
    "normalisation",
    "kernels",
    "mvit",
    "captioning",
    "heads",
    "pooling",
    "towers",
    "poolers",
    "positives",
    "losses",
    "metrics",
    "objectives",
    "model",
    "features",
    "pretended",
    "gradient_cache",
}


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted deepcoro modules that a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("deepcoro."))
        elif isinstance(node, ast.ImportFrom) and node.module == "deepcoro":
            yield from (f"deepcoro.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deepcoro."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down(path: Path) -> None:
    own = layer_of(room(path))
    up = [name for name in imported(path) if layer_of(name.split(".")[1]) > own]
    assert not up, f"{path.name} is in layer {own} and imports {up}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_model_does_not_know_where_samples_come_from(path: Path) -> None:
    rooms = {name.split(".")[1] for name in imported(path)}
    if room(path) in MODEL_SIDE:
        assert not rooms & BESIDE
    if room(path) in BESIDE:
        assert not rooms & (MODEL_SIDE - {"features"})


@pytest.mark.parametrize("folder", CHOICE_FOLDERS)
def test_siblings_of_a_choice_folder_do_not_import_each_other(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        if path.name != "__init__.py":
            siblings = [name for name in imported(path) if name.startswith(f"deepcoro.{folder}.")]
            assert not siblings, f"{path.name} imports {siblings}"


@pytest.mark.parametrize("folder", CHOICE_FOLDERS)
def test_each_file_of_a_choice_folder_is_one_choice_named_as_its_type(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        if path.name == "__init__.py":
            continue
        tree = ast.parse(path.read_text())
        configs = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config"]
        assert len(configs) == 1, f"{path} holds no Config"
        types = [
            node.value.value
            for node in configs[0].body
            if isinstance(node, ast.AnnAssign) and node.target.id == "type"  # type: ignore[union-attr]
        ]
        assert types == [path.stem]


def python_files() -> list[Path]:
    folders = [PACKAGE, ROOT / "tests", ROOT / "tools"]
    return [ROOT / "train.py", *(path for folder in folders for path in sorted(folder.rglob("*.py")))]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_functions_and_signatures_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
            given = [each.arg for each in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
            assert len([name for name in given if name not in ("self", "cls")]) <= 7, node.name


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not [path for path in python_files() if path.stem in ("utils", "common", "helpers", "misc")]
