"""What the scripts share: settings, the targets of a simulated repository, our ways to read, tables and JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lsstcutouts import CutoutDataset, CutoutLoader, ReadOptions, build_plan
from lsstcutouts.app.benchmark.machine import about_machine, load_now
from lsstcutouts.app.benchmark.measured import BenchmarkSettings, MeasuredTargets
from lsstcutouts.app.benchmark.ways import Way, consume
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader, Request, stream
from lsstcutouts.testing import SimulatedRepository, SimulationConfig, simulate

__all__ = ["OurWay", "rate_row", "report", "scene", "settings_of", "simulated"]

_PEERS = ("torchfits", "cutana", "hyrax")


def settings_of(
    description: str | None, defaults: Mapping[str, Any], arguments: Sequence[str] | None = None
) -> tuple[BenchmarkSettings, dict[str, Any]]:
    """Return the settings of the command ``lsstcutouts benchmark`` and those of a script, both written ``key=value``.

    Parameters
    ----------
    description
        Of the script, for ``--help``.
    defaults
        The script's own settings; ``load``, how busy the machine is, is added to them.
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
    load = load_now()
    sys.stderr.write(f"{load.text}\nmeasuring; the figures come at the end\n")
    return BenchmarkSettings.of(values), own | {"load": load.text}


def simulated(root: str | Path, config: SimulationConfig | None = None) -> SimulatedRepository:
    """Return a simulated repository, which is written first where it does not exist and ``config`` says how.

    Raises
    ------
    ConfigurationError
        There is none, and no ``config``.
    """
    if not (Path(root) / "butler.yaml").exists():
        if config is None:
            raise ConfigurationError(f"{root} has no simulated repository; --help says how to write one")
        with redirect_stdout(sys.stderr):  # the progress bar must not be in the JSON
            simulate(root, config, progress=True)
    return SimulatedRepository.load(root)


def scene(
    repository: SimulatedRepository,
    settings: BenchmarkSettings,
    *,
    bands: Sequence[str] | None = None,
    size: int | None = None,
    planes: tuple[str, ...] | None = None,
    per_patch: int | None = None,
) -> MeasuredTargets:
    """Return targets patch by patch whose boxes lie in their own patch's file of every band: what all peers can read.

    Parameters
    ----------
    per_patch
        At most so many of each patch; otherwise ``settings.targets`` of all patches together, chosen at random.
    """
    plan = build_plan(
        repository.root,
        repository.truth,
        collections=repository.collections,
        dataset_type=repository.dataset_type,
        bands="".join(bands or settings.bands or repository.bands),
        size=size or settings.size,
    )
    rng, chosen = np.random.default_rng(settings.seed), list[NDArray[np.int64]]()
    for patch in np.unique(plan.primary).tolist():
        if (plan.patches.files[patch] < 0).any():
            continue
        with open_coadd(plan.files.uri[plan.patches.files[patch, 0]]) as coadd:
            bbox = coadd.bbox
        mine = np.flatnonzero(plan.primary == patch)
        low, high = plan.yx0[mine], plan.yx0[mine] + np.asarray(plan.size)
        mine = mine[((low >= bbox.start) & (high <= (bbox.y1, bbox.x1))).all(axis=1)]
        chosen.append(np.sort(rng.permutation(mine)[:per_patch]))
    rows = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    if per_patch is None:
        rows = rows[np.sort(rng.permutation(len(rows))[: settings.targets])]
    if not len(rows):
        raise ConfigurationError(f"{repository.root}: no box of {plan.size} px lies in one file of every band")
    return MeasuredTargets(str(repository.root), plan, rows, planes or settings.planes, None)


class OurWay(Way):
    """A pass through the reader or the loader of this package.

    Parameters
    ----------
    name
        ``"reader"``: batch by batch, in the calling thread or, with more threads, by `stream`; ``"loader"``: in shuffled
        order.
    cache
        ``"new"``: reader and cache are new in each pass, so that headers are read and memory comes from the system, as
        until the cache is full; ``"first"``: headers are read and tiles decoded into memory that is there, as in the rest of
        a first epoch; ``"empty"``: only the tiles are dropped before each pass; ``"memory"``: all tiles are there.
    tiles
        The cache; ways of one state can share it.
    """

    def __init__(
        self,
        sample: MeasuredTargets,
        settings: BenchmarkSettings,
        name: str,
        cache: str,
        tiles: TileCache,
        threads: int,
    ) -> None:
        self.name, self.cache, self.threads, self.tiles = name, cache, threads, tiles
        self._sample, self._settings = sample, settings
        self._kept: Callable[[], int] | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the sample."""
        if self.cache == "new":
            self.tiles = TileCache(self._settings.cache_bytes)
            return self._pass()
        if self._kept is None:
            self._kept = self._pass()
            self._kept()
        if self.cache != "memory":
            self.tiles.clear()
        if self.cache == "first":
            self._kept = self._pass()
        return self._kept

    @property
    def is_base(self) -> bool:
        """Whether others are compared with this way: the reader in one thread."""
        return self.name == "reader" and self.threads == 1

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
        """Return planes of some targets."""
        batch = self._reader().read(rows)
        return {name: np.asarray(batch[name]) for name in self._sample.planes}

    def _pass(self) -> Callable[[], int]:
        sample, size = self._sample, self._settings.batch_size
        if self.name == "loader":
            dataset = CutoutDataset(
                sample.plan,
                rows=sample.rows,
                batch_size=size,
                planes=sample.planes,
                read=ReadOptions(mask_planes=sample.mask_planes, flux_unit="native"),
                threads=self.threads,
                cache=self.tiles,
            )
            return partial(consume, CutoutLoader(dataset))
        reader = self._reader()
        batches = [Request(sample.rows[at : at + size]) for at in range(0, len(sample.rows), size)]
        if self.threads == 1:
            return lambda: consume(reader.read(one.targets) for one in batches)
        return lambda: consume(stream(reader, batches, threads=self.threads, ahead=1, then=lambda made: made.batch))

    def _reader(self) -> CutoutReader:
        sample = self._sample
        options = ReaderOptions(planes=sample.planes, mask_planes=sample.mask_planes, flux_unit="native")
        return CutoutReader(sample.plan, options, cache=self.tiles)


def rate_row(way: Way, rates: Sequence[float], **labels: Any) -> dict[str, Any]:
    """Return a row of a table: median, slowest and fastest run of a way, cutouts/s."""
    row = {**labels, "way": way.name, "tiles": way.cache, "threads": way.threads}
    return row | {"cutouts/s": median(rates), "slowest": min(rates), "fastest": max(rates)}


def report(rows: Sequence[Mapping[str, Any]], *, packages: Sequence[str] = _PEERS, **more: Any) -> None:
    """Print figures as a table on standard error, and with the machine as JSON on standard output.

    Parameters
    ----------
    packages
        Whose versions are named beside those of the packages that this one needs.
    """
    machine = about_machine()
    for name in packages:
        try:
            machine["packages"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            machine["packages"][name] = "not installed"
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    where = f"{machine['cpu']}, {machine['usable_cores']} cores; commit {machine['commit']}; {machine['date']}"
    table = Table(caption=f"{versions}\n{where}\n{more.get('load', '')}", caption_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name, overflow="fold", justify="left" if isinstance(rows[0].get(name), str) else "right")
    for row in rows:
        table.add_row(*(_short(row.get(name, "")) for name in columns))
    Console(stderr=True, width=None if sys.stderr.isatty() else 190).print(table)
    sys.stdout.write(json.dumps({"machine": machine, "figures": list(rows), **more}, indent=1) + "\n")


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
