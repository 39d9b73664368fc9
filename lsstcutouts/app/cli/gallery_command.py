"""The verb ``gallery``."""

from collections.abc import Mapping

from omegaconf import DictConfig
from rich.console import Console

from ...errors import ConfigurationError
from ...plan.read_options import ReadOptions
from ..gallery.gallery import GalleryResult, gallery
from .plain import plain_settings

__all__ = ["run"]


def run(cfg: DictConfig) -> GalleryResult:
    """Draw the gallery that a configuration (``configs/gallery.yaml``) describes.

    Raises
    ------
    ConfigurationError
        If a setting is missing or invalid.
    """
    settings = plain_settings(cfg)
    quiet = bool(settings.pop("json"))
    del settings["debug"]
    if not isinstance(settings["read"], Mapping):
        raise ConfigurationError(
            f"read={settings['read']} must be a dictionary; did you mean read.tract={settings['read']}?"
        )
    read = ReadOptions(**settings.pop("read"))
    given = {name: value for name, value in settings.items() if value is not None}
    result = gallery(given.pop("catalog", None), str(given.pop("output")), read=read, progress=not quiet, **given)
    if not quiet:
        Console(soft_wrap=True, highlight=False).print(str(result), markup=False)
    return result
