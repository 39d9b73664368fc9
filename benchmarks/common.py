"""What the scripts share: settings from the command line, the sample, and figures as a table or as JSON."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lsstcutouts.app.benchmark.machine import about_machine, load_now
from lsstcutouts.app.benchmark.measured import BenchmarkSettings

__all__ = ["report", "settings_of"]


def settings_of(
    description: str | None, defaults: Mapping[str, Any], arguments: Sequence[str] | None = None
) -> tuple[BenchmarkSettings, dict[str, Any]]:
    """Return the settings of the command ``lsstcutouts benchmark`` and those of a script, both written ``key=value``.

    Parameters
    ----------
    description
        Of the script, for ``--help``.
    defaults
        The script's own settings.
    arguments
        Instead of those of the process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted({*defaults, *BenchmarkSettings.__dataclass_fields__})
    parser.add_argument("settings", nargs="*", metavar="key=value", help=f"one of {', '.join(known)}")
    values = {}
    for text in parser.parse_args(arguments).settings:
        key, _, value = text.partition("=")
        if key not in known:
            parser.error(f"{key}= is not a setting; there are {', '.join(known)}")
        values[key] = yaml.safe_load(value)
    own = {name: values.pop(name, default) for name, default in defaults.items()}
    machine = about_machine()
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    sys.stderr.write(
        f"{load_now().text}\n{machine['cpu']}, {machine['usable_cores']} cores; {versions}; commit {machine['commit']}\n"
        "measuring; the figures come at the end\n"
    )
    return BenchmarkSettings.of(values), own


def report(rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print figures as lines on standard error, and with the machine as JSON on standard output."""
    for row in rows:
        sys.stderr.write("  ".join(f"{name} {_short(value)}" for name, value in row.items()) + "\n")
    sys.stdout.write(json.dumps({"machine": about_machine(), "figures": list(rows), **more}, indent=1) + "\n")


def _short(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
