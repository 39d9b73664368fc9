"""What has changed between the run that wrote a checkpoint and the one that resumes from it."""

import logging
from collections.abc import Mapping

from ..errors import ResumeError

__all__ = ["resumed"]

_log = logging.getLogger(__name__)

_MEANINGS = {
    "targets": "the plan or the split: another catalog, repository, size, bands, splits or seed of the splits",
    "rows": "targets of an epoch",
    "global_batch_size": "targets of all ranks together a step (batch_size x ranks)",
    "seed": "seed",
    "shuffle": "shuffle",
    "shuffle_width": "shuffle_width",
    "draws": "weights, balance, epoch_size or replacement",
}
"""What the settings of an order mean; ``lanes`` is missing, since it is taken over."""


def resumed(
    before: Mapping[str, int | str] | None, now: Mapping[str, int | str], epoch: int, done: int, steps: int
) -> tuple[int | None, int]:
    """Return the lanes and the batches done of a training that goes on.

    Parameters
    ----------
    before, now
        Settings of the order in the checkpoint, and here; a place without settings is taken at its word.
    epoch, done
        The place.
    steps
        Batches of an epoch here.

    Raises
    ------
    ResumeError
        If the place is inside an epoch and means other batches here.
    """
    if before is None:
        return None, done
    changes = _changes(before, now)
    try:
        lanes, rows, global_batch_size = (int(before[name]) for name in ("lanes", "rows", "global_batch_size"))
    except (LookupError, TypeError, ValueError) as error:
        raise ResumeError(
            f"the checkpoint does not say which batches were done ({error!r}): it is damaged or of another version; begin a "
            "new training with its weights alone (load_from_checkpoint of the model)"
        ) from error
    if not changes:
        return lanes, done
    if 0 < done < -(-rows // max(1, global_batch_size)):
        raise ResumeError(
            f"the checkpoint was taken after batch {done} of epoch {epoch}, which cannot be resumed with these settings:\n{changes}\n"
            "Set these back; or resume from a checkpoint taken between two epochs; or begin again with the checkpoint's "
            "weights alone (load_from_checkpoint of the model)"
        )
    _log.warning("the checkpoint's order of batches is not the one from here on:\n%s", changes)
    # A whole epoch is behind it, however long epochs are now.
    return lanes, steps if done else 0


def _changes(before: Mapping[str, int | str], now: Mapping[str, int | str]) -> str:
    """Return a line for each setting that has changed."""
    lines = []
    for name, meaning in _MEANINGS.items():
        # What an older version did not note is taken as it is here.
        if before.get(name, now[name]) != now[name]:
            values = "" if name in {"targets", "draws"} else f": {before[name]} in the checkpoint, {now[name]} now"
            lines.append(f"  {meaning}{values}")
    return "\n".join(lines)
