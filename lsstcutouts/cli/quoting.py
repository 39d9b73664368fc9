"""Values as a person types them, for hydra's grammar.

Hydra reads ``key=value`` with a grammar in which ``=``, brackets, commas and most signs mean something, so that many
paths are errors or lists. A value is taken as it stands (quoted for hydra) when

1. it holds a sign that means something and names a file or folder that exists;
2. or hydra cannot parse it, unless it starts as a list or dictionary and is no path, for then hydra's message helps;
3. or it is a path with a comma and no sweep was asked for (``-m``).

Anything else is left to hydra: lists ``[a,b]``, dictionaries ``{a:1}``, sweeps, functions, quoted texts, ``${...}``.
A leading ``~`` is the home folder, as the shell would have it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["quote_overrides"]

_OVERRIDE = re.compile(r"(?P<key>[+~]{0,2}[\w$][\w./@$:-]*)=(?P<value>.*)", re.DOTALL)
_MEANING = re.compile(r"[^A-Za-z0-9_./+%*@?|$-]")
"""Signs that hydra's grammar does not pass through as parts of a text."""

_WITH_VALUE = frozenset(
    [
        "-p",
        "--package",
        "-cp",
        "--config-path",
        "-cn",
        "--config-name",
        "-cd",
        "--config-dir",
        "-c",
        "--cfg",
        "-i",
        "--info",
        "--experimental-rerun",
    ]
)
_SWEEP = ("-m", "--multirun")


def quote_overrides(arguments: Sequence[str]) -> list[str]:
    """Return arguments of the command line with the values of overrides quoted where hydra needs it."""
    sweep = any(argument in _SWEEP for argument in arguments)
    after = ["", *arguments]
    return [
        argument if before in _WITH_VALUE or argument.startswith("-") else _quote_override(argument, sweep=sweep)
        for before, argument in zip(after, arguments, strict=False)
    ]


def _quote_override(argument: str, *, sweep: bool) -> str:
    match = _OVERRIDE.fullmatch(argument)
    if match is None or match["value"] == "":
        return argument
    key, value = match["key"], _at_home(match["value"])
    return f"{key}={_quoted(value)}" if _is_literal(value, sweep=sweep) else f"{key}={value}"


def _at_home(value: str) -> str:
    return str(Path(value).expanduser()) if value == "~" or value.startswith("~/") else value


def _is_literal(value: str, *, sweep: bool) -> bool:
    if not _MEANING.search(value):
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
    """Tell a path that holds a comma from hydra's lists, dictionaries, texts in quotes and functions."""
    outside = not re.match(r"[\[{'\"]|\w+ *\(", value)
    return outside and "/" in value and "," in value


def _quoted(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()
