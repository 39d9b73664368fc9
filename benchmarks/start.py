"""Seconds of the import and to the first batch, each in fresh processes.

Run: python -m benchmarks.start [key=value of lsstcutouts benchmark]
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from lsstcutouts.app.benchmark.measured import sample_of

from .common import report, settings_of

__all__ = ["fresh", "main"]

_IMPORT = """
import sys, time
start = time.perf_counter()
import lsstcutouts
print(time.perf_counter() - start, "torch" in sys.modules)
"""

_FIRST = """
import sys, time
from lsstcutouts import CutoutDataset, CutoutLoader, CutoutPlan
plan = CutoutPlan.load(sys.argv[1])
loader = CutoutLoader(CutoutDataset(plan, batch_size=int(sys.argv[2])))
start = time.perf_counter()
batch = next(iter(loader))
print(time.perf_counter() - start, len(batch["image"]))
"""


def fresh(code: str, *arguments: str) -> list[str]:
    """Run code in a new interpreter and return the words of its last line."""
    call = [sys.executable, "-c", code, *arguments]
    told = subprocess.run(call, capture_output=True, text=True, check=True)  # noqa: S603 - code of this module
    return told.stdout.splitlines()[-1].split()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    settings, own = settings_of(__doc__, {}, arguments)
    with tempfile.TemporaryDirectory(prefix="lsstcutouts-benchmark-") as folder:
        path = Path(folder) / "plan.parquet"
        sample_of(settings, progress=True).plan.save(path)
        imports = [fresh(_IMPORT) for _ in range(settings.repeats)]
        first = [fresh(_FIRST, str(path), str(settings.batch_size)) for _ in range(settings.repeats)]
    report(
        [
            {"what": "import lsstcutouts", "s": median(float(s) for s, _ in imports), "torch": imports[0][1]},
            {"what": "first batch", "s": median(float(s) for s, _ in first), "cutouts": first[0][1]},
        ],
        load=own["load"],
    )


if __name__ == "__main__":
    main()
