"""Fourier transforms of Sersic profiles."""

import numpy as np
import pytest
import torch

from lsstcutouts.transforms.injection.sersic_table import SersicTable, _looked_up, rate

Q = torch.cat([torch.linspace(0, 10, 200), torch.logspace(1, 3, 100)])


def looked_up(index: float, table: SersicTable) -> torch.Tensor:
    return _looked_up(table._rows_of(torch.tensor([index])), Q.unsqueeze(0))[0]


def test_half_the_flux_is_within_the_half_light_radius() -> None:
    n = torch.linspace(0.5, 8, 40, dtype=torch.float64)
    b = rate(n)
    torch.testing.assert_close(torch.special.gammainc(2 * n, b), torch.full_like(n, 0.5), rtol=1e-12, atol=0)


def test_the_gaussian_and_the_exponential_are_exact() -> None:
    gaussian = torch.exp(-(Q**2) / (4 * np.log(2)))
    exponential = (1 + (Q / rate(torch.tensor(1.0))) ** 2) ** -1.5
    torch.testing.assert_close(looked_up(0.5, SersicTable(0.5, 0.5)), gaussian, atol=1e-5, rtol=0)
    torch.testing.assert_close(looked_up(1.0, SersicTable(1.0, 1.0)), exponential, atol=1e-5, rtol=0)


@pytest.mark.parametrize("index", [0.55, 0.8, 1.5, 2.5, 4.0])
def test_other_indices_equal_a_direct_integral(index: float) -> None:
    b, q = float(rate(torch.tensor(index, dtype=torch.float64))), Q[:200:20].double()
    # r = t**4, so that the cusp of large indices is resolved.
    t = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000 * (45 / b) ** (index / 4)
    r = t**4
    weight = torch.exp(-b * r ** (1 / index)) * r * t**3
    wanted = torch.stack([(weight * torch.special.bessel_j0(one * r)).sum() for one in q]) / weight.sum()
    found = _looked_up(SersicTable(index, index).rows, q.float().unsqueeze(0))[0]
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=0)


def test_indices_between_rows_are_interpolated() -> None:
    table = SersicTable(0.5, 4.0)
    for index, tolerance in ((0.53, 5e-5), (0.66, 2e-5), (1.04, 1e-5), (2.77, 1e-5), (3.98, 1e-5)):
        torch.testing.assert_close(
            looked_up(index, table), looked_up(index, SersicTable(index, index)), atol=tolerance, rtol=0
        )
