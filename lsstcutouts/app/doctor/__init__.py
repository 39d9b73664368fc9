"""Seven tests of a machine, its packages and a repository, each with one line of what to do.

Nothing heavy loads with this room: a package that is missing or broken is a finding of its own check, never an
``ImportError`` of the doctor.
"""

from .check import CHECKS, Check, Machine, Settings
from .diagnosis import Diagnosis, diagnose, run

__all__ = ["CHECKS", "Check", "Diagnosis", "Machine", "Settings", "diagnose", "run"]
