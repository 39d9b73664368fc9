"""The outputs of ``predict_step`` as arrays, without padding rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..catalog.ids import Values
from ..errors import ConfigurationError
from ..plan.cutout_plan import CutoutPlan

__all__ = ["as_array", "model_columns"]


def model_columns(outputs: Any, batch: Any, plan: CutoutPlan, reserved: set[str]) -> dict[str, Values]:
    """Return the outputs of a model for a batch, without padding rows, on the CPU.

    Where ids repeat, ``object_hash`` is one of them.

    Raises
    ------
    ConfigurationError
        If they are not a dictionary with ``object_id`` and one value for each row, or have a reserved name.
    """
    if not isinstance(outputs, Mapping) or "object_id" not in outputs:
        raise ConfigurationError("predict_step must return a dictionary with object_id and a column such as score")
    if taken := sorted((set(outputs) & reserved) - {"object_id"}):
        raise ConfigurationError(
            f"predict_step returns {', '.join(taken)}, but the output file already has columns of this name; rename them"
        )
    real = ~as_array(batch["is_padding"]).astype(bool)
    found: dict[str, Values] = {}
    for name, values in outputs.items():
        if name == "is_padding":
            continue
        if len(values) != len(real):
            raise ConfigurationError(
                f"predict_step returns {len(values)} values of {name!r} for a batch of {len(real)} rows; return one per row"
            )
        found[name] = (
            [text for text, keep in zip(values, real, strict=True) if keep]
            if isinstance(values, list | tuple)
            else as_array(values)[real]
        )
    if plan.repeats_ids:  # the table needs to know which of the targets with one id a row is
        if not np.array_equal(as_array(found["object_id"]), as_array(batch["object_id"])[real]):
            raise ConfigurationError(
                "several targets have one id: predict_step must return object_id as the batch has it"
            )
        found["object_hash"] = as_array(batch["object_hash"])[real]
    return found


def as_array(values: Any) -> NDArray[Any]:
    """Return values as an array of the same shape; bfloat16, which NumPy lacks, as float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)
