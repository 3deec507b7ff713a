"""What commands of `tools/` do alike: how they end (one line and an exit code for what is the user's or the disk's fault, a traceback
for a bug), how many processes they may fill, and how they print numbers.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping

from deepcoro.config import ConfigError, DataError, pointer
from deepcoro.numerals import decimals

BAD_INPUT, INTERRUPTED = 2, 130
GOES_ON = "run the same command again to go on"


def exit_code(
    name: str, work: Callable[[], object], debug: bool, remedy: str = "", interrupted: str = GOES_ON
) -> int:
    """Does the work: 0 when it is done, 2 after a line on stderr when command, data or disk are at fault, 130 after Ctrl-C.

    `remedy` ends the line about a disk; `interrupted` says what the same command does after Ctrl-C. `debug` shows the whole traceback instead, which may name files.
    """
    try:
        work()
    except (ConfigError, DataError) as error:
        if debug:
            raise
        sys.stderr.write(f"{name}: {error.told}\n")
        return BAD_INPUT
    except OSError as error:  # its path may be that of a film
        if debug:
            raise
        told = error.strerror or type(error).__name__
        sys.stderr.write(
            f"{name}: reading or writing failed: {told}{remedy} {pointer('reading-or-writing-failed')}\n"
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; {interrupted}\n")
        return INTERRUPTED
    return 0


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number_lines(numbers: Mapping[str, float]) -> Iterator[str]:
    """A line a measure, with the interval whose bounds stand under its name with `_ci_low` and `_ci_high`."""
    for key, value in numbers.items():
        if key.endswith(("_ci_low", "_ci_high")):
            continue
        ends = [numbers.get(f"{key}_ci_{end}") for end in ("low", "high")]
        interval = "" if None in ends else f"   ({decimals(ends[0], 4)} to {decimals(ends[1], 4)})"
        yield f"{key:60} {decimals(value, 4):>10}{interval}"
