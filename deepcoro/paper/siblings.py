"""Runs beside a run that differ from it in the seed alone: then its numbers are one draw of several that somebody has."""

from pathlib import Path

_OWN = ("seed:", "run_dir:")
"""Lines of config.yaml that such runs do not share."""


def runs_with_other_seeds(run_dir: Path) -> list[str]:
    """Names of the folders beside `run_dir` whose runs were evaluated and have its configuration, folder and seed aside."""
    own = run_dir.resolve()
    config = _shared(own)
    return [
        folder.name
        for folder in sorted(path.parent for path in own.parent.glob("*/config.yaml"))
        if folder != own and (folder / "results.json").is_file() and config and _shared(folder) == config
    ]


def _shared(run_dir: Path) -> list[str]:
    path = run_dir / "config.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in lines if not line.startswith(_OWN)]
