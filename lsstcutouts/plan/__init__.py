"""What to read for each target: plain arrays, made once, saved as Parquet, carried by workers.

No Butler here: a worker that unpickles a plan imports numpy and nothing heavier.
"""

from .cutouts import CutoutPlan
from .tables import FileTable, PatchTable, PlanSummary, Reason, Rejected, SharedReading, ragged

__all__ = ["CutoutPlan", "FileTable", "PatchTable", "PlanSummary", "Reason", "Rejected", "SharedReading", "ragged"]
