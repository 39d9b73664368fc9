"""Compares the order of batches in a checkpoint with that of the run which resumes from it."""

import logging
from collections.abc import Mapping

from ..errors import ResumeError
from ..order.world import Position

__all__ = ["resumed"]

_log = logging.getLogger(__name__)

_MEANINGS = {
    "targets": "the plan or the split: another catalog, repository, size, bands, splits or seed of the splits",
    "rows": "targets per epoch",
    "global_batch_size": "targets per step of all ranks together (batch_size x ranks)",
    "seed": "seed",
    "shuffle": "shuffle",
    "shuffle_width": "shuffle_width",
    "sampling": "weights, balance, epoch_size or replacement",
}
"""Meaning of each setting of an order; ``lanes`` is missing, since it is taken from the checkpoint."""


def resumed(
    before: Mapping[str, int | str] | None, now: Mapping[str, int | str], position: Position, steps: int
) -> tuple[int | None, Position]:
    """Return the lanes and the position from which a training continues.

    Parameters
    ----------
    before, now
        Settings of the order in the checkpoint, and here; without settings the position is not checked.
    position
        In the checkpoint.
    steps
        Batches of an epoch here.

    Raises
    ------
    ResumeError
        If the position is inside an epoch and means other batches here.
    """
    if before is None:
        return None, position
    changes = _changes(before, now)
    try:
        lanes, rows, global_batch_size = (int(before[name]) for name in ("lanes", "rows", "global_batch_size"))
    except (LookupError, TypeError, ValueError) as error:
        raise ResumeError(
            f"the checkpoint has no valid position in an epoch ({error!r}): it is damaged or of another version; start a "
            "new training with its weights (load_from_checkpoint of the model)"
        ) from error
    if not changes:
        return lanes, position
    if 0 < position.batch < -(-rows // max(1, global_batch_size)):
        raise ResumeError(
            f"the checkpoint was written after batch {position.batch} of epoch {position.epoch}, which cannot be resumed "
            f"with these settings:\n{changes}\n"
            "Restore these settings, resume from a checkpoint written between two epochs, or start a new training with the "
            "checkpoint's weights (load_from_checkpoint of the model)"
        )
    _log.warning("the order of batches differs from that of the checkpoint:\n%s", changes)
    # The epoch is complete, also if epochs have another length now.
    return lanes, position._replace(batch=steps if position.batch else 0)


def _changes(before: Mapping[str, int | str], now: Mapping[str, int | str]) -> str:
    """Return a line for each setting that has changed."""
    lines = []
    for name, meaning in _MEANINGS.items():
        # A setting that an older version did not write counts as unchanged.
        if before.get(name, now[name]) != now[name]:
            values = "" if name in {"targets", "sampling"} else f": {before[name]} in the checkpoint, {now[name]} now"
            lines.append(f"  {meaning}{values}")
    return "\n".join(lines)
