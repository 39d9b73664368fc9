"""Simulated sources for cutouts without labels: models, and the module that injects them."""

from .inject import inject
from .inject_sources import InjectSources
from .lens import Lens
from .point_source import PointSource
from .sersic import Sersic
from .source_model import SourceModel
from .stamps import Stamps

__all__ = ["InjectSources", "Lens", "PointSource", "Sersic", "SourceModel", "Stamps", "inject"]
