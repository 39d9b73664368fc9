"""Galaxies with Sersic profiles."""

from torch import Tensor

from .draws import Draws, Numbers
from .sersic_table import LARGEST_INDEX, SMALLEST_INDEX, SersicTable
from .sky_frame import SkyFrame
from .source_model import Frequencies, SourceModel

__all__ = ["Sersic"]


class Sersic(SourceModel):
    """A galaxy with the elliptical profile ``exp(-b * (r / radius)**(1 / index))`` (Sersic 1963).

    Each parameter is a number, ``(low, high)`` for a uniform distribution, or a list of three or more numbers, one of which is
    drawn for each target.

    Parameters
    ----------
    radius
        Half-light radius along the major axis, arcsec.
    index
        Sersic index, 0.5 to 8: 0.5 is a Gaussian, 1 an exponential disc, 4 a de Vaucouleurs profile.
    axis_ratio
        Minor over major axis, 0.05 to 1.
    angle
        Position angle of the major axis, degrees from north through east.
    """

    def __init__(
        self,
        radius: Numbers = (0.2, 1.0),
        index: Numbers = 1.0,
        axis_ratio: Numbers = (0.3, 1.0),
        angle: Numbers = (0.0, 180.0),
    ) -> None:
        indices = Draws("index", index, SMALLEST_INDEX, LARGEST_INDEX)
        super().__init__(
            radius=Draws("radius", radius, 0),
            index=indices,
            axis_ratio=Draws("axis_ratio", axis_ratio, 0.05, 1),
            angle=Draws("angle", angle),
        )
        self.radius, self.index, self.axis_ratio, self.angle = radius, index, axis_ratio, angle
        self.profile = SersicTable(indices.low, indices.high)

    def transform(self, parameters: dict[str, Tensor], frame: SkyFrame, frequencies: Frequencies) -> Tensor:
        """Return the transform of the profile; see `SourceModel.transform`."""
        return self.profile.transform(parameters, frame, frequencies)
