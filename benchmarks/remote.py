"""An epoch over a real Butler server behind a slow link, beside `butler.get` and beside downloading whole files.

The server, its S3 store and the link run on this machine (`tests/support/platform`): the link is a model that sleeps and counts
bytes. Client and link share the processor, so that links faster than some 30 MB/s cannot be filled on two cores.

Run: python -m benchmarks.remote [folder=bench/remote links=[[20,50],[5,10],[100,10],[20,150]] targets=600 bands=griz picture=PNG]

The repository is the one that `simulate` writes by default. Every figure is of one epoch in a new process, nothing cached. The
share of the link is that of min(rate, connections x mean request / round trip), from `iter(loader)` on and from the third batch
on; needed bytes are the compressed bytes of the distinct tiles under the boxes. *2 workers* begin with an empty disk cache; their
time includes the start of the processes. *curl* sends the same requests for bytes again, with URLs that are signed already.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from lsst.daf.butler import Butler
from lsst.images import Box as ImagesBox

from lsstcutouts import CutoutDataset, CutoutLoader, CutoutPlan, build_plan
from lsstcutouts.plan.butler_errors import trust_repository
from lsstcutouts.source.web.process import figures_of_process
from tests.support.platform.science_platform import Platform
from tests.support.platform.settings import Request

from .common import report, settings_of, simulated

__all__ = ["main", "run_way"]

_DEFAULTS = {
    "folder": "bench/remote",
    "links": [[20, 50], [5, 10], [100, 10], [20, 150]],
    "bands": "griz",
    "picture": "",
}
_BATCH, _GETS = 64, 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    _, own = settings_of(__doc__, _DEFAULTS | {"targets": 600}, arguments)
    folder = Path(own["folder"])
    repository = simulated(folder / "repo", settings_config())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lsstcutouts-benchmark-") as made, Platform(Path(made)) as platform:
        platform.publish("sim", Path(repository.root), repository.collections)
        os.environ |= {"BUTLER_RUBIN_ACCESS_TOKEN": platform.token, "LSSTCUTOUTS_CACHE": "off"}
        catalog = pq.read_table(repository.truth).slice(0, own["targets"])
        url = platform.url("sim")
        plan = build_plan(url, catalog, collections=repository.collections, bands=own["bands"], size=64)
        plan.save(Path(made) / "plan.parquet")
        local = build_plan(repository.root, catalog, collections=repository.collections, bands=own["bands"], size=64)
        needed = _needed_bytes(local)
        given = Path(made) / "given.yaml"
        given.write_text(
            yaml.safe_dump(
                {"url": url, "plan": str(Path(made) / "plan.parquet"), "collections": repository.collections}
            )
        )
        for megabytes, milliseconds in own["links"]:
            for way in _WAYS:
                platform.reset()
                platform.set(rate=1e6 * megabytes, rtt=milliseconds / 1e3)
                told = _in_process(way, given, platform)
                rows.append(_row(way, megabytes, milliseconds, told, platform, needed, len(plan)))
                if way == "epoch" and shutil.which("curl"):
                    told = _same_with_curl(platform, Path(made) / "requests.txt", len(plan))
                    rows.append(_row("curl", megabytes, milliseconds, told, platform, needed, len(plan)))
            if own["picture"] and [megabytes, milliseconds] == own["links"][0]:
                platform.reset()
                platform.set(rate=1e6 * megabytes, rtt=milliseconds / 1e3)
                told = _in_process("epoch", given, platform)
                _draw(platform.log(), told, megabytes, milliseconds, own["picture"])
    report(rows, load=own["load"], needed_bytes=needed)


def settings_config() -> Any:
    """Return the configuration that `simulate` has by default."""
    from lsstcutouts.testing import SimulationConfig

    return SimulationConfig()


def _needed_bytes(plan: CutoutPlan) -> int:
    """Return the compressed bytes of the distinct tiles under the boxes."""
    dataset = CutoutDataset(plan, batch_size=_BATCH, cache_bytes="4 GB")
    for _ in CutoutLoader(dataset):
        pass
    return dataset.cache.stats().bytes_read


def run_way(way: str, given: str) -> None:
    """Read in one way, and print the figures as JSON; called in a process of its own."""
    sys.stdout.write(json.dumps(_WAYS[way](Path(given))) + "\n")


def _in_process(way: str, given: Path, platform: Platform) -> dict[str, Any]:
    code = "import sys; from benchmarks.remote import run_way; run_way(*sys.argv[1:])"
    command = [sys.executable, "-c", code, way, str(given)]
    ran = subprocess.run(  # noqa: S603 - this module
        command, env=platform.environment(LSSTCUTOUTS_CACHE="off"), stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def _row(
    way: str, rate: float, latency: float, told: dict[str, Any], platform: Platform, needed: int, targets: int
) -> dict[str, Any]:
    counters, seconds = platform.counters(), told["seconds"]
    row = {"link": f"{rate:g} MB/s, {latency:g} ms", "way": way, "cutouts/s": told["cutouts"] / seconds}
    row |= {"bytes / needed": counters.data_bytes / needed if told["cutouts"] == targets else float("nan")}
    row |= {"requests": counters.data_requests, "connections": counters.peak_connections}
    if way != "epoch":
        return row
    mean = counters.data_bytes / counters.data_requests
    most = min(1e6 * rate, 48 * mean / (latency / 1e3))
    third, rest = told["times"][2], needed - told["bytes"][2] * needed / counters.data_bytes
    return row | {
        "s": seconds,
        "first batch s": told["times"][0],
        "share of link": needed / seconds / most,
        "from batch 3": rest / (seconds - third) / most,
        "CPU s": told["cpu"],
        "signatures": counters.signatures,
    }


def _epoch(given: Path) -> dict[str, Any]:
    """Read an epoch with this package."""
    settings = yaml.safe_load(given.read_text())
    trust_repository(settings["url"])
    loader = CutoutLoader(CutoutDataset(CutoutPlan.load(settings["plan"]), batch_size=_BATCH, cache_bytes="2 GB"))
    start, cpu = time.monotonic(), time.process_time()
    begun, times, nbytes, count = time.time(), [], [], 0
    for batch in loader:
        times.append(time.monotonic() - start)
        figures = figures_of_process()
        nbytes.append(0 if figures is None else figures.data_bytes)
        count += len(batch["image"])
    return {
        "seconds": times[-1],
        "times": times,
        "bytes": nbytes,
        "cutouts": count,
        "begun": begun,
        "cpu": time.process_time() - cpu,
    }


def _two_workers(given: Path) -> dict[str, Any]:
    """Read an epoch with two worker processes and a disk cache that is empty at first."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LSSTCUTOUTS_CACHE"] = folder
        settings = yaml.safe_load(given.read_text())
        trust_repository(settings["url"])
        dataset = CutoutDataset(CutoutPlan.load(settings["plan"]), batch_size=_BATCH, cache_bytes="2 GB")
        start = time.monotonic()
        count = sum(len(batch["image"]) for batch in CutoutLoader(dataset, num_workers=2))
        return {"seconds": time.monotonic() - start, "cutouts": count}


def _same_with_curl(platform: Platform, path: Path, cutouts: int) -> dict[str, Any]:
    """Send the requests for bytes of the last epoch again, all URLs known, with a client in C: what this machine can do."""
    requests = [
        f'url="http://127.0.0.1:{platform.ports["data"]}{one.path}?{one.query}"\nrange={one.range.removeprefix("bytes=")}'
        for one in platform.log("data")
    ]
    path.write_text("\nnext\n".join(f"{one}\noutput=/dev/null\nsilent" for one in requests))
    settings = platform.settings
    platform.reset()
    platform.set(rate=settings.rate, rtt=settings.rtt)
    command = ["curl", "--parallel", "--parallel-max", "48", "--silent", "--config", str(path)]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - as above
    return {"seconds": time.monotonic() - start, "cutouts": cutouts}


def _gets(given: Path) -> dict[str, Any]:
    """Read some cutouts with `butler.get`, one band after the other."""
    settings = yaml.safe_load(given.read_text())
    plan = CutoutPlan.load(settings["plan"])
    butler = Butler(settings["url"], collections=settings["collections"])
    refs = {str(ref.id): ref for ref in butler.query_datasets("deep_coadd", limit=None)}
    start = time.monotonic()
    for target in range(_GETS):
        y0, x0 = plan.yx0[target].tolist()
        bbox = ImagesBox.factory[y0 : y0 + plan.size.y, x0 : x0 + plan.size.x]
        for file in plan.patches.files[plan.primary[target]].tolist():
            if file >= 0:
                image = refs[plan.files.dataset_id[file]].makeComponentRef("image")
                np.asarray(butler.get(image, parameters={"bbox": bbox}).array)
    return {"seconds": time.monotonic() - start, "cutouts": _GETS}


def _downloads(given: Path) -> dict[str, Any]:
    """Download every file as a whole, four at a time, then read the epoch from the disk."""
    settings = yaml.safe_load(given.read_text())
    plan = CutoutPlan.load(settings["plan"])
    butler = Butler(settings["url"], collections=settings["collections"])
    refs = [butler.get_dataset(one) for one in plan.files.dataset_id]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        butler.retrieveArtifacts([ref for ref in refs if ref is not None], folder)
    return {"seconds": time.monotonic() - start, "cutouts": len(plan)}


_WAYS = {"epoch": _epoch, "2 workers": _two_workers, "butler.get": _gets, "whole files": _downloads}


def _draw(log: Sequence[Request], told: dict[str, Any], rate: float, latency: float, path: str) -> None:
    """Draw bytes and connections over the time of one epoch."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    step = 0.05
    ends = np.arange(0, told["seconds"] + step, step)
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    data = [one for one in log if one.port == "data" and one.seconds]
    total, active, signing = (np.zeros(len(ends)) for _ in range(3))
    for one in data:
        low, high = one.time - told["begun"], one.time + one.seconds - told["begun"]
        inside = np.clip(np.minimum(high, ends + step) - np.maximum(low, ends), 0, None)
        total += one.bytes * inside / max(1e-9, inside.sum())
        active += inside > 0
    for one in log:
        if one.path.endswith("/download"):
            low, high = one.time - told["begun"], one.time + one.seconds - told["begun"]
            signing += np.clip(np.minimum(high, ends + step) - np.maximum(low, ends), 0, None) > 0
    above.fill_between(ends, total / step / 1e6, step="post", alpha=0.7)
    above.axhline(rate, color="grey", linestyle=":", label=f"the link: {rate:g} MB/s, {latency:g} ms")
    for i, when in enumerate(told["times"]):
        above.axvline(when, color="tab:red", linewidth=0.8, label="" if i else "a batch is handed out")
    above.set_ylabel("MB/s")
    above.legend(loc="upper left", fontsize=8)
    below.step(ends, active, where="post", label="requests for bytes")
    below.step(ends, signing, where="post", label="requests for signed URLs")
    below.set(xlabel="seconds after iter(loader)", ylabel="in each 50 ms")
    below.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
