"""What a person typed, made ready for hydra, and what hydra says about it in words of this command.

Hydra's messages speak of its grammar and end with exit status 1. Here each is one sentence: which setting, what is wrong
with it, which names are near, what is allowed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..signatures import located, nearest, parameters
from .quoting import SWEEP, split_arguments
from .verbs import CONFIGS

__all__ = ["explained", "ready"]

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
"""Hydra's own."""

_KEY = re.compile(r"(?P<prefix>[+~]{0,2})(?P<key>[^=]+?)(?:=(?P<value>.*))?", re.DOTALL)
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def ready(verb: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with what goes without saying.

    A repository or catalog of one's own means ``data=custom``; a model of one's own, ``model=my_model.Net`` or
    ``model._target_=my_model.Net``, gets none of the settings, optimizer and schedule of the example's model.

    Raises
    ------
    ConfigurationError
        If one of them is neither an option nor ``key=value``.
    """
    options, overrides = split_arguments(arguments)
    for option in options:
        if option.startswith("-") and option.partition("=")[0] not in _OPTIONS:
            raise ConfigurationError(_unknown_option(verb, option))
    for i, override in enumerate(overrides):
        if "=" not in override.strip("=") and not override.startswith("~"):
            raise ConfigurationError(_no_setting(verb, override, overrides[i + 1 :], options))
    given = {match["key"]: match["value"] for match in map(_parts, overrides)}
    if verb in {"train", "normalise"} and "data" not in given and given.get("resume", "null") == "null":
        overrides = ["data=custom", *overrides] if given.keys() & {"data.repo", "data.catalog"} else overrides
    model = given.get("model") or ""
    if verb in {"train", "predict"} and _IMPORT_PATH.fullmatch(model):
        overrides = [override for override in overrides if _parts(override)["key"] != "model"]
        overrides, given["model._target_"] = [*overrides, f"model._target_={model}"], model
        del given["model"]
    if "model" not in given and not (given.get("model._target_") or "lsstcutouts.").startswith("lsstcutouts."):
        own = ["model=custom", *(f"{group}=none" for group in ("optimizer", "scheduler") if group not in given)]
        overrides = [*own, *overrides]
    return [*options, *overrides]


def explained(verb: str, arguments: Sequence[str], error: Exception) -> list[str]:
    """Return arguments that hydra takes where it refused these, or raise what is wrong with them.

    A setting that is not in the configuration files, but that the constructor of its group takes, only needs hydra's
    ``++``.

    Raises
    ------
    ConfigurationError
        In all other cases.
    """
    options, overrides = split_arguments(arguments)
    groups = _groups(options)
    cfg = _composed(verb, overrides, groups)
    changed = [_checked(override, cfg, groups, sweep=not SWEEP.isdisjoint(options)) for override in overrides]
    if changed == overrides:
        raise ConfigurationError(_first_line(error)) from error
    return [*options, *changed]


def _parts(override: str) -> Mapping[str, str | None]:
    match = _KEY.fullmatch(override)
    return {"prefix": "", "key": override, "value": None} if match is None else match.groupdict()


def _groups(options: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the choices of each group, those in a person's own folder among them."""
    folders: list[Any] = [files(CONFIGS)]
    folders += [Path(b) for a, b in pairwise(options) if a in {"--config-dir", "-cd"}]
    found: dict[str, list[str]] = {}
    for folder in filter(lambda one: one.is_dir(), folders):
        for group in (one for one in folder.iterdir() if one.is_dir()):
            names = [file.name.removesuffix(".yaml") for file in group.iterdir() if file.name.endswith(".yaml")]
            found[group.name] = sorted({*names, *found.get(group.name, [])})
    return {name: choices for name, choices in found.items() if choices}


def _composed(verb: str, overrides: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Any:
    """Return the configuration with the groups that were chosen, if they exist, and no other setting."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException

    chosen = [one for one in overrides if _parts(one)["value"] in groups.get(_parts(one)["key"] or "", ())]
    with initialize_config_module(CONFIGS, version_base="1.3"):
        try:
            return compose(verb, overrides=chosen)
        except HydraException:  # a group of another verb, or in a folder of one's own
            return compose(verb)


def _names(cfg: Any, before: str = "") -> Iterator[str]:
    """Yield the dotted name of each setting."""
    from omegaconf import OmegaConf

    for key in cfg if hasattr(cfg, "keys") else ():
        yield before + key
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            yield from _names(cfg[key], f"{before}{key}.")


def _checked(override: str, cfg: Any, groups: Mapping[str, Sequence[str]], *, sweep: bool) -> str:
    """Return an override as hydra takes it."""
    prefix, key, value = (_parts(override)[name] or "" for name in ("prefix", "key", "value"))
    if key in groups and value not in {"", "null"}:
        choices = [one.strip(" []'\"") for one in value.split(",")]
        unknown = [one for one in choices if one not in groups[key] and "(" not in one]
        if unknown:
            raise ConfigurationError(
                f"{override}: there is no {key} {unknown[0]!r}{_did_you_mean(nearest(unknown[0], groups[key]))}; {key}= "
                f"takes {', '.join(groups[key])}"
            )
        return override
    _check_value(override, value, sweep=sweep)
    known = list(_names(cfg))
    if prefix or key in known or key.startswith("hydra."):
        return override
    if _taken(cfg, key):
        return f"++{override}"
    raise ConfigurationError(_unknown_setting(key, cfg, known, groups))


def _check_value(override: str, value: str, *, sweep: bool) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        raise ConfigurationError(
            f"{override}: the value cannot be read; is a bracket or quote left open? Lists are written [a,b], dictionaries "
            "{a: 1}"
        ) from None
    if parsed.is_sweep_override() and not sweep:
        raise ConfigurationError(
            f"{override}: several values need -m, which runs one job for each; a list is [{value}]"
        )


def _taken(cfg: Any, key: str) -> bool:
    """Return whether the constructor that a setting is for takes it."""
    from omegaconf import OmegaConf

    parent, _, name = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else None
    if not hasattr(node, "keys") or "_target_" not in node:
        return False
    # Which class a model of one's own is, other settings say; it is asked when it is made.
    return OmegaConf.is_missing(node, "_target_") or name in parameters(located(node["_target_"]))[0]


def _unknown_setting(key: str, cfg: Any, known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    from omegaconf import OmegaConf

    parent = key.rpartition(".")[0]
    while parent and not hasattr(OmegaConf.select(cfg, parent), "keys"):
        parent = parent.rpartition(".")[0]
    node = OmegaConf.select(cfg, parent) if parent else cfg
    among = [name for name in node if not name.startswith("_")]
    if not parent:
        among = list(dict.fromkeys([*among, *(group for group in groups if group in _groups_of(cfg, groups))]))
    elif "_target_" in node and not OmegaConf.is_missing(node, "_target_"):
        among = list(dict.fromkeys([*among, *parameters(located(node["_target_"]))[0]]))
    full = [f"{parent}.{name}" if parent else name for name in among]
    close = nearest(key, list(dict.fromkeys([*full, *known])))
    return (
        f"there is no setting {key!r}{_did_you_mean(close)}; "
        f"{f'{parent} takes' if parent else 'there are'} {', '.join(among)}"
    )


def _groups_of(cfg: Any, groups: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the groups that a verb has: those of train, or none."""
    return set(groups) if "data" in cfg else set()


def _unknown_option(verb: str, option: str) -> str:
    name, equals, value = option.lstrip("-").partition("=")
    name = name.replace("-", "_")
    cfg = _composed(verb, [], {})
    names = [*_names(cfg), *_groups_of(cfg, _groups())]
    close = [name] if name in names else nearest(name, names)
    if close:
        return f"{option} is no option; settings are written without dashes: {close[0]}={value if equals else 'VALUE'}"
    options = nearest(option.partition("=")[0], [one for one in _OPTIONS if one.startswith("--")])
    return (
        f"{option} is no option{_did_you_mean(options)}; settings are written key=value; see lsstcutouts {verb} --help"
    )


def _no_setting(verb: str, argument: str, rest: Sequence[str], options: Sequence[str]) -> str:
    groups = _groups(options)
    fitting = [group for group, choices in groups.items() if argument in choices]
    following = next((one for one in rest if one != "="), None)
    name = re.split("[:=]", argument)[0]
    cfg = _composed(verb, [], {})
    names = [*_names(cfg), *_groups_of(cfg, groups)]
    if name in names and name != argument:
        better = f"{name}={argument[len(name) + 1 :] or following or 'VALUE'}"
    elif name in names:
        better = f"{name}={following if following is not None else 'VALUE'}"
    elif fitting and "data" in cfg:
        better = " or ".join(f"{group}={argument}" for group in fitting)
    elif Path(argument).exists() and any(one.endswith("catalog") for one in names):
        better = next(one for one in names if one.endswith("catalog")) + f"={argument}"
    elif close := nearest(name, names, 1):
        better = f"{close[0]}=VALUE"
    else:
        return f"{argument!r} is no setting; settings are written key=value; see lsstcutouts {verb} --help"
    return f"{argument!r} is no setting; settings are written key=value without spaces: did you mean {better}?"


def _did_you_mean(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
