"""Which targets belong to training, validation, test and prediction."""

from .dealing import SPLITS, checked_fractions, dealt

__all__ = ["SPLITS", "checked_fractions", "dealt"]
