"""Augmentations, normalisations and adapters to foundation models for whole batches, as `torch.nn.Module` objects on any device.

Each takes the batch dictionary and returns a new one. All planes of a target change together.
"""

from .adapter import Adapter
from .aion import ToAion
from .astropt import ToAstroPT
from .augmentation import Augmentation
from .compose import Compose
from .d4 import RandomD4
from .dropout import BandDropout
from .hashing import random_integers, random_keys, random_normal, random_uniform
from .injection import InjectSources, Lens, PointSource, Sersic, SourceModel, Stamps, inject
from .match_psf import MatchPsf
from .noise import AddNoise
from .normalise import Lupton, NoiseAsinh, Normalise, ZScore
from .overwriting import Overwriting
from .rotation import RandomRotation
from .shift import RandomShift
from .stretch import AsinhStretch
from .views import Views
from .zoobot import ToZoobot

__all__ = [
    "Adapter",
    "AddNoise",
    "AsinhStretch",
    "Augmentation",
    "BandDropout",
    "Compose",
    "InjectSources",
    "Lens",
    "Lupton",
    "MatchPsf",
    "NoiseAsinh",
    "Normalise",
    "Overwriting",
    "PointSource",
    "RandomD4",
    "RandomRotation",
    "RandomShift",
    "Sersic",
    "SourceModel",
    "Stamps",
    "ToAion",
    "ToAstroPT",
    "ToZoobot",
    "Views",
    "ZScore",
    "inject",
    "random_integers",
    "random_keys",
    "random_normal",
    "random_uniform",
]
