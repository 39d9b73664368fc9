"""Lightning callbacks: training speed, cache statistics, checkpoints, prediction files, pictures of the worst predictions."""

from .keep import KeepLast, KeepOnException
from .monitor import CacheMonitor
from .predictions import PredictionWriter
from .training_speed import Throughput
from .worst import WorstPredictions

__all__ = ["CacheMonitor", "KeepLast", "KeepOnException", "PredictionWriter", "Throughput", "WorstPredictions"]
