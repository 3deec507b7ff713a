"""What commands of `tools/` do alike: how they end (one line and an exit code for what is the user's or the disk's fault, a traceback
for a bug), and how many processes they may fill.
"""

import os
import sys
from collections.abc import Callable

from deepcoro.config import ConfigError, DataError

BAD_INPUT, INTERRUPTED = 2, 130


def exit_code(name: str, work: Callable[[], object], debug: bool, remedy: str = "") -> int:
    """Does the work: 0 when it is done, 2 after a line on stderr when command, data or disk are at fault, 130 after Ctrl-C.

    `remedy` ends the line about a disk. `debug` shows the whole traceback instead, which may name files.
    """
    try:
        work()
    except (ConfigError, DataError) as error:
        if debug:
            raise
        sys.stderr.write(f"{name}: {error}\n")
        return BAD_INPUT
    except OSError as error:  # its path may be that of a film
        if debug:
            raise
        told = error.strerror or type(error).__name__
        sys.stderr.write(f"{name}: reading or writing failed: {told}{remedy}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted; run the same command again to go on\n")
        return INTERRUPTED
    return 0


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
