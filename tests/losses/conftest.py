import pytest

from tests.gloo import run_on_ranks
from tests.losses import cases


@pytest.fixture(scope="session")
def of_ranks() -> dict[int, list[dict]]:
    """Every case of both losses; one process group per number of ranks, since starting ranks takes longer than the cases."""
    return {world_size: run_on_ranks(cases.every_case, world_size, world_size) for world_size in cases.CASES}
