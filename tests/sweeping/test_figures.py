"""What stands on the axes of a sweep's drawings."""

import pytest

from deepcoro.sweeping.figures import _Scale, short_names
from deepcoro.sweeping.space import parameter_of, value_text


def test_an_axis_has_round_values_of_its_whole_range_and_all_choices_in_order() -> None:
    wide = {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}
    decades = _Scale.of(parameter_of("optim.lr", wide), [2e-4]).ticks()
    assert [text for _, text in decades] == ["1e-5", "0.0001", "0.001"]
    assert [place for place, _ in decades] == pytest.approx([0, 0.5, 1])
    narrow = wide | {"min": 2e-5, "max": 4e-4}
    assert [text for _, text in _Scale.of(parameter_of("x", narrow), []).ticks()][:2] == ["2e-5", "5e-5"]
    sizes = _Scale.of(parameter_of("batch_size", {"values": [32, 16]}), [32])
    assert sizes.ticks() == [(0.25, "16"), (0.75, "32")] and sizes.at(32) == 0.75
    normal = parameter_of("x", {"distribution": "normal", "mu": 3.0, "sigma": 1.0})
    assert _Scale.of(normal, [2.0, 6.0]).at(3.0) == 0.25, "without bounds, what was drawn"


def test_names_and_values_are_as_short_as_they_can_be() -> None:
    names = ["optim.lr", "objectives.a.loss", "objectives.b.loss", "seed"]
    assert short_names(names) == ["lr", "a.loss", "b.loss", "seed"]
    values = [{"type": "siglip"}, {"type": "focal", "gamma": 2.0}, 1.2345678e-05, True, None, [1, 2]]
    assert [value_text(each) for each in values] == ["siglip", "focal gamma=2", "1.235e-5", "true", "null", "[1, 2]"]  # fmt: skip
