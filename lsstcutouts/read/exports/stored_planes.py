"""What of an export a reader needs, and whether the export has it."""

from collections.abc import Sequence

from ...errors import ConfigurationError
from ..masks import spellings
from ..options import ReaderOptions
from .export_description import ExportDescription

__all__ = ["check_stored", "needed_planes", "stored_bits"]


def needed_planes(description: ExportDescription, options: ReaderOptions) -> tuple[str, ...]:
    """Return the stored planes that options need.

    The inverse variance is that of the export if it is stored, otherwise it is computed from variance and validity.
    """
    asked, checks, noise = set(options.planes), options.quality, options.fill == "noise"
    needed = asked - {"ivar", "mask"}
    if "ivar" in asked:
        needed |= {"ivar"} if "ivar" in description.planes else {"variance", "valid"}
    if noise or checks is not None:
        needed |= {"image", "valid"}
    if noise or (checks is not None and checks.positive_variance):
        needed |= {"variance"}
    if options.mask_bits[:-1]:
        needed |= {"mask"}
    return tuple(plane for plane in ("image", "variance", "ivar", "mask", "valid", "psf") if plane in needed)


def stored_bits(description: ExportDescription, names: Sequence[str]) -> tuple[int, ...]:
    """Return the stored bit of each mask plane; -1 for one that the export does not have."""
    places = {name: bit for bit, name in enumerate(description.mask_planes)}
    return tuple(next((places[one] for one in spellings(name) if one in places), -1) for name in names)


def check_stored(folder: str, description: ExportDescription, options: ReaderOptions) -> None:
    """Raise `ConfigurationError` if options need what an export does not have: the message says what it has."""
    where = f"the export {folder}"
    for plane in needed_planes(description, options):
        if plane not in description.planes:
            asked = _reason(plane, options)
            raise ConfigurationError(
                f"{where} has no plane {plane!r}, which {asked} needs; it has {', '.join(description.planes)}. Leave {asked} out, or "
                f"export again with planes= that has {plane!r}"
            )
    names = options.mask_bits[:-1]
    lacking = [name for name, bit in zip(names, stored_bits(description, names), strict=True) if bit < 0]
    if lacking:
        raise ConfigurationError(
            f"{where} has no mask plane {lacking[0]!r}; it has {', '.join(description.mask_planes) or 'none'}. Choose some of "
            "them, or export again with more mask_planes"
        )
    if options.flux_unit != description.flux_unit:
        raise ConfigurationError(
            f"flux_unit={options.flux_unit!r}: {where} has pixels with flux_unit={description.flux_unit!r}; give that, or export again"
        )
    if "psf" in options.planes and options.normalise_psf != description.normalise_psf:
        raise ConfigurationError(
            f"normalise_psf={options.normalise_psf}: {where} has kernels with normalise_psf={description.normalise_psf}; give that, or "
            "export again"
        )
    wanted = 0.0 if options.fill == "noise" else float(options.fill)
    if "image" in needed_planes(description, options) and repr(wanted) != repr(description.fill):
        raise ConfigurationError(
            f"fill={options.fill}: {where} has images with fill={description.fill:g}; give that"
            + (", or fill='noise'" if description.fill == 0 else "")
            + ", or export again"
        )


def _reason(plane: str, options: ReaderOptions) -> str:
    """Return the setting that needs a plane."""
    if plane in options.planes:
        return f"planes={list(options.planes)!r}"
    if "ivar" in options.planes and plane in {"variance", "valid"}:
        return "the plane 'ivar'"
    return "fill='noise'" if options.fill == "noise" else "the quality policy"
