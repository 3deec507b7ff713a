import pytest

from tests.losses import cases
from tests.ranks import Ranks


@pytest.fixture(scope="session")
def of_ranks(ranks_of: dict[int, Ranks]) -> dict[int, list[dict]]:
    """Every case of both losses."""
    return {world_size: ranks_of[world_size].run(cases.every_case, world_size) for world_size in cases.CASES}
