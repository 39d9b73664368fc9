"""The fault matrix: what each policy makes of each fault, on real files. Run as ``python -m tests.support.faults [FOLDER]``.

Every cell says what happened and is checked against the undamaged repository: pixels that are delivered as valid
must be the right ones, rows must add up, and nothing may fail without an error of this package. ``SILENT`` in the
table means that wrong pixels came out as valid ones; the exit status is then 1, unless the fault is one that the
format cannot reveal (flipped bytes in RICE tiles, which carry no checksum).
"""

import argparse
import contextlib
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lsstcutouts.errors import LsstCutoutsError, WriteError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.quality import Outcome, Quality
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.export import write_fits
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.read.report import Report
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from .faulty import copied, file_of
from .repositories import SMALL, simulated_once

POLICIES = ("raise", "mask", "skip")
PLANES = ("image", "variance", "valid")
PATCH, BAND = 9, "r"
NOBODY = 65534


@dataclass(frozen=True)
class Case:
    """One repository to spoil: its plan and its right pixels."""

    repo: SimulatedRepository
    plan: CutoutPlan
    rows: np.ndarray
    """Targets that need the file that is spoilt, and a few that do not."""
    good: dict[str, np.ndarray]
    path: Path
    """The file that is spoilt."""


def case_of(repo: SimulatedRepository) -> Case:
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="gri", size=(32, 45))
    reader = CutoutReader(plan, ReaderOptions(planes=PLANES), cache=TileCache("100 MB"))
    good = reader.read(np.arange(len(plan)))
    reader.close()
    near = [PATCH in plan.patches.patch[[plan.primary[t], *plan.others_of(t)]] for t in range(len(plan))]
    rows = np.union1d(np.flatnonzero(near), np.arange(0, len(plan), 8))
    return Case(repo, plan, rows, good, file_of(repo, PATCH, BAND))


def attempt(case: Case, policy: str) -> str:
    """Read all targets in batches under a policy and say what came of it."""
    options = ReaderOptions(planes=PLANES, on_read_error=policy)
    reader = CutoutReader(case.plan, options, cache=TileCache("100 MB"))
    report, delivered = Report(case.plan, case.rows), 0
    try:
        for low in range(0, len(case.rows), 16):
            targets = case.rows[low : low + 16]
            delivery = reader.deliver(targets)
            report.add(delivery.batch_report)
            batch = delivery.batch
            delivered += len(batch["object_id"])
            rows = targets[delivery.batch_report.outcome == Outcome.DELIVERED]
            valid = batch["valid"]
            for name in ("image", "variance"):
                if not np.array_equal(batch[name][valid], case.good[name][rows][valid], equal_nan=True):
                    return "SILENT"
            lost = case.good["valid"][rows] & ~valid
            told = (batch["quality"] & Quality.READ_ERROR) != 0
            if (valid & ~case.good["valid"][rows]).any() or lost.any(axis=(2, 3))[~told].any():
                return "SILENT"
            if (told & ~batch["band_present"]).any():
                return "SILENT"
    except LsstCutoutsError as error:
        return type(error).__name__
    finally:
        reader.close()
    if sum(report.counts().values()) != len(report) or report.delivered != delivered:
        return "SILENT"
    touched = int(((report.quality & int(Quality.READ_ERROR)) != 0).any(axis=1).sum())
    if bool(report.failures) != bool(touched):
        return "SILENT"
    return f"{touched} rows {'masked' if policy == 'mask' else 'left out'}" if touched else "all right"


def rewritten(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@contextlib.contextmanager
def spoilt(case: Case, how: Callable[[Path], None]) -> Iterator[None]:
    """Spoil a file, and mend it afterwards."""
    content, mode = case.path.read_bytes(), case.path.stat().st_mode
    path = case.path
    try:
        how(path)
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(mode)


def boundaries(path: Path) -> list[int]:
    """Return every byte at which a structure of the file begins or ends, and the middle of each."""
    edges = {0}
    with fits.open(path, disable_image_compression=True) as hdus:
        for hdu in hdus:
            info = hdu.fileinfo()
            edges |= {info["hdrLoc"], info["datLoc"], info["datLoc"] + info["datSpan"]}
            if "THEAP" in hdu.header or "PCOUNT" in hdu.header:
                rows = hdu.header["NAXIS1"] * hdu.header.get("NAXIS2", 1)
                edges |= {info["datLoc"] + rows, info["datLoc"] + rows + hdu.header["PCOUNT"]}
    whole = path.stat().st_size
    ordered = sorted(e for e in edges if e < whole)
    middles = [(a + b) // 2 for a, b in zip(ordered, [*ordered[1:], whole], strict=True)]
    return sorted({*ordered, *middles})


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: rewritten(path, path.read_bytes()[:size])


def flipped(seed: int, plane: str) -> Callable[[Path], None]:
    """Return what flips one byte among the tiles that the targets of a plane need."""

    def how(path: Path) -> None:
        rng = np.random.default_rng(seed)
        with open_coadd(path) as coadd:
            layout = coadd.layout(plane)
        tile = int(rng.integers(len(layout.offsets)))
        at = int(layout.offsets[tile] + rng.integers(max(1, layout.sizes[tile])))
        content = bytearray(path.read_bytes())
        content[at] ^= int(rng.integers(1, 256))
        rewritten(path, bytes(content))

    return how


def header(change: Callable[[fits.Header], None]) -> Callable[[Path], None]:
    """Return what changes the image's header."""

    def how(path: Path) -> None:
        with fits.open(path, mode="update", disable_image_compression=True) as hdus:
            change(hdus["IMAGE"].header)

    return how


def moved(key: str, by: float) -> Callable[[fits.Header], None]:
    def change(cards: fits.Header) -> None:
        cards[key] += by

    return change


def shifted_origin(cards: fits.Header) -> None:
    """Move the array on the tract by a pixel, in every way in which a header says it."""
    for key, by in (("LTV1", -1), ("CRVAL1A", 1)):
        if key in cards:
            cards[key] += by


def swapped(patch: int, band: str, case: Case) -> Callable[[Path], None]:
    other = file_of(case.repo, patch, band)
    return lambda path: rewritten(path, other.read_bytes())


def single_faults(case: Case) -> Iterator[tuple[str, Callable[[Path], None]]]:
    yield "none", Path.touch
    yield "file gone", Path.unlink
    yield "no permission", lambda path: path.chmod(0)
    yield "a directory", lambda path: (path.unlink(), path.mkdir())
    yield "empty file", cut(0)
    yield "not FITS", lambda path: rewritten(path, b"no FITS at all " * 4000)
    yield "longer by a block", lambda path: rewritten(path, path.read_bytes() + bytes(2880))
    yield "shorter by a block", lambda path: rewritten(path, path.read_bytes()[:-2880])
    yield "swapped: another patch", swapped(13, BAND, case)
    yield "swapped: another band", swapped(PATCH, "i", case)
    yield "WCS: tangent point off 1 arcsec", header(moved("CRVAL2", 1 / 3600))
    yield "WCS: reference pixel off 1 px", header(moved("CRPIX1", 1.0))
    yield "WCS: origin off 1 px", header(shifted_origin)
    yield "no such unit", header(lambda cards: cards.set("BUNIT", "furlong"))


def as_nobody(action: Callable[[], str]) -> str:
    """Run an action as a user who owns nothing: root may read every file."""
    if os.geteuid() != 0:
        return action()
    os.seteuid(NOBODY)
    try:
        return action()
    finally:
        os.seteuid(0)


def cells(case: Case, name: str, how: Callable[[Path], None]) -> list[str]:
    """Return what each policy makes of one fault."""
    results = []
    for policy in POLICIES:
        with spoilt(case, how):
            if name == "no permission":
                results.append(as_nobody(lambda policy=policy: attempt(case, policy)))
            else:
                results.append(attempt(case, policy))
            if case.path.is_dir():
                case.path.rmdir()
    return results


def counted(case: Case, faults: list[Callable[[Path], None]], label: str) -> list[str]:
    """Return how often each thing happened over many faults of a kind, for each policy."""
    found: list[Counter[str]] = [Counter() for _ in POLICIES]
    for how in track(faults, description=label, transient=True, console=Console(stderr=True)):
        for counter, result in zip(found, cells(case, label, how), strict=True):
            counter["rows " + result.split(" rows ")[1] if " rows " in result else result] += 1
    return [", ".join(f"{n} x {what}" for what, n in counter.most_common()) for counter in found]


def vanished(case: Case) -> list[str]:
    """Remove a file during an epoch: after the first batch, with every handle and tile let go."""
    results = []
    for policy in POLICIES:
        options = ReaderOptions(planes=PLANES, on_read_error=policy)
        reader, report = CutoutReader(case.plan, options, cache=TileCache("100 MB")), Report(case.plan, case.rows)
        result = ""
        with spoilt(case, Path.touch):
            for low in range(0, len(case.rows), 16):
                try:
                    report.add(reader.deliver(case.rows[low : low + 16]).batch_report)
                except LsstCutoutsError as error:
                    result = type(error).__name__
                    break
                case.path.unlink(missing_ok=True)
                reader.close()
                reader.cache.clear()
        touched = int(((report.quality & int(Quality.READ_ERROR)) != 0).any(axis=1).sum())
        results.append(result or f"{touched} rows {'masked' if policy == 'mask' else 'left out'}")
    return results


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond a kilobyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def written(case: Case, folder: Path) -> Iterator[tuple[str, str]]:
    """Write a plan, a report and cutouts on a disk that is full."""
    target = folder / "full"
    target.mkdir()
    with LsstDataFetcher(case.repo.root, collections=case.repo.collections, bands="gri", size=(32, 45)) as fetcher:
        batch = fetcher.fetch_plan(case.plan, range(4))
    lost = replace(case.plan.rejected, columns={"note": ["x"] * len(case.plan.rejected)})
    notes = ["x" * 500 + str(i) for i in range(len(case.plan))]
    large = replace(case.plan, columns={"note": notes}, rejected=lost)
    report = Report(case.plan)
    actions = {
        "plan.save": lambda: large.save(target / "plan.parquet"),
        "report.save": lambda: report.save(target / "report.parquet"),
        "write_fits": lambda: write_fits(batch, target, case.plan),
    }
    for name, action in actions.items():
        result = "written: too small for the limit"
        with full_disk():
            try:
                action()
            except WriteError as error:
                result = type(error).__name__
            except OSError as error:
                result = f"{type(error).__name__} (not translated)"
        left = [p.name for p in target.iterdir()]
        yield f"disk full: {name}", result + (f", left behind {left}" if result == "WriteError" and left else "")
        shutil.rmtree(target)
        target.mkdir()


def matrix(release: str, compression: str, folder: Path, flips: int) -> tuple[Table, bool]:
    title = f"{release} {compression if release == 'dp2' else ''}"
    settings = {**SMALL, "compression": compression} if release == "dp2" else SMALL
    repo = simulated_once(SimulationConfig(release=release, **settings))
    case = case_of(copied(repo, folder / "copy"))
    table = Table(title=title, title_justify="left")
    for column in ("fault", *POLICIES):
        table.add_column(column, overflow="fold")
    silent = False

    def row(name: str, results: list[str], *, revealable: bool = True) -> None:
        nonlocal silent
        silent |= revealable and any("SILENT" in r for r in results)
        table.add_row(name, *results)

    for name, how in single_faults(case):
        row(name, cells(case, name, how))
    sizes = boundaries(case.path)
    row(f"cut at {len(sizes)} places", counted(case, [cut(s) for s in sizes], "cut"))
    for plane in ("image", "mask", "variance"):
        with open_coadd(case.path) as coadd:
            kind = coadd.layout(plane).compression
        faults = [flipped(seed, plane) for seed in range(flips)]
        row(f"a byte flipped, {plane} ({kind})", counted(case, faults, "flip"), revealable=kind != "RICE_1")
    row("file gone during an epoch", vanished(case))
    for name, result in written(case, folder):
        row(name, [result, "", ""])
    return table, silent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="where repositories are written; by default a temporary one"
    )
    parser.add_argument("--flips", type=int, default=60, help="bytes to flip in each plane")
    arguments = parser.parse_args()
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    root.chmod(0o755)
    console, silent = Console(width=150), False
    for release, compression in (("dp2", "lossy16"), ("dp2", "lossless"), ("dp1", "lossless")):
        folder = root / f"{release}-{compression}"
        folder.mkdir(parents=True)
        table, wrong = matrix(release, compression, folder, arguments.flips)
        silent |= wrong
        console.print(table)
    if arguments.folder is None:
        shutil.rmtree(root)
    return int(silent)


if __name__ == "__main__":
    sys.exit(main())
