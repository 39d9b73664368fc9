"""Inspects constructors: import by dotted path, argument names, and types of configuration values."""

import importlib
import inspect
import os
import pkgutil
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAliasType, Union, get_args, get_origin, get_type_hints

from ..errors import ConfigurationError

__all__ = ["fits", "importing_from_here", "located", "nearest", "parameters", "shown_type"]

_LISTS = frozenset([list, tuple, set, Sequence, Iterable, Collection])
_MAPPINGS = frozenset([dict, Mapping])


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Make modules in the current folder importable; installed modules take precedence.

    A console script does not have the current folder in ``sys.path``.
    """
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def located(target: str) -> Callable[..., Any]:
    """Return the class or function of a dotted import path.

    Raises
    ------
    ConfigurationError
        If it does not exist or is not callable; the message names similar ones.
    """
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigurationError(f"{target!r} is not an import path; write MODULE.NAME, such as my_model.Net")
    found: Any = _module(parts[0], target)
    for i, name in enumerate(parts[1:], start=1):
        if not hasattr(found, name) and inspect.ismodule(found):
            _submodule(found, name, target)
        if not hasattr(found, name):
            own = [
                n for n, v in vars(found).items() if getattr(v, "__module__", None) == getattr(found, "__name__", "")
            ]
            close = nearest(name, own or dir(found))
            hint = f"; did you mean {' or '.join(close)}?" if close else f"; it has {', '.join(own)}" if own else ""
            raise ConfigurationError(f"{target}: {'.'.join(parts[:i])} has no {name!r}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigurationError(f"{target!r} is not a class or function")
    return found  # type: ignore[no-any-return]


def _module(name: str, target: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        close = nearest(name, [module.name for module in pkgutil.iter_modules([str(Path.cwd())])])
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigurationError(
            f"{target}: module {name!r} is not installed, and {Path.cwd()} has no {name}.py{hint}"
        ) from error


def _submodule(parent: types.ModuleType, name: str, target: str) -> None:
    """Import a submodule of a package if it exists."""
    full = f"{parent.__name__}.{name}"
    try:
        importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name not in {full, parent.__name__}:
            raise ConfigurationError(f"{target} cannot be imported: {error}") from error


def parameters(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the name and type of each argument, and whether there is ``**kwargs``.

    An unknown type is `Any`. A builtin without a signature is assumed to accept any argument.
    """
    try:
        found = list(inspect.signature(target).parameters.values())
    except ValueError:
        return {}, True
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):  # names that are only imported for type checkers
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes_more = any(one.kind == inspect.Parameter.VAR_KEYWORD for one in found)
    return {one.name: hints.get(one.name, Any) for one in found if one.kind in named}, takes_more


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value (number, string, list, dictionary, None) is valid for a type.

    If a plain value cannot be compared with the type, such as an object created from a dictionary, the result is true.
    """
    if hint is Any:
        return True
    if isinstance(hint, TypeAliasType):
        return fits(value, hint.__value__)
    origin, args = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return any(fits(value, one) for one in args)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in args)
    kind = origin or hint
    if kind is bool:
        return isinstance(value, bool)
    if kind in {int, float}:
        whole = isinstance(value, int) or (isinstance(value, float) and (kind is float or value.is_integer()))
        return whole and not isinstance(value, bool)
    if kind is str or kind is os.PathLike or kind is Path:
        return isinstance(value, str)
    if kind is type(None):
        return value is None
    if kind in _LISTS:
        inner = [one for one in args if one is not Ellipsis]
        if isinstance(value, str) and kind not in {list, tuple, set}:
            return inner in ([], [str])  # a string is a sequence of strings
        return isinstance(value, list | tuple) and (len(inner) != 1 or all(fits(one, inner[0]) for one in value))
    if kind in _MAPPINGS:
        return isinstance(value, Mapping)
    if inspect.isclass(kind) and kind is not object:
        return value is not None and not isinstance(value, bool | int | float | str | list | tuple)
    return True


def shown_type(hint: Any) -> str:
    """Return a type for messages, in the terms of YAML: "an integer", "a number or null", "one of zero, nan"."""
    kinds = list(_alternatives(hint))
    choices = [str(one) for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
    plain = [_word(kind) for kind in kinds if get_origin(kind) is not Literal]
    words = [word for word in plain if not word.startswith("{")] or plain
    if choices:
        words.insert(0, ("one of " if len(choices) > 1 else "") + ", ".join(dict.fromkeys(choices)))
    null = [word for word in words if word == "null"]
    return " or ".join(dict.fromkeys([*(word for word in words if word != "null"), *null]))


def _alternatives(hint: Any) -> Iterator[Any]:
    if isinstance(hint, TypeAliasType):
        yield from _alternatives(hint.__value__)
    elif get_origin(hint) in {Union, types.UnionType}:
        for one in get_args(hint):
            yield from _alternatives(one)
    else:
        yield hint


_WORDS = {type(None): "null", str: "a string", os.PathLike: "a path", Path: "a path", bool: "true or false"}
_WORDS |= {int: "an integer", float: "a number"}


def _word(hint: Any) -> str:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind in _WORDS:
        return _WORDS[kind]
    if kind in _LISTS:
        inner = {
            shown_type(one).removeprefix("a ").removeprefix("an ") + "s"
            for one in args
            if one is not Ellipsis and one is not Any
        }
        return f"a list of {inner.pop()}" if len(inner) == 1 else "a list"
    if kind in _MAPPINGS:
        return "a dictionary"
    return f"{{_target_: ...}} that creates a {getattr(kind, '__name__', kind)}"


def nearest(name: str, names: Sequence[str] | Mapping[str, Any], count: int = 3, cutoff: float = 0.7) -> list[str]:
    """Return similar names.

    These are names with the same last part (``model.optimizer.lr`` for ``lr``); if there are none, similar names; if there
    are none, names with a similar last part.
    """
    last_part = name.rpartition(".")[2]
    same = [one for one in names if one.rpartition(".")[2] == last_part and one != name]
    alike = same or get_close_matches(name, list(names), n=count, cutoff=cutoff)
    if alike:
        return alike[:count]
    last = {one.rpartition(".")[2]: one for one in reversed(list(names))}
    return [last[one] for one in get_close_matches(last_part, last, n=count, cutoff=cutoff + 0.05)]
