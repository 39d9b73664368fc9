"""Checks of a machine, its packages and a repository, each with one line of advice.

Importing this package loads nothing that it checks: a missing or broken package is the result of a check.
"""

from .diagnosis import CHECKS, Diagnosis, Result, Settings, diagnose, run

__all__ = ["CHECKS", "Diagnosis", "Result", "Settings", "diagnose", "run"]
