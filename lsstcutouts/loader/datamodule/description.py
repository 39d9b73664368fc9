"""The settings of a data module as plain values for a checkpoint, and the checks against those of a training."""

import inspect
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...catalog.files import has_path
from ...catalog.footprint import Footprint, footprint_of
from ...errors import ConfigurationError, ResumeError
from ...order.sampling import Sampling
from ...plan.arguments import AngularSize, shown_size
from ...plan.cutout_plan import CutoutPlan
from ...plan.quality import QualityPolicy
from ...plan.read_options import ReadOptions
from ...plan.splits.split_options import SplitOptions
from ...read.exports.export_files import names_export
from ...sky.geometry import YX
from ...source.notebook import html_table
from ...transforms.augmentation import runs_always
from ..checkpoint_state import absolute_path, data_state, plain_values, public_values, read_checkpoint

__all__ = [
    "DERIVED",
    "check_counts",
    "check_sources",
    "check_tensors",
    "checked_module",
    "described",
    "html_of",
    "pixels_of",
    "read_arguments",
    "settings_of",
]

_VERSION = 1

_COMPARED = {
    "bands": "bands (in this order)",
    "pixels": "size in pixels (height, width)",
    "pixel_scale": "pixel scale in arcsec (y, x)",
    "grid": "grid",
    "planes": "planes",
    "mask_planes": "mask_planes",
    "flux_unit": "flux_unit",
    "missing_band": "missing_band",
    "fill": "fill",
    "normalise_psf": "normalise_psf",
    "normalisation": "normalisation",
    "transforms": "transforms",
    "every_stage": "augmentations that run in every stage",
}
"""What decides the tensors that a network sees; another value of one of these makes its output meaningless."""

DERIVED = frozenset({"version", "pixels", "pixel_scale", "plans", "every_stage"})
"""Settings in a checkpoint that are no arguments of the data module."""

_OPTIONS = {"read": ReadOptions, "sampling": Sampling, "splits": SplitOptions}

_SCALE_TOLERANCE = 1e-3
"""Relative tolerance of pixel scales: tracts of one skymap differ by 1e-9, surveys by several percent."""


def check_counts(**counts: tuple[Any, int]) -> None:
    """Raise unless each value is an integer of at least a minimum; each argument is ``name=(value, minimum)``.

    Raises
    ------
    ConfigurationError
        With the name and the value.
    """
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ConfigurationError(f"{name} must be an integer, got {value!r}")
        if value < least:
            raise ConfigurationError(f"{name} must be at least {least}, got {value}")


def checked_module(name: str, value: Any) -> nn.Module:
    """Return a module over a batch; the identity for None.

    Raises
    ------
    ConfigurationError
        If it is something else. Functions are refused since a checkpoint cannot name them.
    """
    if value is None:
        return nn.Identity()
    if isinstance(value, nn.Module):
        return value
    wanted = f"{name} must be a torch.nn.Module that takes and returns a batch"
    if isinstance(value, type):
        hint = f"the class {value.__name__}; give an object: {name}={value.__name__}(...)"
    elif isinstance(value, str):
        hint = f"the string {value!r}; give an object such as lsstcutouts.transforms.NoiseAsinh()"
    elif isinstance(value, list | tuple):
        hint = "a list; give lsstcutouts.transforms.Compose([...])"
    elif callable(value):
        hint = "a function; write a class with forward(self, batch), so that a checkpoint can name it"
    else:
        hint = repr(value)
    raise ConfigurationError(f"{wanted}, got {hint}")


def described(module: nn.Module) -> dict[str, Any] | None:
    """Return a module's class and arguments as hydra would make it; None for the identity.

    An argument is the attribute of its name. ``_incomplete_`` names those that are no such attribute.
    """
    if type(module) is nn.Identity:
        return None
    about: dict[str, Any] = {"_target_": _public_name(type(module))}
    if isinstance(module, nn.Sequential):
        key = "modules" if "modules" in inspect.signature(type(module)).parameters else "_args_"
        return {**about, key: [described(one) for one in module]}
    lacking = []
    for name, parameter in inspect.signature(type(module)).parameters.items():
        # Statistics are kept in the checkpoint beside the settings.
        unkept = name == "inplace" or (name == "statistics" and hasattr(module, "given"))
        if unkept or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(module, name, inspect.Parameter.empty)
        if isinstance(value, nn.Module):
            about[name] = described(value)
        elif isinstance(value, Tensor):
            about[name] = value.flatten().tolist()
        elif value is inspect.Parameter.empty or callable(value):
            lacking.append(name)
        else:
            about[name] = plain_values(value)
    return about | ({"_incomplete_": lacking} if lacking else {})


def _public_name(kind: type) -> str:
    """Return the shortest path from which a class can be imported."""
    parts = kind.__module__.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if getattr(sys.modules.get(package), kind.__qualname__, None) is kind:
            return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def settings_of(data: Any) -> dict[str, Any]:
    """Return the arguments of a `CutoutDataModule` that are not about the machine, as plain values without secrets.

    Tables and lists of ids that are only in memory are None.
    """
    return public_values(  # type: ignore[no-any-return]
        plain_values(
            {
                "version": _VERSION,
                "repo": absolute_path(data.repo),
                "collections": data.collections,
                "catalog": absolute_path(_named(data.catalog)),
                "bands": data.bands,
                "size": [f"{n} arcsec" for n in (data.size.y, data.size.x)]
                if isinstance(data.size, AngularSize)
                else data.size,
                "dataset_type": data.dataset_type,
                "planes": data.planes,
                "batch_size": data.batch_size,
                "seed": data.seed,
                "read": _plain_options(data.read),
                "sampling": _plain_options(data.sampling),
                "splits": _plain_options(data.split_options),
                "columns": data.columns,
                "normalisation": described(data.normalisation),
                "transforms": described(data.transforms),
                "augmentations": described(data.augmentations),
                "every_stage": [described(one) for one in runs_always(data.augmentations)],
            }
        )
    )


def html_of(data: Any) -> str:
    """Return a table of a `CutoutDataModule`, and after its `setup` of its splits, for a notebook."""
    catalog, steps = data.catalog, ("augmentations", "normalisation", "transforms")
    if not isinstance(catalog, Mapping) or footprint_of(catalog) is not None:
        catalog = {"": footprint_of(catalog) or catalog}
    named = [str(one) if isinstance(one, os.PathLike | Footprint) else one for one in catalog.values()]
    splits = [f"{name}: {len(rows):,}" for name, (_, rows) in data.splits.items()]
    rows: list[tuple[str, object]] = [
        ("repository", str(data.repo)),
        ("collections", data.collections),
        ("dataset type", data.dataset_type),
        ("catalog", named),
        ("bands", data.bands),
        ("size", shown_size(data.size)),
        ("planes", data.planes),
        ("targets", splits or "known after setup()"),
        ("batch_size", data.batch_size),
        ("num_workers", data.num_workers),
        ("seed", data.seed),
        *((name, type(module).__name__) for name in steps if type(module := getattr(data, name)) is not nn.Identity),
    ]
    return html_table(type(data).__name__, rows)


def _plain_options(options: Any) -> dict[str, Any]:
    """Return an options dataclass as hydra would make it, without what is only in memory."""
    found: dict[str, Any] = {"_target_": f"lsstcutouts.{type(options).__name__}"}
    for field in fields(options):
        value = getattr(options, field.name)
        if not field.init or isinstance(value, np.ndarray):
            continue
        if is_dataclass(value):
            value = _plain_options(value)
        elif field.name == "shares" and not isinstance(value, str) and not options.fractions:
            value = absolute_path(_named(value))
        found[field.name] = value
    return found


def _named(value: Any) -> Any:
    """Return what can be named in a checkpoint: files, lists of files, footprints; None for what is in memory alone."""
    if (request := footprint_of(value)) is not None:
        return {"footprint": request.as_dict()}
    if has_path(value):
        return {**value, "path": str(value["path"])}
    if isinstance(value, Mapping):
        named = {str(name): _named(one) for name, one in value.items()}
        return None if None in named.values() else named
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return list(value)
    return str(value) if hasattr(value, "__fspath__") or isinstance(value, str) else None


def pixels_of(splits: Mapping[str, tuple[CutoutPlan, Any]], size: YX[int] | AngularSize) -> dict[str, Any]:
    """Return size and pixel scale of the cutouts of these splits, and the fingerprints of their plans."""
    plans = list({id(plan): plan for plan, _ in splits.values()}.values())
    if not plans:
        return {} if isinstance(size, AngularSize) else {"pixels": [size.y, size.x]}
    scale = next((plan.pixel_scale for plan in plans if plan.pixel_scale is not None), None)
    return {
        "pixels": list(plans[0].size),
        "pixel_scale": None if scale is None else [round(float(scale.y), 6), round(float(scale.x), 6)],
        "plans": [plan.fingerprint() for plan in plans],
    }


def check_tensors(trained: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that make other tensors than those that a network was trained on, as far as both are known.

    Raises
    ------
    ConfigurationError
        The message names each of them with both values.
    """
    # Older versions had no augmentations that run in every stage.
    trained, now = ({"every_stage": [], **one, **one.get("read", {})} if one else {} for one in (trained, now))
    lines = [
        f"  {title}: {_shown(trained[name])} in the training, {_shown(now[name])} here"
        for name, title in _COMPARED.items()
        if name in trained and name in now and not _same(name, trained[name], now[name])
    ]
    if lines:
        raise ConfigurationError(
            "these settings differ from the training of the network:\n" + "\n".join(lines) + "\n"
            "Use the settings of the training, for example with CutoutDataModule.load_from_checkpoint(file, catalog=...)"
        )


def check_sources(trained: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise if a training cannot be resumed from another repository or catalog: its targets or files differ.

    Raises
    ------
    ResumeError
        If the plan of another repository, collection or catalog is another one.
    """
    lines = []
    for name in ("repo", "collections", "catalog") if "plans" in now and "plans" in trained else ():
        before, here = trained.get(name), now[name]
        if None not in (before, here) and _listed(before) != _listed(here):
            lines.append(f"  {name}: {before} in the checkpoint, {here} now")
    if lines and trained["plans"] != now["plans"]:
        raise ResumeError(
            "the training cannot be resumed with other targets or files:\n" + "\n".join(lines) + "\n"
            "A copy of the same repository and catalog is accepted. For other data start a new training; it can begin with the "
            "weights of the checkpoint (load_from_checkpoint of the model)"
        )


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _same(name: str, one: Any, other: Any) -> bool:
    if name == "pixel_scale":
        if one is None or other is None:  # no target was covered
            return True
        return all(math.isclose(a, b, rel_tol=_SCALE_TOLERANCE) for a, b in zip(one, other, strict=True))
    if name == "planes":
        return sorted(one) == sorted(other)
    return repr(one) == repr(other)  # nan is the same as nan


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k}={_shown(v)}" for k, v in value.items() if not k.startswith("_"))
        return f"{str(value.get('_target_', '')).rpartition('.')[2]}({inner})"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return "none" if value is None else str(value)


def read_arguments(
    checkpoint_path: str | os.PathLike[str], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the constructor arguments in a checkpoint, without modules that ``changes`` replaces, and its state.

    Raises
    ------
    ConfigurationError
        If the file has no settings of a data module, or something in memory or a module has to be given.
    """
    state = data_state(read_checkpoint(checkpoint_path, "checkpoint_path"))
    if state is None:
        raise ConfigurationError(
            f"{os.fspath(checkpoint_path)!r} has no description of its training data: it was written by an older version, "
            "or without a CutoutDataModule; create the data module as in the training"
        )
    settings = _arguments_of(state["data"])
    for name in ("normalisation", "transforms", "augmentations"):
        if name not in changes:
            settings[name] = _created_module(name, settings[name])
    if (
        settings["catalog"] is None
        and "catalog" not in changes
        and not names_export(changes.get("repo", settings["repo"]))
    ):
        raise ConfigurationError(
            "the catalog of the training was a table in memory, which is not in the checkpoint; give catalog="
        )
    return settings, state


def _arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments from what `settings_of` gave.

    Raises
    ------
    ConfigurationError
        If the checkpoint is of another version.
    """
    if settings.get("version") != _VERSION:
        raise ConfigurationError(
            f"the checkpoint has settings of version {settings.get('version')!r}, but this version of lsstcutouts reads {_VERSION}; "
            "create the data module as in the training"
        )
    rest = {name: value for name, value in settings.items() if name not in DERIVED}
    for name, kind in _OPTIONS.items():
        given = {key: value for key, value in rest[name].items() if key != "_target_"}
        if given.get("quality") is not None:
            given["quality"] = QualityPolicy(**{k: v for k, v in given["quality"].items() if k != "_target_"})
        rest[name] = kind(**given)
    return rest


def _created_module(name: str, settings: Mapping[str, Any] | None) -> nn.Module | None:
    """Return the module that `described` describes.

    Raises
    ------
    ConfigurationError
        If it cannot be created: its class is missing or not a module, or its arguments are not known.
    """
    if settings is None:
        return None
    target = str(settings.get("_target_"))
    lost = f"the checkpoint's {name}, {target}, cannot be created from it; give {name}= as in the training"
    if settings.get("_incomplete_"):
        raise ConfigurationError(f"{lost} (it has no attributes {', '.join(settings['_incomplete_'])})")
    module, _, kind = target.rpartition(".")
    try:
        found = getattr(import_module(module), kind)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{lost} ({error})") from error
    # A checkpoint may come from anybody: it must not name a function to call.
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigurationError(f"{lost} (it is not a torch.nn.Module)")
    arguments = {key: _created(name, value) for key, value in settings.items() if key not in {"_target_", "_args_"}}
    made: nn.Module = found(*[_created(name, one) for one in settings.get("_args_", ())], **arguments)
    return made


def _created(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return _created_module(name, value)
    if isinstance(value, list):
        return [_created(name, one) for one in value]
    return value
