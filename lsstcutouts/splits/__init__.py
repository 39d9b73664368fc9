"""Which targets belong to training, validation, test and prediction, and whether these share pixels."""

from .deal import Dealt, deal, deal_plans, leaks_of
from .leaks import Boxes, Leak, leak_between, sharing
from .settings import DEFAULT_HEALPIX_ORDER, SPLITS, Leaks, SplitBy, Splits, SplitSettings

__all__ = [
    "DEFAULT_HEALPIX_ORDER",
    "SPLITS",
    "Boxes",
    "Dealt",
    "Leak",
    "Leaks",
    "SplitBy",
    "SplitSettings",
    "Splits",
    "deal",
    "deal_plans",
    "leak_between",
    "leaks_of",
    "sharing",
]
