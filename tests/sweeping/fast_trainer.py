"""Stands for a training run: no model, but the words, the folder, the checkpoint, the signals and the exit codes of one.

Each step adds a line to metrics.jsonl and to progress.txt, its checkpoint; `starts.txt` remembers each start with the step it began at.
The measure is the better the nearer optim.lr is to 1e-3; `crash.txt` in the folder above ends trials by what it says.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 4


def main(words: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words if "=" in word)
    folder = Path(given["run_dir"])
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    progress = folder / "progress.txt"
    done = len(progress.read_text().splitlines()) if progress.is_file() else 0
    with (folder / "starts.txt").open("a") as starts:
        starts.write(f"{os.getpid()} {done}\n")
    rules = folder.parent / "crash.json"
    crash = json.loads(rules.read_text()).get(folder.name) if rules.is_file() else None
    for step in range(done + 1, STEPS + 1):
        patience = 15_000
        while crash == "waits" and step == 2 and not asked and patience:
            time.sleep(0.02)
            patience -= 1
        if asked:
            return 75
        if crash == "bad data":
            (folder / "exit.json").write_text(json.dumps({"code": 2, "reason": "the disk is full"}))
            return 2
        if crash == "killed once" and step == 3 and done == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("STEP_S", "0.02")))
        value = math.log10(float(given["optim.lr"]) / 1e-3) ** 2 + 1 / step
        with (folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"step": step, "val/loss": value}) + "\n")
        with progress.open("a") as checkpoint:
            checkpoint.write(f"{step}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
