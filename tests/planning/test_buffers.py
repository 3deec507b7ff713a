"""The sizes by which the planner counts are those that stand in ds_configs/*.json."""

import json
from typing import Any

import pytest

from deepcoro.planning.activations import KEPT_WHOLE
from deepcoro.planning.states import Buffers
from tests.launch import ROOT

FILES = sorted((ROOT / "ds_configs").glob("*.json"))
COUNTED = {
    "reduce_bucket_size": Buffers.reduce_bucket,
    "allgather_bucket_size": Buffers.reduce_bucket,
    "stage3_prefetch_bucket_size": Buffers.reduce_bucket,
    "stage3_param_persistence_threshold": KEPT_WHOLE,
    "stage3_max_live_parameters": Buffers.max_live_parameters,
    "stage3_max_reuse_distance": Buffers.max_reuse_distance,
}
WRITTEN = {
    0: set(),
    1: {"reduce_bucket_size", "allgather_bucket_size"},
    2: {"reduce_bucket_size", "allgather_bucket_size"},
    3: {name for name in COUNTED if name != "allgather_bucket_size"},
}
"""By stage, what a file has to say: what it leaves out would be DeepSpeed's default, which the planner does not count by."""


def zero_of(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "ds_configs" / name).read_text())["zero_optimization"]


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_every_size_that_takes_memory_is_written_and_is_the_planners(name: str) -> None:
    zero = zero_of(name)
    written = {key: size for key, size in zero.items() if key in COUNTED}
    assert written == {key: COUNTED[key] for key in WRITTEN[zero["stage"]]}
    unknown = {key for key in zero if key.endswith(("_size", "_parameters", "_threshold", "_distance"))}
    assert unknown <= {*COUNTED, "zero_hpz_partition_size"}, "a size that the planner does not know"


def test_all_files_were_looked_at() -> None:
    assert {zero_of(path.name)["stage"] for path in FILES} == set(WRITTEN)
