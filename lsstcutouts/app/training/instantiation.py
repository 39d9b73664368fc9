"""Makes objects from a configuration, with errors that name the setting; explains errors of a training."""

import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict

from ...catalog.select import expression_columns, matching_rows
from ...catalog.targets import Catalog
from ...errors import CatalogError, ConfigurationError, LsstCutoutsError
from ...loader.datamodule.module import CutoutDataModule
from ...models.labels import Labels, class_values, median_and_spread
from ...plan.cutout_plan import CutoutPlan
from ...plan.splits.split_options import OWN_COLUMNS
from ...read.exports.export_description import ExportDescription
from ...read.exports.export_files import is_remote_export, names_export
from ...read.exports.plans import export_catalog, export_plan
from ...read.exports.remote_copy import local_export
from ..signatures import fits, located, nearest, parameters, shown_type

__all__ = [
    "check_settings",
    "complete_from_export",
    "complete_model",
    "drop_replaced_defaults",
    "explain_missing_label",
    "explain_training_errors",
    "instantiate_part",
]


def drop_replaced_defaults(cfg: DictConfig, given: Sequence[str] | None = None) -> DictConfig:
    """Return a configuration without the defaults of classes that the command line replaces.

    For each ``NAME._target_=`` on the command line, settings next to it are removed if they were not given there and the
    new class has no argument of this name.

    Parameters
    ----------
    cfg
        A composed configuration.
    given
        Overrides of the command line; by default those of hydra.
    """
    if given is None:
        given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = [override.lstrip("+~").partition("=")[0] for override in given]
    changed = cfg.copy()
    for key in keys:
        path, _, last = key.rpartition(".")
        node = OmegaConf.select(changed, path) if last == "_target_" else None
        if not isinstance(node, DictConfig):
            continue
        try:
            named, _ = parameters(located(node["_target_"]))
        except ConfigurationError as error:
            raise ConfigurationError(f"{key}={error}") from error
        # The groups optimizer and scheduler write into the model.
        chosen = {one.removeprefix(f"{path}.").split(".")[0] for one in [*keys, *(f"{path}.{k}" for k in keys)]}
        with open_dict(node):
            for name in [k for k in node if not str(k).startswith("_") and k not in named and k not in chosen]:
                del node[name]
    return changed


def complete_from_export(cfg: DictConfig) -> None:
    """Set the bands and the size of the data to those of the export that they are read from, where they are null."""
    data = cfg.get("data")
    if data is None or not names_export(repo := OmegaConf.select(cfg, "data.repo", throw_on_missing=False)):
        return
    description = ExportDescription.load(local_export(repo) if is_remote_export(repo) else repo)
    for name, value in (("bands", list(description.bands)), ("size", list(description.size))):
        if name in data and data[name] is None:
            data[name] = value


def check_settings(cfg: DictConfig, *names: str) -> None:
    """Compare the settings of constructors with their signatures.

    Parameters
    ----------
    cfg
        A composed configuration.
    names
        Its parts to check.

    Raises
    ------
    ConfigurationError
        If a class does not exist, an argument is unknown, or a value has the wrong type.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    for name in names:
        _check(plain.get(name), name)


def _check(node: Any, path: str) -> None:
    if isinstance(node, list):
        for i, one in enumerate(node):
            _check(one, f"{path}[{i}]")
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        _check_arguments(node, path)
    for name, value in node.items():
        _check(value, f"{path}.{name}")


def _check_arguments(node: Mapping[str, Any], path: str) -> None:
    try:
        named, takes_more = parameters(located(node["_target_"]))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}._target_={error}") from error
    for name, value in node.items():
        if name.startswith("_"):  # hydra's own
            continue
        if name in named and not fits(value, named[name]):
            raise ConfigurationError(f"{path}.{name}={value} must be {shown_type(named[name])}")
        if name not in named and not takes_more:
            close = nearest(name, named)
            raise ConfigurationError(
                f"{path}.{name}: {node['_target_']} has no argument {name!r}"
                + (
                    f"; did you mean {' or '.join(close)}?"
                    if close
                    else f"; its arguments are {', '.join(named) or 'none'}"
                )
            )


def instantiate_part(cfg: DictConfig, name: str, kind: type = object, **more: Any) -> Any:
    """Return the object that a part of a configuration describes.

    Parameters
    ----------
    cfg
        The whole configuration.
    name
        The part.
    kind
        Class that it must be an instance of.
    more
        Further arguments.

    Raises
    ------
    ConfigurationError
        If its constructor raises an error, or it is of another class.
    """
    try:
        found = hydra.utils.instantiate(cfg[name], **more)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, LsstCutoutsError):
            cause = cause.__cause__
        if isinstance(cause, LsstCutoutsError):
            raise cause from error
        where = next((f": {line.strip()}" for line in str(error).splitlines() if line.startswith("full_key")), "")
        place = _user_code_location(cause)
        raise ConfigurationError(
            f"{where.removeprefix(': full_key: ') or name} cannot be created: {_one_line(cause)}{f', {place}' if place else ''}"
        ) from error
    if not isinstance(found, kind):
        raise ConfigurationError(
            f"{name} must be a {kind.__name__}, but {name}._target_ creates a {type(found).__name__}"
        )
    return found


def complete_model(cfg: DictConfig, data: CutoutDataModule, label: str) -> None:
    """Set ``classes``, ``center`` and ``spread`` of the model from the labels where they are null.

    Parameters
    ----------
    cfg
        The configuration, which is changed.
    data
        Its data module; setup is not needed.
    label
        Name of the column.

    Raises
    ------
    ConfigurationError
        If the labels do not fit the task.
    """
    model = cfg.model
    if "classes" in model and model.classes is None:
        model.classes = class_values(_labels(data, label), label)
    for name, value in (("center", 0), ("spread", 1)):
        if name in model and model[name] is None:
            model[name] = median_and_spread(_labels(data, label), label)[value]
    if "classes" in model and OmegaConf.select(model, "network.outputs", default=0) is None:
        model.network.outputs = model.classes if isinstance(model.classes, int) else len(model.classes)


def _labels(data: CutoutDataModule, label: str) -> Labels:
    """Return the labels of all targets that may belong to training, validation or test."""
    if data.plan is not None:
        plan = data.plan if isinstance(data.plan, CutoutPlan) else CutoutPlan.load(data.plan)
        if label not in plan.columns:
            raise ConfigurationError(f"the plan has no column {label!r}; make the plan again with columns=[{label!r}]")
        return plan.columns[label]
    select = data.split_options.expressions
    found: list[Labels] = []
    one_each = isinstance(data.catalog, Mapping) and set(data.catalog) <= {"train", "val", "test", "predict"}
    catalogs = data.catalog if one_each else {"": data.catalog}
    for split, source in catalogs.items():
        if split == "predict":
            continue
        expressions = {one for name, one in select.items() if name != "predict" and split in {"", name}}
        names = [name for one in expressions for name in expression_columns(one) if name not in OWN_COLUMNS]
        wanted = tuple(dict.fromkeys([label, *names]))
        if source is None:
            catalog = export_catalog(export_plan(data.repo, columns=wanted))
        else:
            catalog = Catalog.from_any(source, columns=wanted)
        if catalog.footprint is not None:
            raise ConfigurationError(
                f"label={label!r}: a footprint has positions without labels; give a catalog with labels, or a model= that needs"
                " none, with data.columns=[]"
            )
        columns = {"object_id": catalog.object_id, "ra": catalog.ra, "dec": catalog.dec, **catalog.columns}
        # Tract and patch are known when there is a plan; with such an expression all rows count.
        usable = expressions if all(set(expression_columns(one)) <= set(columns) for one in expressions) else set()
        chosen = [matching_rows(one, columns, len(catalog.ra)) for one in usable] or [
            np.ones(len(catalog.ra), np.bool_)
        ]
        rows = np.flatnonzero(np.any(chosen, axis=0))
        values = catalog.columns[label]
        found.append([values[i] for i in rows] if isinstance(values, list) else values[rows])
    return [v for part in found for v in part] if isinstance(found[0], list) else np.concatenate(found)


@contextmanager
def explain_missing_label(label: str) -> Iterator[None]:
    """Add to the error of a missing label column which settings to change.

    Raises
    ------
    CatalogError
        The same error, with the setting that names another column.
    """
    try:
        yield
    except CatalogError as error:
        if f"no column {label!r}" not in str(error):
            raise
        message = f"{error} Set label= to the column to learn; a model that needs no label takes data.columns=[]"
        raise CatalogError(message) from error


@contextmanager
def explain_training_errors(model: L.LightningModule, data: CutoutDataModule) -> Iterator[None]:
    """Replace errors of a network, a callback or Lightning by one message.

    Raises
    ------
    ConfigurationError
        For an error of Lightning about its settings, of a callback, or in the code of a network. Others are not changed.
    """
    try:
        yield
    except LsstCutoutsError:
        raise
    except MisconfigurationException as error:
        raise ConfigurationError(_one_line(error, named=False)) from error
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            f"the GPU memory is too small for batches of {data.batch_size}; use a smaller data.batch_size"
        ) from error
    except Exception as error:
        # Networks and callbacks may raise anything; any other error is a bug here and keeps its traceback.
        text = _explanation(error, model, data)
        if text is None:
            raise
        raise ConfigurationError(text) from error


def _explanation(error: Exception, model: L.LightningModule, data: CutoutDataModule) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    if place := _user_code_location(error):
        return f"{_one_line(error)}, {place}; the images of a batch are {_images(data)}"
    forward = [i for i, frame in enumerate(frames) if frame.filename.startswith(_MODELS) and frame.name == "forward"]
    if forward:
        network = getattr(model, "network", model)
        return (
            f"{type(network).__name__} does not take the images of a batch, which are {_images(data)}: {_one_line(error)}; see "
            "model.network and data.bands"
        )
    if "lightning/pytorch/callbacks" in Path(frames[-1].filename).as_posix():
        return _one_line(error, named=False)
    return None


def _images(data: CutoutDataModule) -> str:
    plan = next((plan for plan, _ in data.splits.values()), None)
    size = f"{plan.size.y}, {plan.size.x}" if plan is not None else f"size {data.size}"
    return f"({data.batch_size}, {len(data.bands)}, {size}) (targets, bands {''.join(data.bands)}, y, x)"


_PACKAGE = Path(__file__).parents[2]
_MODELS = str(_PACKAGE / "models")
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def _user_code_location(error: BaseException) -> str | None:
    """Return the last place in code that is neither installed nor of this package, such as "my_model.py, line 12"."""
    other = (str(_PACKAGE), "<", *_INSTALLED)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not frame.filename.startswith(other) and not {"site-packages", "dist-packages"} & set(path.parts):
            shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            return f"in {shown}, line {frame.lineno}, {frame.name}"
    return None


def _one_line(error: BaseException, *, named: bool = True) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if named else text
