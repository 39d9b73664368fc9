"""From the arguments of the command line to a verb that has run, and its exit status."""

import importlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from typing import Any, TextIO

from .. import __version__
from ..errors import ConfigurationError, LsstCutoutsError
from .failures import note_failure
from .quoting import hydra_arguments, with_run_folder
from .verbs import CONFIGS, VERBS, overview, verb_help

__all__ = ["main"]

_OK, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script.

    Parameters
    ----------
    argv
        Arguments after the name of the script; by default those of this process.

    Returns
    -------
    int
        Exit status: 0, 1 when the work failed, 2 when the command line or a setting cannot work.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        return _say(overview())
    name, *rest = arguments
    if name == "--version":
        return _say(f"lsstcutouts {__version__}")
    if name not in VERBS:
        return _complain(_unknown_verb(name), _USAGE)
    if any(argument in {"-h", "--help"} for argument in rest):
        return _say(verb_help(name))
    if name == "train":
        rest = with_run_folder(rest)
    return _run(name, hydra_arguments([f"hydra.job.name={name}", *rest]))


def _say(text: str) -> int:
    sys.stdout.write(text.rstrip("\n") + "\n")
    return _OK


def _complain(text: str, status: int) -> int:
    sys.stderr.write(text + "\n")
    return status


def _unknown_verb(name: str) -> str:
    verbs = ", ".join(VERBS)
    if "=" in name:
        return f"lsstcutouts: a verb goes before {name!r}: one of {verbs}. See lsstcutouts --help."
    close = get_close_matches(name, VERBS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"lsstcutouts: no verb {name!r}; {hint}There are {verbs}. See lsstcutouts --help."


def _run(name: str, arguments: list[str]) -> int:
    """Compose the configuration with hydra and call the verb, once for every job of a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    given, results, statuses = sys.argv, sys.stdout, list[int]()
    as_json = any(re.fullmatch(r"\+{0,2}json=true", argument, re.IGNORECASE) for argument in arguments)

    def task(cfg: Any) -> None:
        with _argv(given):  # Lightning starts further ranks with the command line that it finds
            statuses.append(_call(name, cfg, results if as_json else None))

    # With json=true nothing but the result may reach standard output, whoever prints.
    command = hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name=name)(task)
    state = HydraConfig.instance()
    before = state.cfg  # --cfg leaves its own behind
    with _argv([f"lsstcutouts {name}", *arguments]):
        try:
            with redirect_stdout(sys.stderr if as_json else sys.stdout):
                command()
        except SystemExit as stop:
            statuses.append(stop.code if isinstance(stop.code, int) else _OK if stop.code is None else _FAILED)
        except KeyboardInterrupt:
            return _complain(f"lsstcutouts {name}: interrupted", _INTERRUPTED)
        finally:
            state.cfg = before
    return max(statuses, default=_OK)


@contextmanager
def _argv(arguments: Sequence[str]) -> Iterator[None]:
    """Set the command line that hydra and Lightning look at."""
    before = sys.argv
    sys.argv = list(arguments)
    try:
        yield
    finally:
        sys.argv = before


def _call(name: str, cfg: Any, results: TextIO | None) -> int:
    """Call a verb and return the exit status; errors that were foreseen become one line."""
    from hydra.errors import InstantiationException

    try:
        _require(cfg)
        result = _function(VERBS[name].target)(cfg)
    except LsstCutoutsError as error:
        return _explain(name, error, cfg, results)
    except InstantiationException as error:
        # hydra wraps what a constructor raises; the constructor's own words are the clear ones.
        if not isinstance(error.__cause__, LsstCutoutsError):
            return _unforeseen(error)
        return _explain(name, error.__cause__, cfg, results)
    except Exception as error:  # noqa: BLE001 - of any kind: a sweep goes on with its other jobs
        return _unforeseen(error)
    if results is not None and result is not None:
        _write_json(results, result.as_dict())
    return int(getattr(result, "exit_status", _OK))


def _unforeseen(error: Exception) -> int:
    """Raise an error that nobody foresaw; of a job of a sweep, show it and keep the reason for the table."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode != RunMode.MULTIRUN:
        raise error
    note_failure(error)
    traceback.print_exception(error)
    return _FAILED


def _require(cfg: Any) -> None:
    """Refuse a configuration that lacks settings, before anything heavy is imported."""
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        wanted = " ".join(f"{key}=..." for key in missing)
        raise ConfigurationError(f"{', '.join(missing)} must be given: add {wanted}")


def _function(target: str) -> Callable[[Any], Any]:
    module, _, function = target.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return found


def _explain(name: str, error: LsstCutoutsError, cfg: Any, results: TextIO | None) -> int:
    if cfg.get("debug", False) or os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    note_failure(error)
    if results is not None:
        _write_json(results, {"error": type(error).__name__, "message": str(error)})
    status = _USAGE if isinstance(error, ConfigurationError) else _FAILED
    return _complain(f"lsstcutouts {name}: {type(error).__name__}: {error}", status)


def _write_json(stream: TextIO, content: Any) -> None:
    stream.write(json.dumps(content, default=_plain) + "\n")
    stream.flush()


def _plain(value: Any) -> Any:
    """Return numpy values as Python's own, and paths and the like as texts."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
