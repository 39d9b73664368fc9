"""Rates of random rows and of whole partitions of exported cutouts, for the layouts that an export could have.

Run: python -m benchmarks.layouts folder=bench/layouts [rows=100000] [size=32] [bands=ugrizy] [only=parquet] > layouts.json

The same random cutouts are written in each layout into the folder, which needs room for one of them (2.5 GB) and must be on
a disk: tmpfs can't be dropped from memory. Each layout is read back bit for bit before it is measured, and removed
afterwards; the cutouts are also held in memory. `zarr` is skipped where it is not installed.

Rates are rows/s, a row being the image plane of one object in all bands, as a copy in memory. In each of repeats= rounds all
ways to read the same files take turns:

- partitions: whole partitions in order;
- rows of one partition: batches of batch_size= rows of one partition at a time, as in an epoch that is shuffled block by block;
- rows of all partitions: batches out of all partitions, as in a full permutation.

Warm: the page cache holds the files. Cold: the files are dropped from it before the pass, which ends with the partition or after
cold_seconds=. The disk of a virtual machine may still be in the memory of its host: compare cold rates with that of `read()`, which
reads the bytes of the same partition from start to end just before.
"""

from collections.abc import Sequence

from ..common import report, settings_of
from .formats import RawLayout
from .measuring import CASES, LayoutSettings, layouts_of, measure_layouts
from .page_cache import cached, drop

__all__ = ["CASES", "LayoutSettings", "RawLayout", "cached", "drop", "layouts_of", "main", "measure_layouts"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    names = LayoutSettings.__dataclass_fields__
    _, own = settings_of(__doc__, {name: field.default for name, field in names.items()}, arguments)
    load = own.pop("load")
    settings = LayoutSettings(**own)
    report(measure_layouts(settings), load=load, packages=("pyarrow", "zarr"))
