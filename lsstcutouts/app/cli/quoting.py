"""Quotes command-line values for hydra's grammar.

In this grammar ``=``, brackets, commas and most other special characters have a meaning, so many paths are errors or
lists. A value is quoted, and so taken literally, if

1. it contains a special character and is the path of an existing file or folder;
2. or hydra cannot parse it, unless it starts as a list or dictionary and is not a path: then hydra's message helps;
3. or it is a path with a comma and there is no ``-m``;
4. or it is the text of a caption or title, with braces or commas, and neither a list nor quoted.

All other values are left to hydra: lists ``[a,b]``, dictionaries ``{a:1}``, sweeps, functions, quoted strings, ``${...}``.
A leading ``~`` is replaced by the home folder, as in a shell.
"""

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["SWEEP", "hydra_arguments", "split_arguments", "with_run_folder"]

_OVERRIDE = re.compile(r"(?P<key>[+~]{0,2}[\w$][\w./@$:-]*)=(?P<value>.*)", re.DOTALL)
_SPECIAL = re.compile(r"[^A-Za-z0-9_./+%*@?|$-]")
"""Characters with a meaning in hydra's grammar."""

_TEXTS = frozenset(["caption", "title"])
"""Settings that are text: ``{score:.3f}`` is no dictionary there."""

_WITH_VALUE = frozenset(
    ["-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir", "-c", "--cfg"]
)
_PERHAPS_WITH_VALUE = frozenset(["-i", "--info"])
SWEEP = frozenset(["-m", "--multirun"])
"""Options that run one job per value."""


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Return arguments for hydra: its options first, then the overrides, quoted where hydra needs it.

    Users may mix options and overrides; hydra's parser (argparse) needs all overrides together.
    """
    options, overrides = split_arguments(arguments)
    sweep = not SWEEP.isdisjoint(options)
    return [*options, "--", *(_quote_override(override, sweep=sweep) for override in overrides)]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return hydra's options, with their values, and the overrides."""
    options, overrides = list[str](), list[str]()
    before = ""
    for argument in arguments:
        is_value = before in _WITH_VALUE or (before in _PERHAPS_WITH_VALUE and "=" not in argument)
        (options if is_value or argument.startswith("-") else overrides).append(argument)
        before = argument
    return options, overrides


def _quote_override(argument: str, *, sweep: bool) -> str:
    match = _OVERRIDE.fullmatch(argument)
    if match is None or match["value"] == "":
        return argument
    key, value = match["key"], _expand_home(match["value"])
    text = key in _TEXTS and value != "null" and not value.startswith(("[", "'", '"'))
    return f"{key}={_quoted(value)}" if text or _is_literal(value, sweep=sweep) else f"{key}={value}"


def _expand_home(value: str) -> str:
    return str(Path(value).expanduser()) if value == "~" or value.startswith("~/") else value


def _is_literal(value: str, *, sweep: bool) -> bool:
    if not _SPECIAL.search(value):
        return False
    if _exists(value):
        return True
    if not _parses(value):
        return not value.startswith(("[", "{")) or "/" in value
    return not sweep and _is_path_with_comma(value)


def _exists(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for a path, or a null character
        return False


def _parses(value: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return False
    return True


def _is_path_with_comma(value: str) -> bool:
    """Return whether a value is a path with a comma, not a list, dictionary, quoted string or function of hydra."""
    outside = not re.match(r"[\[{'\"]|\w+ *\(", value)
    return outside and "/" in value and "," in value


def _quoted(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()


def with_run_folder(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of ``train`` with ``output`` set to the folder of the resumed run, unless ``output`` is given.

    If the checkpoint is not in the folder of a run, the default remains.
    """
    given = dict(argument.split("=", maxsplit=1) for argument in arguments if "=" in argument)
    checkpoint = Path(given.get("resume", "").strip("'\"")).expanduser()
    if "output" in given or not checkpoint.is_file():
        return list(arguments)
    for folder in (checkpoint.parent, checkpoint.parent.parent):  # last.ckpt, checkpoints/best.ckpt
        if (folder / ".hydra").is_dir():
            return [*arguments, f"output={folder}"]
    return list(arguments)
