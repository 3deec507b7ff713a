"""Which units are hidden: how many, where, and that nothing but the clip's key decides it."""

import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.features import MaskUnits
from deepcoro.masked_video.masks import MaskRule, hidden_of, nearest_in_time

UNITS = MaskUnits(grid=(4, 3, 5), frames=2, size_px=32)
KEYS = torch.randint(-(2**31), 2**31, (64,), generator=torch.Generator().manual_seed(0)).int()


@pytest.mark.parametrize("masking", ["agnostic", "tube"])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9])
def test_each_clip_hides_the_share_and_every_unit_is_shown_or_hidden_once(masking, ratio):
    rule = MaskRule(UNITS, ratio, masking)
    mask = rule.draw(KEYS)
    assert mask.hidden.shape[1] == rule.num_hidden == pytest.approx(60 * ratio, abs=2)
    assert torch.equal(
        torch.cat((mask.shown, mask.hidden), 1).sort(1).values, torch.arange(60).expand(64, -1)
    )
    for part in mask.shown, mask.hidden:
        assert (part.diff(dim=1) > 0).all()
    assert torch.equal(hidden_of(mask.shown, 60), mask.hidden)


def test_units_are_hidden_alike_and_apart():
    """4000 clips: each unit is shown in a quarter of them, each pair in about a sixteenth."""
    keys = torch.arange(4000).int() * 7919
    shown = torch.zeros(4000, 60).scatter(1, MaskRule(UNITS, 0.75, "agnostic").draw(keys).shown, 1.0)
    together = shown.T @ shown / 4000
    assert together.diag().sub(0.25).abs().max() < 0.035
    assert (together - torch.diag(together.diag()) - 0.25 * 14 / 59 * (1 - torch.eye(60))).abs().max() < 0.025


def test_tubes_run_through_all_frames():
    shown = MaskRule(UNITS, 0.75, "tube").draw(KEYS).shown
    places = shown.reshape(64, 4, -1)
    assert torch.equal(places % 15, places[:, :1] % 15 + torch.zeros_like(places))
    assert torch.equal(places // 15, torch.arange(4)[:, None] + torch.zeros_like(places))


def test_a_clip_is_masked_the_same_in_any_company():
    rule = MaskRule(UNITS, 0.75, "agnostic")
    together = rule.draw(KEYS).shown
    assert torch.equal(torch.cat([rule.draw(KEYS[:5]).shown, rule.draw(KEYS[5:]).shown]), together)
    assert len(torch.unique(together, dim=0)) == 64


def test_the_nearest_shown_unit_in_time_is_found_as_a_loop_finds_it():
    shown = MaskRule(UNITS, 0.8, "agnostic").draw(KEYS).shown
    found = nearest_in_time(shown, UNITS)
    for clip in range(8):
        own = set(shown[clip].tolist())
        for unit in range(60):
            time, place = divmod(unit, 15)
            times = [other for other in range(4) if other * 15 + place in own]
            expected = min(times, key=lambda other: (abs(other - time), other)) * 15 + place if times else -1
            assert found[clip, unit] == expected


@pytest.mark.parametrize(
    ("grid", "ratio", "masking", "message"),
    [
        (
            (2, 2, 2),
            0.95,
            "agnostic",
            r"0.95 leaves no visible unit: a clip has 8 units of 2 frames x 32x32 px",
        ),
        ((2, 2, 2), 0.05, "agnostic", r"leaves no masked unit.*above 0.0625 and below 0.938"),
        ((8, 1, 2), 0.8, "tube", r"a clip has 2 places \(masking: tube\)"),
        ((1, 1, 1), 0.5, "agnostic", "more than one: take more frames"),
    ],
)
def test_a_ratio_that_hides_all_or_nothing_is_refused(grid, ratio, masking, message):
    with pytest.raises(ConfigError, match=message):
        MaskRule(MaskUnits(grid, 2, 32), ratio, masking)
    if grid == (2, 2, 2):
        assert MaskRule(MaskUnits(grid, 2, 32), 0.75, masking).num_hidden == 6
