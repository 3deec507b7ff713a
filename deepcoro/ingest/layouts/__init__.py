"""Public data sets as they are published, one file each: `read(folder)` gives the table that a CSV of films would give.

A layout has NAME, MODALITY (what its films show, `XA` or `US`), SOURCE, LICENCE, LABELS (the label columns taken when none are
named) and `read`.
"""

import difflib
from types import ModuleType

from deepcoro.config import ConfigError
from deepcoro.ingest.layouts import (
    cadica,
    camus,
    cardiosyntax,
    coronary_dominance,
    echonet_dynamic,
    echonet_lvh,
    mimic_iv_echo,
)

LAYOUTS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        cadica,
        camus,
        cardiosyntax,
        coronary_dominance,
        echonet_dynamic,
        echonet_lvh,
        mimic_iv_echo,
    )
}


def layout_named(name: str) -> ModuleType:
    """ConfigError that lists all layouts when there is none of that name."""
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ConfigError(f"--layout '{name}' is not known{hint}; allowed: {sorted(LAYOUTS)}")
    return LAYOUTS[name]
