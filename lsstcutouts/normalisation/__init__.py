"""Statistics of the pixels of each band, fitted once on a sample of the training split."""

from .fit import DEFAULT_SAMPLE, MAX_PIXELS, fit_statistics, sample_options, sampled
from .statistics import QUANTILES, BandStatistics, Statistics

__all__ = [
    "DEFAULT_SAMPLE",
    "MAX_PIXELS",
    "QUANTILES",
    "BandStatistics",
    "Statistics",
    "fit_statistics",
    "sample_options",
    "sampled",
]
