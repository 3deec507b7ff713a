"""What is fixed on the val split and used unchanged on every other film: threshold, recalibration and certainty of each finding, and the
prediction interval of each number.

A threshold that is chosen on the films it is measured on flatters. So `run_mode=val` writes `calibration/{checkpoint digest}.json` into
the run folder, and test, inference and other sites read it: by the digest, a threshold never meets another checkpoint than its own.
The val split of other data than the training's (another site, another `data.where`) reads it too, and does not replace it.
"""

import logging
from pathlib import Path

from deepcoro import atomic
from deepcoro.config import Block

logger = logging.getLogger(__name__)


class Fixed(Block):
    """One finding."""

    threshold: float
    """A score of this or more is called positive."""
    rule: str
    """How it was chosen: youden or f1."""
    slope: float | None = None
    """Platt scaling of the probability's logit; None where it could not be fitted."""
    intercept: float | None = None
    """Its shift."""
    selective_error: float | None = None
    """Largest share of wrong calls that val was asked to keep to; None = it was not asked."""
    certainty: float | None = None
    """Least probability, after recalibration, of the finding or of its absence from which on val's calls keep to it; no call is made below.
    None = not asked, or no certainty was enough."""
    num: int
    """Assessed rows it was chosen on."""
    num_positive: int
    """Those with the finding."""

    @property
    def not_reached(self) -> bool:
        """Whether no certainty makes calls as safe as was asked."""
        return self.selective_error is not None and self.certainty is None


class FixedInterval(Block):
    """The prediction interval of one head of numbers: what it says, less and more `half_width`."""

    half_width: float
    """In the label's unit."""
    level: float
    """Least share of patients, exchangeable with those of val, who have all their rows inside, on average; a fraction."""
    num_patients: int
    """Assessed patients whose worst errors it was chosen among."""

    def around(self, number: float) -> tuple[float, float]:
        """Its ends."""
        return number - self.half_width, number + self.half_width


class Calibration(Block):
    """All heads of one checkpoint."""

    checkpoint: str
    """Digest of the weights."""
    split: str
    """The films it was chosen on."""
    data: str
    """Their shard folder's name."""
    data_fingerprint: str
    """And what it holds."""
    created: str
    """When."""
    heads: dict[str, Fixed]
    """Findings, by `objective/head`."""
    numbers: dict[str, FixedInterval] | None = None
    """Heads of numbers, by `objective/head`, those that had too few patients left out; None where val was run before there were any."""

    def holds_for_val_of(self, fingerprint: str, of_training: str | None) -> bool:
        """Whether a val split of data with this fingerprint is to use it as it is, rather than choose anew: not that of the training's own
        data (`of_training`; None = not known), nor the very data it was chosen on.
        """
        return fingerprint not in (of_training, self.data_fingerprint)

    def warn_of_not_reached(self) -> None:
        """Names the heads that always make a call though a certainty was asked for."""
        for name, each in self.heads.items():
            if each.not_reached:
                logger.warning(
                    "%s: no certainty kept its wrong calls on val to %g (selective_error); a call is always made",
                    name,
                    each.selective_error,
                )


def calibration_path(run_dir: Path, digest: str) -> Path:
    return run_dir / "calibration" / f"{digest}.json"


def write_calibration(run_dir: Path, calibration: Calibration) -> Path:
    """Replaces what an earlier val of this checkpoint wrote."""
    path = calibration_path(run_dir, calibration.checkpoint)
    atomic.write_text(path, calibration.model_dump_json(indent=1))
    return path


def read_calibration(run_dir: Path, digest: str) -> Calibration | None:
    """None where val has not been run with this checkpoint."""
    path = calibration_path(run_dir, digest)
    return Calibration.model_validate_json(path.read_text()) if path.is_file() else None
