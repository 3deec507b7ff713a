"""What training took: device-hours, throughput, the wait for data, the share of the device's peak, memory."""

from collections.abc import Mapping, Sequence
from statistics import median

from deepcoro.numerals import number, percent

_HOURS = {
    "speed/gpu_hours": "GPU-hours, all starts",
    "speed/cpu_process_hours": "Hours of CPU processes, all starts",
}
_MEDIANS = {"speed/samples_per_s": "Samples a second, median", "speed/step_s": "Seconds a step, median"}
_SHARES = {
    "speed/data_wait_share": "Time spent waiting for data, median",
    "speed/mfu": "Of the device's peak, median",
}


def costs(history: Sequence[Mapping]) -> list[tuple[str, str]]:
    """Names and values, ready to print, of what metrics.jsonl tells; the rest is left out."""
    of_key: dict[str, list[float]] = {}
    for line in history:
        for key, value in line.items():
            if key.startswith(("speed/", "memory/")):
                of_key.setdefault(key, []).append(float(value))
    rows = [(title, number(of_key[key][-1], 3)) for key, title in _HOURS.items() if key in of_key]
    rows += [(title, number(median(of_key[key]), 2)) for key, title in _MEDIANS.items() if key in of_key]
    rows += [(title, percent(median(of_key[key]))) for key, title in _SHARES.items() if key in of_key]
    if "memory/peak_gb" in of_key:
        rows.append(("Peak memory of a process, GB", number(max(of_key["memory/peak_gb"]), 2)))
    return rows
