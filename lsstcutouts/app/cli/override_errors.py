"""Completes command-line arguments for hydra, and translates hydra's errors.

The messages of hydra describe its grammar. Here each message names the setting, what is wrong, similar names and the
allowed values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError
from ...read.exports.export_files import names_export
from ..signatures import located, nearest, parameters
from .quoting import SWEEP, hydra_arguments, quoted, split_arguments
from .verbs import CONFIGS, VERBS

__all__ = ["complete_arguments", "corrected_arguments", "short_message"]

_OPTIONS = frozenset(
    [
        "--experimental-rerun",
        "--hydra-help",
        "--version",
        "--cfg",
        "-c",
        "--resolve",
        "--package",
        "-p",
        "--run",
        "-r",
        "--multirun",
        "-m",
        "--shell-completion",
        "-sc",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
        "--info",
        "-i",
    ]
)
"""Options of hydra."""

_OF_DATA = ("repo", "collections", "catalog", "bands", "size", "dataset_type", "columns")
_OF_CATALOG = ("ra", "dec", "object_id", "unit", "select", "cone")
_SPLITS = ("train", "val", "test")
_KEY = re.compile(r"(?P<prefix>[+~]{0,2})(?P<key>[^=]+?)(?:=(?P<value>.*))?", re.DOTALL)
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def complete_arguments(verb: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with implied settings added.

    ``data.repo`` and ``data.catalog`` imply ``data=custom``, and ``data.repo`` of an export ``data=export``. Splits that ``data.splits.shares={...}`` does not name are empty:
    hydra would keep their shares of the configuration file. A model of the user, ``model=my_model.Net`` or
    ``model._target_=my_model.Net``, implies ``model=custom`` without the optimizer and schedule of the example model. The
    first word after ``cache`` is its action. Of what trains and predicts ``repo=x`` is short for ``data.repo=x``, as for other
    settings of the data; ``ra=``, ``object_id=`` and others of a catalog become part of ``data.catalog={path: ...}``. A plan needs
    no catalog.

    Raises
    ------
    ConfigurationError
        If an argument is neither an option nor ``key=value``.
    """
    options, overrides = split_arguments(arguments)
    overrides = _with_action(verb, overrides)
    if verb in {"train", "normalise", "predict"}:
        overrides = _with_catalog([_of_data(override) for override in overrides])
    for option in options:
        if option.startswith("-") and option.partition("=")[0] not in _OPTIONS:
            following = arguments[arguments.index(option) + 1 :][:1]
            raise ConfigurationError(_unknown_option(verb, option, *following))
    for i, override in enumerate(overrides):
        if "=" not in override.strip("=") and not override.startswith("~"):
            raise ConfigurationError(_no_setting(verb, override, overrides[i + 1 :], options))
    overrides = [_with_all_splits(override) for override in overrides]
    given = {match["key"]: match["value"] for match in map(_parts, overrides)}
    if (given.get("data.plan") or "null") != "null" and "data.catalog" not in given:
        overrides, given["data.catalog"] = [*overrides, "data.catalog=null"], "null"
    own = given.keys() & {"data.repo", "data.catalog"}
    # A checkpoint provides the rest when resuming; with resume=auto there may be none yet.
    wanted = {"null": 1, "auto": 2}.get(given.get("resume") or "null", 3)
    repo = (given.get("data.repo") or "").strip("'\"")
    if verb in {"train", "normalise", "predict"} and "data" not in given and names_export(repo):
        overrides = ["data=export", *overrides]
    elif verb in {"train", "normalise"} and "data" not in given and len(own) >= wanted:
        overrides = ["data=custom", *overrides]
    model = given.get("model") or ""
    if verb in {"train", "predict"} and _IMPORT_PATH.fullmatch(model):
        overrides = [override for override in overrides if _parts(override)["key"] != "model"]
        overrides, given["model._target_"] = [*overrides, f"model._target_={model}"], model
        del given["model"]
    if model == "custom" and "model._target_" not in given:
        raise ConfigurationError(
            "model=custom needs a class: write model._target_=my_model.Net, or only model=my_model.Net"
        )
    if "model" not in given and not (given.get("model._target_") or "lsstcutouts.").startswith("lsstcutouts."):
        empty = [f"{group}=none" for group in ("optimizer", "scheduler") if group not in given]
        overrides = ["model=custom", *empty, *overrides]
    return [*options, *overrides]


def _with_action(verb: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides with a first word that is not a setting as ``action=WORD``, for verbs that have actions."""
    actions = VERBS[verb].actions
    if not (actions and overrides and re.fullmatch(r"[a-z]+", overrides[0])):
        return list(overrides)
    word, *rest = overrides
    if word not in actions:
        close = _did_you_mean(nearest(word, actions, 1, cutoff=0.5))
        raise ConfigurationError(f"lsstcutouts {verb} has no action {word!r}.{close} There are {', '.join(actions)}")
    return [f"action={word}", *rest]


def _of_data(override: str) -> str:
    """Return ``repo=...`` and the like as a setting of the data, and the address of a scheduler of Dask, not a schedule, by its name."""
    if re.match(rf"({'|'.join(_OF_DATA)})[.=]", override):
        return f"data.{override}"
    return f"dask_{override}" if re.match(r"scheduler=[^=]*:", override) else override


def _with_catalog(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with ``object_id=NAME`` and the like in ``data.catalog={path: ..., object_id: NAME}``."""
    path = re.compile(r"data\.catalog=(?!\{|null$)(.+)", re.DOTALL)
    of_catalog = re.compile(rf"(?:data\.)?({'|'.join(_OF_CATALOG)})=(.+)", re.DOTALL)
    found = [match for override in overrides if (match := of_catalog.fullmatch(override))]
    paths = [match[1] for override in overrides if (match := path.fullmatch(override))]
    if not found or len(paths) != 1:
        return list(overrides)
    items = {"path": paths[0], **{match[1]: match[2] for match in found}}
    inner = ", ".join(f"{name}: {value if value[0] in '[\'"' else quoted(value)}" for name, value in items.items())
    kept = [override for override in overrides if not (path.fullmatch(override) or of_catalog.fullmatch(override))]
    return [*kept, f"data.catalog={{{inner}}}"]


def _with_all_splits(override: str) -> str:
    """Return ``data.splits.shares={...}`` with the splits that it does not name: a share of 0, or no ids."""
    match = re.fullmatch(r"(data\.splits\.shares=\{)(.+)\}", override, re.DOTALL)
    if match is None or not (named := re.findall(r"(\w+) *:", match[2])) or not {*named} <= {*_SPLITS}:
        return override
    empty = "0.0" if re.search(r": *[\d.]+ *(,|$)", match[2]) else "[]"
    return match[1] + ", ".join([match[2], *(f"{name}: {empty}" for name in _SPLITS if name not in named)]) + "}"


def corrected_arguments(verb: str, arguments: Sequence[str], error: Exception) -> list[str]:
    """Return corrected arguments after an error of hydra, or raise an error that explains the mistake.

    A setting that is not in the configuration files, but is an argument of the constructor of its group, only needs the
    prefix ``++``.

    Raises
    ------
    ConfigurationError
        If the arguments cannot be corrected.
    """
    options, overrides = split_arguments(arguments)
    groups = _groups(verb, options)
    cfg = _composed(verb, overrides, groups)
    keys = [_parts(override)["key"] or "" for override in overrides]
    targets = [key.removesuffix("._target_") for key in keys if key.endswith("._target_")]
    sweep = not SWEEP.isdisjoint(options)
    changed = [_checked(override, cfg, groups, targets, sweep=sweep) for override in overrides]
    if changed == overrides:
        raise ConfigurationError(short_message(error)) from error
    return [*options, *changed]


def _parts(override: str) -> Mapping[str, str | None]:
    match = _KEY.fullmatch(override)
    return {"prefix": "", "key": override, "value": None} if match is None else match.groupdict()


def _groups(verb: str, options: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the choices of each group of a verb, including those in ``--config-dir``."""
    source = files(CONFIGS).joinpath(f"{verb}.yaml").read_text(encoding="utf-8")
    groups = re.findall(r"^ +- (\w+):", source, re.MULTILINE)
    folders: list[Any] = [files(CONFIGS)]
    folders += [Path(b) for a, b in pairwise(options) if a in {"--config-dir", "-cd"}]
    found: dict[str, list[str]] = {}
    for group in groups:
        there = [folder / group for folder in folders if (folder / group).is_dir()]
        names = {
            file.name.removesuffix(".yaml") for one in there for file in one.iterdir() if file.name.endswith(".yaml")
        }
        found[group] = sorted(names)
    return found


def _composed(verb: str, overrides: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Any:
    """Return the configuration composed of the chosen config groups alone; unknown groups and other overrides are ignored."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException

    chosen = [one for one in overrides if _parts(one)["value"] in groups.get(_parts(one)["key"] or "", ())]
    with initialize_config_module(CONFIGS, version_base="1.3"):
        try:
            return compose(verb, overrides=chosen)
        except HydraException:  # a group of another verb, or in the folder of the user
            return compose(verb)


def _names(cfg: Any, before: str = "") -> Iterator[str]:
    """Yield the dotted name of each setting."""
    from omegaconf import OmegaConf

    for key in cfg if hasattr(cfg, "keys") else ():
        yield before + key
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            yield from _names(cfg[key], f"{before}{key}.")


def _checked(
    override: str, cfg: Any, groups: Mapping[str, Sequence[str]], targets: Sequence[str], *, sweep: bool
) -> str:
    """Return an override that hydra accepts; ``targets`` are the groups whose class was replaced."""
    prefix, key, value = (_parts(override)[name] or "" for name in ("prefix", "key", "value"))
    if key in groups and value not in {"", "null"}:
        choices = [one.strip(" []'\"") for one in value.split(",")]
        unknown = [one for one in choices if one not in groups[key] and "(" not in one]
        if unknown:
            close = _did_you_mean(nearest(unknown[0], groups[key], cutoff=0.5))
            raise ConfigurationError(f"there is no {key}={unknown[0]}.{close} There are {', '.join(groups[key])}")
        return override
    parsed = _parsed_value(override, value, sweep=sweep)
    known = list(_names(cfg))
    parent = key.rpartition(".")[0]
    if prefix or key.startswith("hydra."):
        return override
    if key not in known:
        if parent in targets or _taken(cfg, key):
            return f"++{override}"
        raise ConfigurationError(_unknown_setting(key, cfg, known, groups))
    for name in parsed if isinstance(parsed, Mapping) and any(one.startswith(f"{key}.") for one in known) else ():
        if f"{key}.{name}" not in known:
            raise ConfigurationError(_unknown_setting(f"{key}.{name}", cfg, known, groups))
    return override


def _parsed_value(override: str, value: str, *, sweep: bool) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        # Quoted as for hydra: a path is valid.
        parsed = OverridesParser.create().parse_override(hydra_arguments([f"key={value}"])[-1])
    except HydraException:
        raise ConfigurationError(
            f"{override}: the value is invalid; check for an open bracket or quote. Write lists as [a,b] and dictionaries "
            "as {a: 1}"
        ) from None
    if parsed.is_sweep_override():
        if not sweep:
            raise ConfigurationError(
                f"{override}: several values need -m, which runs one job per value; write a list as [{value}]"
            )
        return None
    return parsed.value()


def _taken(cfg: Any, key: str) -> bool:
    """Return whether a setting is an argument of the constructor of its group."""
    from omegaconf import OmegaConf

    parent, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else None
    if not hasattr(node, "keys") or "_target_" not in node:
        return False
    return not OmegaConf.is_missing(node, "_target_") and name in parameters(located(node["_target_"]))[0]


def _unknown_setting(key: str, cfg: Any, known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    from omegaconf import OmegaConf

    parent = key.rpartition(".")[0]
    while parent and not hasattr(OmegaConf.select(cfg, parent), "keys"):
        parent = parent.rpartition(".")[0]
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    among = [name for name in node if not name.startswith("_")]
    if not parent:
        among = list(dict.fromkeys([*groups, *among]))
    elif "_target_" in node and not OmegaConf.is_missing(node, "_target_"):
        among = list(dict.fromkeys([*among, *parameters(located(node["_target_"]))[0]]))
    full = [f"{parent}.{name}" if parent else name for name in among]
    close = _did_you_mean(nearest(key, list(dict.fromkeys([*full, *known]))))
    return f"unknown setting {key!r}.{close} {f'{parent} takes' if parent else 'There are'} {', '.join(among)}"


def _unknown_option(verb: str, option: str, following: str = "VALUE") -> str:
    name, _, value = option.lstrip("-").partition("=")
    name = name.replace("-", "_")
    names = [*_names(_composed(verb, [], {})), *_groups(verb)]
    close = [name] if name in names else nearest(name, names)
    if close:
        return f"{option} is not an option; write settings without dashes: {close[0]}={value or following}"
    options = nearest(name, [one.lstrip("-").replace("-", "_") for one in _OPTIONS if one.startswith("--")])
    hint = _did_you_mean([f"--{one.replace('_', '-')}" for one in options])
    return f"{option} is not an option.{hint} Write settings as key=value; see lsstcutouts {verb} --help"


def _no_setting(verb: str, argument: str, rest: Sequence[str], options: Sequence[str]) -> str:
    groups = _groups(verb, options)
    fitting = [group for group, choices in groups.items() if argument in choices]
    following = next((one for one in rest if one != "="), None)
    name = re.split("[:=]", argument)[0]
    cfg = _composed(verb, [], {})
    names = [*_names(cfg), *groups]
    if name in names and name != argument:
        better = f"{name}={argument[len(name) + 1 :] or following or 'VALUE'}"
    elif name in names:
        better = f"{name}={following if following is not None else 'VALUE'}"
    elif fitting:
        better = " or ".join(f"{group}={argument}" for group in fitting)
    elif Path(argument).exists() and any(one.endswith("catalog") for one in names):
        better = next(one for one in names if one.endswith("catalog")) + f"={argument}"
    elif close := nearest(name, names, 1):
        better = f"{close[0]}=VALUE"
    else:
        return f"{argument!r} is not a setting; write settings as key=value; see lsstcutouts {verb} --help"
    return f"{argument!r} is not a setting; write settings as key=value without spaces: did you mean {better}?"


def _did_you_mean(names: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(names)}?" if names else ""


def short_message(error: Exception) -> str:
    """Return the first line of an error of hydra or omegaconf, with the name of the setting."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = getattr(error, "full_key", None)
    return (f"{key}: " if key else "") + (lines[0] if lines else type(error).__name__)
