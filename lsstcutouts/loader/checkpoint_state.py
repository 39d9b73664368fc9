"""Values for checkpoints: plain values, absolute paths, no secrets; and reading checkpoints."""

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError

__all__ = ["absolute_path", "data_state", "plain_values", "public_values", "read_checkpoint"]

_SECRET_NAME = re.compile(r"(^|_)(token|password|passwd|secret|api_?key|credentials?)$", re.IGNORECASE)

_MISSING = "???"
"""Stands for a secret; a configuration that is read again asks for it."""


def read_checkpoint(path: str | os.PathLike[str], name: str = "checkpoint") -> dict[str, Any]:
    """Return the content of a Lightning checkpoint file, with tensors on the CPU.

    Parameters
    ----------
    path
        The file. Objects other than plain values and tensors are not loaded.
    name
        Of the setting that gave the path, for messages.

    Raises
    ------
    ConfigurationError
        If there is no such file, or it is damaged, or something else than a checkpoint of a training.
    """
    where = f"{name}={os.fspath(path)!r}"
    if not Path(path).is_file():
        raise ConfigurationError(f"{where}: this file does not exist; check the path")
    zipped = zipfile.is_zipfile(path)
    try:
        # Mapped, the weights are not read here: Lightning reads them again.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except Exception as error:  # torch and pickle raise anything on bytes that are no checkpoint
        raise ConfigurationError(f"{where} {_fault(path, error, zipped=zipped)}") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("state_dict"), Mapping):
        bare = isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values())
        what = "the bare weights of a network (a state_dict)" if bare else "no checkpoint of a training"
        raise ConfigurationError(
            f"{where} holds {what}; give a file that a training wrote, such as model.ckpt or last.ckpt, or that "
            "Trainer.save_checkpoint wrote"
        )
    if "pytorch-lightning_version" not in found:
        raise ConfigurationError(
            f"{where} was not written by Lightning; give a file that Trainer.save_checkpoint wrote"
        )
    return dict(found)


def _fault(path: str | os.PathLike[str], error: Exception, *, zipped: bool) -> str:
    """Return what is wrong with a file that torch cannot load."""
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    blocked = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
    if blocked:
        return (
            f"holds objects of the class {blocked[1]}, which are not loaded since they could run any code; save plain "
            "values alone (save_hyperparameters(ignore=[...]))"
        )
    with Path(path).open("rb") as file:
        begins = file.read(4)
    if zipped or begins == b"PK\x03\x04":
        return "is damaged, perhaps cut short by a full disk or a broken copy; take another one"
    return "is no checkpoint; give a file that a training wrote, such as model.ckpt or last.ckpt"


def data_state(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of the `CutoutDataModule` in a checkpoint of Lightning; None where there is none.

    A LightningModule that keeps it as ``self.trained_on`` in its ``on_load_checkpoint`` brings it to the data module that it
    predicts with, which then uses the statistics of the training and refuses other bands, sizes or units.
    """
    # Lightning files it under the name of the class, which may be a user's own.
    states = [value for value in checkpoint.values() if isinstance(value, Mapping)]
    found = [state for state in states if isinstance(state.get("data"), Mapping) and "bands" in state["data"]]
    return dict(found[0]) if found else None


def plain_values(value: Any) -> Any:
    """Return lists, dictionaries, numbers and text, as a checkpoint may hold them; of other objects the class's name."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): plain_values(one) for name, one in value.items()}
    if isinstance(value, Sequence):
        return [plain_values(one) for one in value]
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def absolute_path(value: Any) -> Any:
    """Return the absolute path of a file or folder that is there, also of those in a mapping or list; the rest as it is.

    Labels of repositories and URLs are no paths.
    """
    if isinstance(value, Mapping):
        return {name: absolute_path(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [absolute_path(one) for one in value]
    if not isinstance(value, str | os.PathLike) or "://" in os.fspath(value):
        return value
    path = Path(value).expanduser()
    return str(path.absolute()) if path.exists() else value


def public_values(value: Any, name: str = "") -> Any:
    """Return plain values without passwords, tokens and the signatures of URLs."""
    if isinstance(value, Mapping):
        return {key: public_values(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [public_values(one, name) for one in value]
    if not isinstance(value, str):
        return value
    if _SECRET_NAME.search(name) and "${" not in value:
        return _MISSING
    return re.sub(r"\w[\w+.-]*://[^\s'\"]+", lambda url: _public(url.group()), value)


def _public(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.split("[?#]", url, maxsplit=1)[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
