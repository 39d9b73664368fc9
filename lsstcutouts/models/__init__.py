"""A small convolutional network for cutouts of any number of bands, and what can be trained with it."""

from .labels import Labels
from .networks import Classifier, LensClassifier, LensFinder, Regressor, Supervised

__all__ = ["Classifier", "Labels", "LensClassifier", "LensFinder", "Regressor", "Supervised"]
