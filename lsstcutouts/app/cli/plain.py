"""Conversion of hydra configurations to plain values."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

__all__ = ["plain_settings"]


def plain_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as dictionaries, lists and plain values, with interpolations resolved."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    return dict(settings)
