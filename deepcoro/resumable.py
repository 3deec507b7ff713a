"""Which keys a run may change when it is resumed, and in which others two dumped trees differ."""

import fnmatch

# A resumed run may change these: they say where and how long to run, never what is computed at a given step. Folders and tables may
# have moved; what they hold is in the fingerprint, which must be the same. Schedules may change as long as the past stays as it was
# (Timetable.history).
MAY_CHANGE_ON_RESUME = frozenset(
    {
        "run_mode",
        "run_dir",
        "resume",
        "max_steps",
        "epochs",
        "clips_per_chunk",
        "batch_size",
        "gradient_accumulation_steps",
        "data.shards",
        "data.sources.*.shards",
        "data.storage",
        "data.cache",
        "data.tables",
        "data.label_rules",
        "data.num_workers",
        "data.worker_timeout_s",
        "data.max_bad_fraction",
        "towers.video.cache_features",
        "towers.video.features_folder",
        "data.fields.report.length_buckets",
        "data.fields.report.texts",
        "data.fields.report.edges",
        "objectives.*.form",
        "objectives.*.tile",
        "objectives.*.generation",
        "schedules.*.start_*",
        "schedules.*.end_*",
        "freeze",
        "non_finite",
        "stall_timeout_s",
        "checkpoint",
        "evaluate",
        "inference",
        "tracking",
        "profile",
    }
)


def changed_keys(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Dotted keys in which two dumped trees differ, without those that may change on resume."""
    changed = []
    for key in sorted(set(old) | set(new)):
        name = f"{prefix}{key}"
        may_change = any(fnmatch.fnmatchcase(name, pattern) for pattern in MAY_CHANGE_ON_RESUME)
        if may_change or old.get(key) == new.get(key):
            continue
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            changed += changed_keys(old[key], new[key], f"{name}.")
        else:
            changed.append(name)
    return changed
