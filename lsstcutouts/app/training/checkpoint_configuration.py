"""Stores the configuration of a training in checkpoints, and merges it with the command line on resume and predict."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...errors import ConfigurationError
from ...loader.checkpoint_state import absolute_path, data_state, public_values
from ...loader.datamodule.description import DERIVED
from ...plan.arguments import parse_bands, parse_size
from ...plan.splits.split_options import SPLITS
from ...read.exports.export_files import names_export

__all__ = ["merge_with_checkpoint", "plain_configuration"]

_VERSION = 1

_CALL_ONLY = {"json", "debug", "resume", "checkpoint", "simulation", "output", "picture"}
"""Settings of one call of the command, not stored in checkpoints."""

_PATHS = ("repo", "catalog", "plan", "normalisation.statistics", "splits.shares")
"""Settings of the data module that may be paths."""

_SOURCES = ("repo", "collections", "catalog", "plan")
"""Settings that ``data=NAME`` changes on predict and resume: the repository and the targets."""

_OPTIONS = {"data.read", "data.sampling", "data.splits", "data.transfer"}
"""Dictionaries of options, whose entries are compared one by one."""

_MACHINE = ("batch_size", "num_workers", "threads", "cache_bytes", "transfer")

_PREDICT = {
    *_SOURCES,
    *_MACHINE,
    *("columns", "seed", "splits.select"),
    # They choose targets and files, and do not change the input of the network.
    "dataset_type",
    *(f"read.{name}" for name in ("skymap", "tract", "min_bands", "required_bands", "quality", "on_read_error")),
}
"""Settings of the data module that a prediction may change."""

_RESUME = {*_SOURCES, *_MACHINE} - {"batch_size"}
"""Settings of the data module that a resumed training may change; its plan must stay the same."""

_TRAINING_ONLY = ("augmentations", "sampling")
"""Settings of the data module that a prediction does not use, but for augmentations that run in every stage."""

_GROUPS = {
    "normalisation": "data.normalisation",
    "augmentation": "data.augmentations",
    "task": "model._target_",
    "model": "model.network",
    "optimizer": "model.optimizer",
    "scheduler": "model.scheduler",
}

_ALLOWED_BASES = (
    nn.Module,
    Optimizer,
    LRScheduler,
    L.LightningDataModule,
    L.Callback,
    L.Trainer,
    Logger,
    Profiler,
    Strategy,
)
"""Base classes of what a checkpoint may name. Its source may not be trusted, so it must not name a function to call."""

_OWN = "lsstcutouts.CutoutDataModule"

_SAMPLE = "data.normalisation.sample"

_ABSENT = object()


def plain_configuration(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values for a checkpoint.

    Existing paths become absolute. Secrets are removed; references to the environment or to ``output`` stay
    interpolations.
    """
    plain = {name: _entry(cfg, name) for name in map(str, cfg) if name not in _CALL_ONLY}
    data = plain.get("data")
    if isinstance(data, dict):
        for name in _PATHS:
            section, _, last = name.rpartition(".")
            place = data.get(section) if section else data
            if isinstance(place, dict) and last in place:
                place[last] = absolute_path(place[last])
    return {"version": _VERSION, "folder": str(Path.cwd()), **public_values(plain)}


def _entry(parent: DictConfig | ListConfig, key: Any) -> Any:
    if OmegaConf.is_missing(parent, key):
        return "???"
    if OmegaConf.is_interpolation(parent, key):
        text = OmegaConf.to_container(parent, resolve=False)[key]  # type: ignore[index]
        if _keeps_interpolation(str(text), parent):
            return text
    value = parent[key]
    if isinstance(value, DictConfig):
        return {str(name): _entry(value, name) for name in value}
    if isinstance(value, ListConfig):
        return [_entry(value, i) for i in range(len(value))]
    return value


def _keeps_interpolation(text: str, node: Any) -> bool:
    """Return whether an interpolation may have another value in each call: the environment, the output folder."""
    root: Any = OmegaConf.to_container(node._get_root(), resolve=False)
    for name, resolver in re.findall(r"\$\{\s*([^${}:]+)(:?)", text):
        target = root
        for part in name.split("."):
            target = target.get(part) if isinstance(target, dict) else None
        if (
            resolver
            or name == "output"
            or (isinstance(target, str) and "${" in target and _keeps_interpolation(target, node))
        ):
            return True
    return False


@dataclass(frozen=True)
class _Given:
    """Settings on the command line.

    Attributes
    ----------
    groups
        Names of the groups.
    keys
        Dotted names of the settings.
    """

    groups: frozenset[str]
    keys: tuple[str, ...]


def _given(cfg: DictConfig) -> _Given:
    """Return the settings on the command line; without hydra, all settings of data and model count as given."""
    if not HydraConfig.initialized():
        sections = [f"{name}.{key}" for name in ("data", "model") for key in cfg.get(name) or ()]
        return _Given(frozenset({"trainer", "callbacks"}), (*sections, "seed", "simulation"))
    job = HydraConfig.get()
    texts = list(job.overrides.task)
    parsed = OverridesParser.create().parse_overrides(texts)
    names = [one.key_or_group for one in parsed]
    groups = frozenset(name for name in names if name in job.runtime.choices)
    keys = [name for name in names if name not in groups]
    for one in parsed:  # data.read={missing_band: nan} is data.read.missing_band=nan
        if one.key_or_group in _OPTIONS and not one.is_sweep_override() and isinstance(value := one.value(), Mapping):
            at = keys.index(one.key_or_group)
            keys[at : at + 1] = [f"{one.key_or_group}.{name}" for name in map(str, value)]
    here = plain_configuration(cfg)
    if "experiment" in groups:
        without = [text for text, name in zip(texts, names, strict=True) if name != "experiment"]
        plain = plain_configuration(hydra.compose(job.job.config_name, overrides=without))
        keys += [key for key in _leaves(here) if _select(here, key) != _select(plain, key)]
    if "data" in groups:
        keys += [f"data.{name}" for name in _SOURCES if not OmegaConf.is_missing(cfg.data, name)] + ["simulation"]
    raw = OmegaConf.to_container(cfg, resolve=False)
    for group in groups & set(_GROUPS):
        chosen = _leaves({_GROUPS[group]: _select(here, _GROUPS[group])})
        # A group sets nothing that it leaves null, such as the classes of a column, or takes from other settings; its
        # sample size is a default, and the checkpoint has the fitted statistics.
        values = {key: _select(raw, key) for key in chosen if key != _SAMPLE}
        keys += [key for key, value in values.items() if value not in (None, _ABSENT, "???") and "${" not in str(value)]
    return _Given(groups, tuple(dict.fromkeys(keys)))


def merge_with_checkpoint(cfg: DictConfig, checkpoint: Mapping[str, Any], where: str, *, resume: bool) -> DictConfig:
    """Return a configuration whose data, normalisation and network are those of a checkpoint.

    Parameters
    ----------
    cfg
        Configuration of the command line.
    checkpoint
        Result of `read_checkpoint`.
    where
        Setting and file of the checkpoint, for messages.
    resume
        Whether its training is resumed, with its trainer and callbacks; otherwise a prediction.

    Raises
    ------
    ConfigurationError
        If a setting cannot be changed (the message has both values), or neither the checkpoint nor the command line
        describes the data.
    """
    given, stored = _given(cfg), _stored(checkpoint, where)
    if "data" not in stored:
        if not any(name == "data" or name.startswith("data.") for name in (*given.groups, *given.keys)):
            raise ConfigurationError(
                f"{where} has no description of its training data (it was written by an older version, or without a "
                "CutoutDataModule); give data=..., normalisation=... and model=... as in the training"
            )
        if resume:
            return cfg
        result = cfg.copy()
        if isinstance(select := OmegaConf.select(cfg, "data.splits.select"), str):
            result.data.splits.select = {"predict": select}
        return _for_prediction(result, checkpoint)
    if "model" not in stored and not any(name.partition(".")[0] == "model" for name in (*given.groups, *given.keys)):
        raise ConfigurationError(
            f"{where} was not written by `lsstcutouts train`, so it has no description of its network; give model=..."
        )
    result = cfg.copy()
    OmegaConf.set_struct(result, False)
    taken = set(stored) - (given.groups & {"trainer", "callbacks"}) if resume else {"label", "data", "model"}
    for name, value in stored.items():
        if name in taken or name not in cfg:  # others may be used in interpolations
            result[name] = OmegaConf.create(value) if isinstance(value, dict | list) else value
    if not resume:
        result.data.columns = []  # labels are not needed
        if not isinstance(result.data.get("splits"), DictConfig):  # plain shares, which may be the name of a column
            result.data.splits = {}
    _change(result, cfg, stored, given, _RESUME if resume else _PREDICT, where)
    if "simulation" not in given.keys:
        result.simulation = None  # only the demo's own training writes the demo
    _check_targets(result, cfg, str(stored.get("folder")), where)
    return result if resume else _for_prediction(result, checkpoint)


def _stored(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration in a checkpoint; only that of the data if `lsstcutouts train` did not write it."""
    state = data_state(checkpoint) or {}
    run = state.get("run")
    settings = {name: value for name, value in state.get("data", {}).items() if name not in DERIVED}
    if run is not None:
        if run.get("version") != _VERSION:
            raise ConfigurationError(
                f"{where} has a configuration of version {run.get('version')!r}; this version of lsstcutouts reads {_VERSION}"
            )
        stored = {name: value for name, value in run.items() if name != "version"}
        if stored["data"]["_target_"] == _OWN:  # with the defaults of that version
            stored["data"] = settings | stored["data"]
        return stored
    if not settings:
        return {}
    if settings["catalog"] is None and not names_export(settings["repo"]):
        settings["catalog"] = "???"
    return {"data": {"_target_": _OWN, "_convert_": "all", **settings}}


def _change(
    result: DictConfig, cfg: DictConfig, stored: dict[str, Any], given: _Given, allowed: set[str], where: str
) -> None:
    """Set the given settings in the configuration of a checkpoint; raise if one must not change."""
    here, refused, moved = plain_configuration(cfg), [], False
    for key in given.keys:
        section, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        if section in {"trainer", "callbacks"}:
            if section not in given.groups:
                OmegaConf.update(result, key, OmegaConf.select(cfg, key), merge=False, force_add=True)
        elif section not in stored:
            continue
        elif section == "data" and (name in allowed or ".".join(rest.split(".")[:2]) in allowed):
            value = OmegaConf.select(cfg, key)
            if rest == "splits.select" and isinstance(value, str):  # on the command line it selects what is predicted
                value = {"predict": value}
            OmegaConf.update(result, key, value, merge=False, force_add=True)
            moved |= name in _SOURCES or rest in {"dataset_type", "read.tract", "read.skymap"}
        elif section == "seed" and allowed is _PREDICT:
            result.data.seed = cfg.seed
        elif allowed is _PREDICT and (section not in {"data", "model"} or _TRAINING_KEY.match(key)):
            continue
        elif not _same(name, _select(stored, key), _select(here, key)):
            values = [_shown(_select(one, key)) for one in (stored, here)]
            refused.append(f"  {key}: {values[0]} in the checkpoint, {values[1]} given")
    if refused:
        what = "the network cannot predict" if allowed is _PREDICT else "the training cannot be resumed"
        raise ConfigurationError(
            f"{where}: {what} because these settings differ from the training:\n" + "\n".join(refused)
        )
    if moved and "data.plan" not in given.keys:
        result.data.plan = None


_TRAINING_KEY = re.compile(
    rf"(data\.({'|'.join(_TRAINING_ONLY)}|splits|normalisation\.sample)|model\.(optimizer|scheduler|label))\b"
)


def _for_prediction(cfg: DictConfig, checkpoint: Mapping[str, Any]) -> DictConfig:
    """Return the configuration of a prediction of all rows of one catalog, with the augmentations that run in every stage."""
    result = cfg.copy()
    OmegaConf.set_struct(result, False)
    for name in _TRAINING_ONLY:
        result.data.pop(name, None)
    if first := ((data_state(checkpoint) or {}).get("data", {}).get("every_stage")):
        result.data.augmentations = {"_target_": "lsstcutouts.transforms.Compose", "_convert_": "all", "modules": first}
    if isinstance(result.data.get("splits"), DictConfig):  # of these options only the selection of rows applies
        result.data.splits = {"_target_": "lsstcutouts.SplitOptions", "select": result.data.splits.get("select")}
    missing = sorted(OmegaConf.missing_keys(result))
    if missing:
        wanted = " ".join(f"{key}=..." for key in missing)
        raise ConfigurationError(f"the checkpoint has no value for {', '.join(missing)}; add {wanted}")
    catalog = result.data.catalog
    if catalog is None and names_export(result.data.repo):  # an export has its own
        return result
    if not isinstance(catalog, DictConfig) or not set(catalog) <= set(SPLITS):
        result.data.catalog = {"predict": catalog}
    elif "predict" not in catalog:
        raise ConfigurationError(
            "the training had one catalog for each split; give the one to predict: data.catalog=..."
        )
    return result


def _check_targets(result: DictConfig, cfg: DictConfig, folder: str, where: str) -> None:
    """Check that a checkpoint names only classes of networks, optimizers, callbacks and this package.

    Raises
    ------
    ConfigurationError
        If it names anything else, or if a class cannot be imported.
    """
    trusted = set(_targets(OmegaConf.to_container(cfg, resolve=False)))
    for target in dict.fromkeys(_targets(OmegaConf.to_container(result, resolve=False))):
        if target in trusted:
            continue
        try:
            found = get_object(target)
        except (ImportError, ValueError, AttributeError) as error:
            raise ConfigurationError(
                f"{where} was trained with {target}, which cannot be imported here ({error}); run the command in {folder}, the "
                "folder of the training, or add the folder of the module to PYTHONPATH"
            ) from error
        own = target.startswith("lsstcutouts.")
        if not (isinstance(found, type) and (own or issubclass(found, _ALLOWED_BASES))):
            raise ConfigurationError(
                f"{where} names {target}, which is not a class of a network, optimizer or callback, so it is not called; if "
                f"you trust it, add it to the command line: {_setting_with_target(result, target)}={target}"
            )


def _setting_with_target(result: DictConfig, target: str) -> str:
    values: Any = OmegaConf.to_container(result, resolve=False)
    return next(key for key in _leaves(values) if key.endswith("_target_") and _select(values, key) == target)


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        for one in value.values():
            yield from _targets(one)
    elif isinstance(value, list):
        for one in value:
            yield from _targets(one)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _select(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part, _ABSENT) if isinstance(values, Mapping) else _ABSENT
    return values


def _same(name: str, one: Any, other: Any) -> bool:
    if name == "bands" and _ABSENT not in (one, other):
        return parse_bands(one) == parse_bands(other)
    if name == "size" and _ABSENT not in (one, other):
        return parse_size(one) == parse_size(other)
    return bool(one == other) or (one in (None, _ABSENT) and other in (None, _ABSENT))


def _shown(value: Any) -> str:
    if value is _ABSENT or value is None:
        return "none"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_shown(one)}' for name, one in value.items())}}}"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)
