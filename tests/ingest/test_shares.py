"""Shares of splits, as a user writes them."""

import pytest

from deepcoro.config import ConfigError
from deepcoro.ingest.shares import DEFAULT, shares_of


def test_percentages_become_ranges():
    assert shares_of(DEFAULT) == (("train", 0.8), ("val", 0.9), ("test", 1.0))
    assert shares_of("33.3/33.3/33.4")[-1] == ("test", 1.0)
    assert shares_of("100/0/0") == (("train", 1.0), ("val", 1.0), ("test", 1.0))


@pytest.mark.parametrize("text", ["80/10", "80/20/10", "a/b/c", "", "110/-20/10"])
def test_anything_else_is_told(text):
    with pytest.raises(ConfigError, match="three percentages"):
        shares_of(text)
