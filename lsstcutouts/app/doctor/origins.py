"""Check of where the LSST packages come from: wheels, conda, or an EUPS stack in ``PYTHONPATH``."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .diagnosis import Result, Settings

__all__ = ["Origin", "check_origins", "installed"]

_USED = ("lsst-daf-butler", "lsst-images", "lsst-resources", "lsst-sphgeom", "lsst-utils")
"""What this package imports, and what that imports. Others, such as ``lsst-rsp``, may come from anywhere."""

_MOST_NAMED = 5
_INSTALLERS = {"pip": "PyPI", "uv": "PyPI", "conda": "conda", "sconsUtils": "EUPS"}
"""Where a package comes from, by the name that its installer wrote beside it; ``sconsUtils`` builds EUPS products."""

_ADVICE = (
    "install lsstcutouts into a virtual environment of its own, and run: unset PYTHONPATH before you start Python there "
    "(docs: On the Rubin Science Platform)"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """An LSST package that Python finds.

    Attributes
    ----------
    name, version
        As its metadata say.
    kind
        ``PyPI``, ``conda``, ``EUPS``, or the name of another installer.
    folder
        Of ``sys.path``; that of all products for an EUPS stack.
    """

    name: str
    version: str
    kind: str
    folder: Path

    @property
    def shown(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


def check_origins(_settings: Settings, _stack: ExitStack) -> Iterator[Result]:
    """Check that the LSST packages are not partly those of an EUPS stack and partly wheels."""
    found = installed()
    used = {one.name: one for one in reversed(found)}  # Python imports the first of each name
    ours = sorted((one for one in found if one.name in _USED), key=lambda one: one.name)
    stack = [one for one in ours if one.kind == "EUPS"]
    wheels = [one for one in ours if one.kind != "EUPS"]
    if stack and wheels:
        hidden = [one for one in wheels if used[one.name] != one]
        beside = [one for one in wheels if used[one.name] == one]
        parts = [f"{how} {_listed(group)}" for how, group in (("hide", hidden), ("are mixed with", beside)) if group]
        detail = f"{_listed(stack)} of the EUPS stack in {stack[0].folder} (PYTHONPATH) {' and '.join(parts)}"
        yield Result("warn", f"{detail} of {wheels[0].kind} in {wheels[0].folder}", _ADVICE)
        return
    groups: dict[tuple[str, Path], list[Origin]] = {}
    for one in sorted(used.values(), key=lambda one: (one.name not in _USED, one.name)):
        groups.setdefault((one.kind, one.folder), []).append(one)
    parts = [f"{kind} ({folder}): {_listed(group)}" for (kind, folder), group in groups.items()]
    yield Result("pass", "; ".join(parts) or "no LSST package")


def installed() -> list[Origin]:
    """Return all LSST packages in the order in which Python looks for them; a name can come more than once."""
    found = []
    for one in metadata.distributions():
        name = (one.metadata["Name"] or "").lower().replace("_", "-")
        if not name.startswith("lsst-"):
            continue
        folder = Path(str(one.locate_file("")))
        product = folder.parent  # of an EUPS stack: .../daf_butler/g0123abc/python
        installer = (one.read_text("INSTALLER") or "").strip()
        kind = "EUPS" if (product / "ups").is_dir() else _INSTALLERS.get(installer, installer or "other")
        found.append(Origin(name, one.version, kind, product.parent.parent if kind == "EUPS" else folder))
    return found


def _listed(group: Sequence[Origin]) -> str:
    names = [one.shown for one in group[:_MOST_NAMED]]
    return ", ".join(names) + (f" and {len(group) - len(names)} others" if len(group) > len(names) else "")
