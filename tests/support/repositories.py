"""What the repositories that many tests share look like."""

__all__ = ["SMALL"]

SMALL = {
    "cells": (3, 4),
    "cell": (60, 75),
    "grid": (4, 5),
    "patches": 2,
    "bands": "gri",
    "targets": 80,
    # The first band of one patch, and another band of another patch.
    "missing": ((8, "g"), (14, "i")),
    "seed": 7,
}
"""Nothing square: not the cells, not the patches, not the tract, so that no (y, x) mix-up goes unseen."""
