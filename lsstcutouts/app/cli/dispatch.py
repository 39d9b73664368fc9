"""Parses the command line, calls the verb and returns its exit status."""

import importlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, TextIO

from ... import __version__
from ...errors import ConfigurationError, LsstCutoutsError
from ..signatures import importing_from_here
from .failures import note_failure
from .override_errors import complete_arguments, corrected_arguments, short_message
from .parser import texts_as_help
from .quoting import hydra_arguments, with_run_folder
from .verbs import CONFIGS, VERBS, overview, verb_help

__all__ = ["main"]

_OK, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130

_FULL_ERROR = "HYDRA_FULL_ERROR"
"""Environment variable that makes hydra raise the original errors."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script.

    Parameters
    ----------
    argv
        Arguments after the name of the script; by default those of this process.

    Returns
    -------
    int
        Exit status: 0 on success, 1 if the work failed, 2 if the command line or a setting is invalid.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        return _print(overview())
    name, *rest = arguments
    if name == "--version":
        return _print(f"lsstcutouts {__version__}")
    if name not in VERBS:
        return _print_error(_unknown_verb(name), _USAGE)
    if any(argument in {"-h", "--help"} for argument in rest):
        return _print(verb_help(name))
    return _run(name, with_run_folder(rest) if name == "train" else rest)


def _print(text: str) -> int:
    sys.stdout.write(text.rstrip("\n") + "\n")
    return _OK


def _print_error(text: str, status: int) -> int:
    sys.stderr.write(text + "\n")
    return status


def _unknown_verb(name: str) -> str:
    verbs = ", ".join(VERBS)
    if "=" in name:
        return f"lsstcutouts: {name!r} needs a verb before it: one of {verbs}. See lsstcutouts --help."
    close = get_close_matches(name, VERBS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"lsstcutouts: no verb {name!r}; {hint}there are {verbs}. See lsstcutouts --help."


def _run(name: str, arguments: list[str]) -> int:
    """Compose the configuration with hydra and call the verb, once for every job of a sweep."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    as_json, debug = (_is_set(flag, arguments) for flag in ("json", "debug"))
    results = sys.stdout if as_json else None
    try:
        arguments = complete_arguments(name, arguments)
        try:
            return _compose_and_call(name, arguments, results)
        except (HydraException, OmegaConfBaseException) as error:
            arguments = corrected_arguments(name, arguments, error)
        return _compose_and_call(name, arguments, results)
    except LsstCutoutsError as error:
        return _report_error(name, error, results, debug=debug)
    except (HydraException, OmegaConfBaseException) as error:  # several mistakes, or one without its own message
        return _report_error(name, ConfigurationError(short_message(error)), results, debug=debug)
    except OSError as error:  # from hydra, which creates the output folder; verbs translate their own
        message = f"the output folder cannot be written: {error.strerror}: {error.filename}; give another output="
        return _report_error(name, ConfigurationError(message), results, debug=debug)
    except KeyboardInterrupt as stop:
        return _print_error(f"lsstcutouts {name}: interrupted{f': {stop}' if str(stop) else ''}", _INTERRUPTED)


def _is_set(flag: str, arguments: Sequence[str]) -> bool:
    return any(re.fullmatch(rf"\+{{0,2}}{flag}=true", argument, re.IGNORECASE) for argument in arguments)


def _compose_and_call(name: str, arguments: Sequence[str], results: TextIO | None) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    given, statuses = sys.argv, list[int]()
    full_error = os.environ.get(_FULL_ERROR)

    def task(cfg: Any) -> None:
        # Lightning starts the other ranks with the current command line and environment.
        with _argv(given), _environment(_FULL_ERROR, full_error), importing_from_here():
            statuses.append(_call(name, cfg, results))

    # With json=true only the result may go to standard output.
    command = hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name=name)(task)
    state = HydraConfig.instance()
    before = state.cfg  # --cfg would leave its own state
    # Otherwise hydra prints its own message and exits.
    with (
        _argv([f"lsstcutouts {name}", *hydra_arguments([f"hydra.job.name={name}", *arguments])]),
        _environment(_FULL_ERROR, "1"),
    ):
        try:
            with texts_as_help(), redirect_stdout(sys.stdout if results is None else sys.stderr):
                command()
        except SystemExit as stop:
            statuses.append(stop.code if isinstance(stop.code, int) else _OK if stop.code is None else _FAILED)
        finally:
            state.cfg = before
    return max(statuses, default=_OK)


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set or remove an environment variable in the block."""
    before = os.environ.get(name)
    _set_variable(name, value)
    try:
        yield
    finally:
        _set_variable(name, before)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


@contextmanager
def _argv(arguments: Sequence[str]) -> Iterator[None]:
    """Replace ``sys.argv``, which hydra and Lightning read, inside the ``with`` block."""
    before = sys.argv
    sys.argv = list(arguments)
    try:
        yield
    finally:
        sys.argv = before


def _call(name: str, cfg: Any, results: TextIO | None) -> int:
    """Call a verb and return its exit status; print errors of the package as one line."""
    from hydra.errors import InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    debug = cfg.get("debug", False) is True or os.environ.get(_FULL_ERROR) == "1"
    try:
        _check_required(cfg)
        _check_types(name, cfg)
        result = _function(VERBS[name].target)(cfg)
    except LsstCutoutsError as error:
        return _report_error(name, error, results, debug=debug)
    except OmegaConfBaseException as error:  # an invalid ${...}
        return _report_error(name, ConfigurationError(short_message(error)), results, debug=debug)
    except InstantiationException as error:
        # hydra wraps the error of a constructor; the original message is clearer.
        if not isinstance(error.__cause__, LsstCutoutsError):
            return _report_bug(error)
        return _report_error(name, error.__cause__, results, debug=debug)
    except Exception as error:  # noqa: BLE001 - a bug: print the traceback; a sweep continues with its other jobs
        return _report_bug(error)
    if results is not None and result is not None:
        _write_json(results, result.as_dict())
    return int(getattr(result, "exit_status", _OK))


def _report_bug(error: Exception) -> int:
    """Print an unexpected error with its traceback, and save the reason for the table of a sweep."""
    note_failure(error)
    traceback.print_exception(error)
    return _FAILED


def _check_types(name: str, cfg: Any) -> None:
    """Raise `ConfigurationError` if a boolean setting is not true or false, or the seed is not an integer."""
    from omegaconf import OmegaConf

    defaults: Any = OmegaConf.create(files(CONFIGS).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    for key in cfg:
        value, wanted = cfg[key], defaults.get(key) if key not in {"json", "debug"} else False
        if isinstance(wanted, bool) and not isinstance(value, bool):
            raise ConfigurationError(f"{key}={value} must be true or false")
        if key == "seed" and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigurationError(f"seed={value} must be an integer")


def _check_required(cfg: Any) -> None:
    """Raise `ConfigurationError` if settings are missing, before torch is imported."""
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        wanted = " ".join(f"{key}=..." for key in missing)
        raise ConfigurationError(f"{', '.join(missing)} must be given: add {wanted}")


def _function(target: str) -> Callable[[Any], Any]:
    module, _, function = target.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return found


def _report_error(name: str, error: LsstCutoutsError, results: TextIO | None, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    note_failure(error)
    if results is not None:
        _write_json(results, {"error": type(error).__name__, "message": str(error)})
    status = _USAGE if isinstance(error, ConfigurationError) else _FAILED
    return _print_error(f"lsstcutouts {name}: {type(error).__name__}: {error}", status)


def _write_json(stream: TextIO, content: Any) -> None:
    stream.write(json.dumps(content, default=_plain) + "\n")
    stream.flush()


def _plain(value: Any) -> Any:
    """Return numpy values as Python values, and other objects as strings."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
