"""An export as a process of its own: ``python -m tests.support.exporting REPO CATALOG OUTPUT``, the rest in the environment.

``PART=i/n``, ``ENGINE``, ``SCHEDULER``, ``WORKERS``; ``LARGEST_FILE``: bytes after which the system refuses to write, as on a full
disk; ``SLOW``: seconds that each partition takes longer.
"""

import json
import os
import resource
import sys
import time
from dataclasses import dataclass

from lsstcutouts import export
from lsstcutouts.bulk import exporting
from lsstcutouts.bulk.finished import PartitionResult
from lsstcutouts.bulk.partition_export import PartitionExport
from lsstcutouts.catalog.partitions import Partition

__all__ = ["SETTINGS", "SlowExport"]

SETTINGS = {"collections": "dp2", "bands": "gri", "size": (20, 24), "planes": ("image",), "threads": 1}


@dataclass(frozen=True)
class SlowExport(PartitionExport):
    """Waits before each partition, so that there is time to kill somebody."""

    def __call__(self, partition: Partition) -> PartitionResult:
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().__call__(partition)


def main() -> None:
    largest, part = int(os.environ.get("LARGEST_FILE", "0")), os.environ.get("PART", "1/1").split("/")
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if "SLOW" in os.environ:
        vars(exporting)["PartitionExport"] = SlowExport
    repo, catalog, output = sys.argv[1:]
    result = export(
        catalog,
        repo,
        output,
        engine=os.environ.get("ENGINE", "threads"),
        scheduler=os.environ.get("SCHEDULER"),
        workers=int(os.environ.get("WORKERS", "1")),
        part=(int(part[0]), int(part[1])),
        progress=lambda one: print(one.cell, one.error, flush=True),  # noqa: T201 - to the test
        **SETTINGS,
    )
    print(json.dumps(result.as_dict()), flush=True)  # noqa: T201 - to the test


if __name__ == "__main__":
    main()
