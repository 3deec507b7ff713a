"""Worker processes that end with the process that started them."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def leave_with_parent() -> None:
    """In a child: from now on it ends when its parent does. What it leaves half-written has a temporary name."""
    threading.Thread(target=_wait_and_leave, daemon=True).start()


def _wait_and_leave() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Spawned, since a forked child could inherit a lock that another thread (a progress bar's) holds."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), leave_with_parent)
