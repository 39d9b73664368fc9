"""Saves the error of a failed sweep job for the summary table."""

import json
from pathlib import Path

__all__ = ["FAILURE", "note_failure"]

FAILURE = "error.json"
"""File name in the folder of a failed job."""


def note_failure(error: BaseException) -> None:
    """Write an error to the folder of the job, if this process runs a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import InstantiationException
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not folder.is_dir():  # a verb without output folders
        return
    if (
        isinstance(error, InstantiationException) and error.__cause__ is not None
    ):  # hydra wraps the error of a constructor
        error = error.__cause__
    about = {"error": type(error).__name__, "message": str(error)}
    (folder / FAILURE).write_text(json.dumps(about) + "\n", encoding="utf-8")
