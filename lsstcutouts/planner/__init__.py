"""From a catalog and a repository to a plan: which box, which files, for every target."""

from .arguments import TRACTS, AngularSize, SizeLike, has_size, parse_bands, parse_size, parse_tract
from .build import Planner, build_plan

__all__ = [
    "TRACTS",
    "AngularSize",
    "Planner",
    "SizeLike",
    "build_plan",
    "has_size",
    "parse_bands",
    "parse_size",
    "parse_tract",
]
