"""Result of a training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

__all__ = ["TrainingResult", "shown_path"]


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes
    ----------
    metrics
        Last value of each metric that the model logged, such as ``val_auc``.
    epochs, targets
        Number of epochs, and of targets in one epoch.
    cutouts_per_second
        Cutouts per second in the training loop, without validation and pauses between epochs.
    waiting
        Fraction of that time in which the loop waited for data.
    hit_rate
        Fraction of tile requests that needed no decoding, over the whole run.
    bands_missing
        Number of targets without each band, over all splits.
    not_delivered
        Number of catalog rows without any coadd.
    left_out
        Number of targets of each split that a policy left out in the last epoch.
    shared
        Number of targets of each split that were left out because they share pixels with another split.
    checkpoint, picture
        Files that were written.
    """

    metrics: Mapping[str, float]
    epochs: int
    targets: int
    cutouts_per_second: float
    waiting: float
    hit_rate: float
    bands_missing: Mapping[str, int]
    not_delivered: int
    left_out: Mapping[str, int]
    shared: Mapping[str, int]
    checkpoint: str
    picture: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def table(self) -> Table:
        """Return the result as a table for the terminal."""
        table = Table(title="Training", show_header=False, title_justify="left")
        for name, value in sorted(self.metrics.items()):
            table.add_row(name.replace("_", " "), f"{value:.4f}")
        missing = ", ".join(f"{band}: {count}" for band, count in self.bands_missing.items() if count) or "none"
        reasons = {"sharing pixels with another split": self.shared, "by a policy": self.left_out}
        left_out = [f"{split}: {n} {why}" for why, counts in reasons.items() for split, n in counts.items() if n]
        rows = {
            "epochs x targets": f"{self.epochs} x {self.targets}",
            "cutouts/s in training": f"{self.cutouts_per_second:,.0f}",
            "waiting for data": f"{self.waiting:.1%} of the training time",
            "cache hit rate": f"{self.hit_rate:.1%}",
            "targets without a band": missing,
            "targets not delivered": str(self.not_delivered),
            "targets left out": "; ".join(left_out) or "none",
            "checkpoint": shown_path(self.checkpoint),
            "picture": shown_path(self.picture) if self.picture else "not written",
        }
        for name, text in rows.items():
            table.add_row(name, text)
        return table


def shown_path(path: str) -> str:
    """Return a path, relative if it is below the current folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
