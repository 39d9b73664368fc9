"""Shifts and rotations: against numpy and astropy, plane by plane."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.read.export import batch_wcs
from lsstcutouts.transforms import AddNoise, Compose, RandomD4, RandomRotation, RandomShift
from lsstcutouts.transforms.resampling import ScaleSampler, resampled

from ..support.adapting import gaussian
from ..support.augmenting import PLANES, Rotation, Shift, full_batch, same
from ..support.examples import examples

KERNELS = ("bilinear", "cubic", "quintic")


def kernel_1d(kernel: str, fraction: float) -> np.ndarray:
    """Return the weights of 8 pixels, the fourth of which lies just before the place; written anew."""
    at = np.abs(fraction - np.arange(-3, 5))
    if kernel == "bilinear":
        return np.maximum(1 - at, 0)
    if kernel == "cubic":
        near, far = 1.5 * at**3 - 2.5 * at**2 + 1, -0.5 * at**3 + 2.5 * at**2 - 4 * at + 2
        return np.where(at < 1, near, np.where(at < 2, far, 0))
    near, far = np.polyval([-55 / 12, 23 / 2, -95 / 12, 0, 0, 1], at), (at - 1) * (at - 2)
    far = far * np.polyval([55 / 24, -83 / 8, 29 / 2, -23 / 4], at)
    last = (at - 2) * (at - 3) ** 2 * np.polyval([-11 / 24, 25 / 12, -9 / 4], at)
    return np.select([at <= 1, at <= 2, at < 3], [near, far, last])


@pytest.mark.parametrize(("kernel", "degree"), [("bilinear", 1), ("cubic", 2), ("quintic", 4)])
def test_kernels_are_exact_for_polynomials(kernel: str, degree: int) -> None:
    batch = full_batch(1, 1, y=21, x=21)
    at = torch.linspace(-1, 1, 21)
    batch["image"] = ((at**degree).reshape(-1, 1) * (1 - at**degree))[None, None]
    moved = Shift([(0.3, -0.85)], (13, 13), subpixel=True, kernel=kernel)(batch)["image"]
    y, x = at[4:17] - 0.03, at[4:17] + 0.085
    torch.testing.assert_close(moved[0, 0], (y**degree).reshape(-1, 1) * (1 - x**degree), atol=2e-6, rtol=0)


def sums(batch: dict, n: int, y: float, x: float, kernel: str) -> dict[str, np.ndarray]:
    """Return what each plane of target ``n`` is at a place, pixel by pixel: the oracle of `resampled`."""
    planes = {name: batch[name][n].double().numpy() for name in ("image", "variance", "ivar")}
    planes |= {name: batch[name][n].numpy() for name in ("mask", "valid")}
    height, width = planes["image"].shape[1:]
    (iy, wy), (ix, wx) = ((int(np.floor(v)), kernel_1d(kernel, v - np.floor(v))) for v in (y, x))
    found = {name: np.zeros(len(plane), plane.dtype) for name, plane in planes.items()}
    found["valid"][:] = True
    unknown, total = np.zeros(len(found["image"]), bool), np.zeros(len(found["image"]))
    for j, b in enumerate(wy):
        for i, a in enumerate(wx):
            yy, xx, w = iy + j - 3, ix + i - 3, a * b
            inside, counts = 0 <= yy < height and 0 <= xx < width, min(abs(a), abs(b)) >= 1e-4
            if counts and not inside:
                return {name: np.zeros_like(v) for name, v in found.items()}
            if not inside:
                continue
            found["image"] += w * planes["image"][:, yy, xx]
            found["variance"] += w**2 * planes["variance"][:, yy, xx]
            ivar = planes["ivar"][:, yy, xx]
            total += np.where(ivar > 0, w**2 / np.where(ivar > 0, ivar, 1), 0)
            if counts:
                found["mask"] |= planes["mask"][:, yy, xx]
                found["valid"] &= planes["valid"][:, yy, xx]
                unknown |= ivar == 0
    found["ivar"] = np.where(unknown, 0, 1 / np.where(unknown, 1, total))
    return found


def check_pixel(batch: dict, moved: dict, n: int, new: tuple[int, int], old: tuple[float, float], kernel: str) -> None:
    for name, value in sums(batch, n, *old, kernel).items():
        got = moved[name][n, :, new[0], new[1]].numpy()
        np.testing.assert_allclose(
            got, value, rtol=1e-3, atol=2e-3 if name in {"image", "variance"} else 1e-5, err_msg=name
        )


# Shifts


@examples(15)
@given(by=st.tuples(st.integers(-4, 4), st.integers(-4, 4)), cut=st.booleans())
def test_whole_shifts_are_slices(by: tuple[int, int], cut: bool) -> None:
    batch = full_batch(2)
    moved = Shift([by, (0, 0)], (13, 18) if cut else None)(batch) if any(by) else batch
    if not any(by):
        return
    for name in PLANES:
        wide = np.pad(batch[name][0].numpy(), ((0, 0), (4, 4), (4, 4)))
        y0, x0 = (4, 4) if cut else (0, 0)
        y, x = 4 + y0 - by[0], 4 + x0 - by[1]
        height, width = (13, 18) if cut else (21, 26)
        np.testing.assert_array_equal(moved[name][0].numpy(), wide[:, y : y + height, x : x + width], err_msg=name)
    start = torch.tensor([4 - by[0], 4 - by[1]]) if cut else -torch.tensor(by)
    assert torch.equal(moved["yx0"][0], batch["yx0"][0] + start)
    torch.testing.assert_close(moved["offset"][0], batch["offset"][0] + torch.tensor(by))
    assert torch.equal(moved["psf"], batch["psf"])


def test_the_middle_of_a_cut_of_the_other_parity() -> None:
    """From even to odd the middle moves by half a pixel, and the offset says so."""
    batch = full_batch(1, y=10, x=11)
    moved = RandomShift(0, (7, 8))(batch)
    assert torch.equal(moved["image"], batch["image"][:, :, 1:8, 1:9])
    torch.testing.assert_close(moved["offset"] - batch["offset"], torch.tensor([[0.5, 0.5]]))


@examples(6)
@given(
    by=st.tuples(st.floats(-3, 3, width=16), st.floats(-3, 3, width=16)),
    kernel=st.sampled_from(KERNELS),
    cut=st.booleans(),
)
def test_shifts_between_pixels_are_weighted_sums(by: tuple[float, float], kernel: str, cut: bool) -> None:
    batch = full_batch(2)
    moved = Shift([by, (3.0, -3.0)], (9, 12) if cut else None, subpixel=True, kernel=kernel)(batch)
    base = (6, 7) if cut else (0, 0)
    height, width = moved["image"].shape[-2:]
    for y, x in ((0, 0), (height - 1, width - 1), (4, 7), (8, 3)):
        check_pixel(batch, moved, 0, (y, x), (base[0] + y - by[0], base[1] + x - by[1]), kernel)
        check_pixel(batch, moved, 1, (y, x), (base[0] + y - 3, base[1] + x + 3), kernel)
    torch.testing.assert_close(moved["offset"][0], batch["offset"][0] + torch.tensor(by), atol=1e-5, rtol=0)


def spot(y: float, x: float, *, count: int = 1, shape: tuple[int, int] = (41, 46), sigma: float = 1.9) -> dict:
    """Return a batch of Gaussian sources at one place, and nothing else."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
    batch = full_batch(count, 1, *shape)
    batch["image"] = torch.from_numpy(image).float().expand(count, 1, *shape).clone()
    batch["offset"] = torch.tensor([[y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2]]).float().repeat(count, 1)
    return batch


def centroid(image: torch.Tensor) -> tuple[float, float]:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    values = image.double().numpy()
    return (values * y).sum() / values.sum(), (values * x).sum() / values.sum()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_shift_keeps_flux_and_moves_the_centroid(kernel: str) -> None:
    steps = [(0.3, -1.7), (-2.45, 0.0), (1.5, 2.25), (0.0, 0.5)]
    batch = spot(20.2, 22.6, count=4)
    moved = Shift(steps, subpixel=True, kernel=kernel)(batch)
    for n, (dy, dx) in enumerate(steps):
        image = moved["image"][n, 0]
        assert image.double().sum() == pytest.approx(float(batch["image"][n].double().sum()), rel=1e-4)
        y, x = centroid(image)
        assert (y, x) == (pytest.approx(20.2 + dy, abs=2e-3), pytest.approx(22.6 + dx, abs=2e-3))
        offset = moved["offset"][n].tolist()
        assert (y - 20, x - 22.5) == (pytest.approx(offset[0], abs=2e-3), pytest.approx(offset[1], abs=2e-3))


def test_wide_kernels_keep_the_noise_best() -> None:
    """Variance of white noise after a shift by half a pixel, which is the worst; as the documentation says."""
    batch = full_batch(32, 1, 40, 40)
    batch["image"] = torch.randn(32, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    batch["variance"] = torch.ones_like(batch["image"])
    for kernel, left in (("bilinear", 0.25), ("cubic", 0.41), ("quintic", 0.50)):
        moved = Shift([(0.5, 0.5)] * 32, (30, 30), subpixel=True, kernel=kernel)(batch)
        assert float(moved["variance"].mean()) == pytest.approx(left, abs=0.01)
        assert float(moved["image"].var()) == pytest.approx(left, rel=0.06)


# Rotations


@pytest.mark.parametrize(("degrees", "turns"), [(90.0, -1), (-90.0, 1), (180.0, 2), (0.0, 0)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_quarter_turns_are_numpys(degrees: float, turns: int, kernel: str) -> None:
    """Rows go upwards here, downwards to numpy: its turns are the other way round."""
    batch = full_batch(2, y=21, x=21)
    batch["offset"].zero_()
    turned = Rotation([degrees] * 2, kernel=kernel)(batch)
    for name in (*PLANES, "psf"):
        wanted = np.rot90(batch[name].numpy(), turns, (2, 3))
        atol = 0.01 if name in {"image", "variance"} else 1e-4
        np.testing.assert_allclose(turned[name].numpy(), wanted, rtol=1e-3, atol=atol, err_msg=name)


@examples(6)
@given(
    degrees=st.floats(-180, 180, width=32),
    kernel=st.sampled_from(KERNELS),
    size=st.sampled_from([None, (9, 12), (10, 9)]),
)
def test_rotations_are_weighted_sums(degrees: float, kernel: str, size) -> None:
    batch = full_batch(2)
    turned = Rotation([degrees, 37.0], size, kernel=kernel)(batch)
    height, width = turned["image"].shape[-2:]
    assert torch.equal(turned["offset"], batch["offset"])
    for n, angle in ((0, degrees), (1, 37.0)):
        dy, dx = batch["offset"][n].double().tolist()
        cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        for new in ((0, 0), (height - 1, width - 2), (4, 7), (8, 3)):
            y, x = new[0] - (height - 1) / 2 - dy, new[1] - (width - 1) / 2 - dx
            old = 10 + dy + cosine * y - sine * x, 12.5 + dx + cosine * x + sine * y
            if all(abs(v - round(v)) > 1e-3 for v in old):  # on a whole pixel rounding decides which contribute
                check_pixel(batch, turned, n, new, old, kernel)


def test_the_least_size_leaves_no_empty_corner() -> None:
    for size, kernel, largest in (((12, 12), "cubic", 180), ((9, 14), "bilinear", 180), ((9, 14), "quintic", 20)):
        module = RandomRotation(size, kernel=kernel, max_angle=largest)
        batch = full_batch(64, 1, *module._smallest_input(size))
        batch["offset"] = batch["offset"].sign() / 2
        batch["valid"][:] = True
        assert module(batch)["valid"].all()
        del batch["valid"]
        module(batch)


def test_the_psf_turns_about_its_middle() -> None:
    batch = full_batch(4, psf=25)
    y, x = np.mgrid[:25, :25]
    batch["psf"][:] = torch.from_numpy(np.exp(-((y - 12) ** 2 + (x - 15) ** 2) / 6)).float()
    degrees = [30.0, 135.0, -60.0, 5.0]
    for n, angle in enumerate(degrees):
        psf = Rotation(degrees)(batch)["psf"][n, 0]
        assert psf.shape == (25, 25)
        assert psf.sum() == pytest.approx(float(batch["psf"][n, 0].sum()), rel=2e-3)
        y, x = centroid(psf)
        assert y == pytest.approx(12 + 3 * np.sin(np.deg2rad(angle)), abs=0.01)
        assert x == pytest.approx(12 + 3 * np.cos(np.deg2rad(angle)), abs=0.01)


# Places on the sky


@pytest.mark.parametrize(
    "module",
    [
        RandomShift(4),
        RandomShift(3.7, (25, 31), subpixel=True),
        RandomRotation(),
        RandomRotation((22, 27), max_angle=80),
        Compose([RandomShift(2), RandomRotation((24, 24)), RandomD4(), RandomShift(1.5, subpixel=True), AddNoise()]),
    ],
    ids=["shift", "cut", "rotation", "turned and cut", "all"],
)
def test_a_source_keeps_its_place_on_the_sky(module) -> None:
    """The centroid of a source, through astropy's WCS, before and after; ``offset`` says the same place."""
    batch = spot(21.3, 21.9, count=12, sigma=1.7)
    for name in ("valid", "mask"):
        batch[name][:] = name == "valid"
    moved = module(batch)
    for n in range(12):
        before, after = (batch_wcs({**b, "image": b["image"].numpy()}, n) for b in (batch, moved))
        wanted = before.pixel_to_world_values(21.9, 21.3)
        image = (moved["image"] if "Compose" not in repr(module) else without_noise(module, batch)["image"])[n, 0]
        y, x = centroid(image.clamp(min=0))
        back = after.world_to_pixel_values(*wanted)
        assert (x, y) == (pytest.approx(float(back[0]), abs=0.02), pytest.approx(float(back[1]), abs=0.02))
        middle = [(side - 1) / 2 for side in image.shape]
        offset = moved["offset"][n].tolist()
        np.testing.assert_allclose([middle[1] + offset[1], middle[0] + offset[0]], back, atol=2e-4)


def without_noise(module, batch: dict) -> dict:
    return Compose(list(module)[:-1])(batch)


def test_nan_stays_nan_within_reach_of_the_kernel() -> None:
    batch = full_batch(1, 1)
    batch["image"][0, 0, 10, 12] = float("nan")
    moved = Shift([(0.5, 0.5)], subpixel=True, kernel="cubic")(batch)
    assert moved["image"].isnan().sum() == 16
    turned = Rotation([20.0], kernel="bilinear")(batch)
    assert 1 <= turned["image"].isnan().sum() <= 9


def test_turning_back_gives_the_place_back() -> None:
    batch = full_batch(2)
    there = Rotation([33.0, -70.0])(batch)
    back = Rotation([-33.0, 70.0])(there)
    same({"wcs": back["wcs"]}, {"wcs": batch["wcs"]}, atol=1e-5)


# Pixels of another size


def scaled(plane: torch.Tensor, scale: float, new: tuple[int, int], kernel: str) -> torch.Tensor:
    return ScaleSampler(torch.tensor([scale]), tuple(plane.shape[-2:]), new, kernel).weighted(plane)


@pytest.mark.parametrize("kernel", KERNELS)
def test_pixels_that_cover_whole_pixels_are_their_sums(kernel: str) -> None:
    plane = torch.rand(2, 3, 24, 30)
    torch.testing.assert_close(scaled(plane, 1.0, (24, 30), kernel), plane, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scaled(plane, 1.0, (20, 22), kernel), plane[:, :, 2:22, 4:26], rtol=1e-6, atol=1e-6)
    for n in (2, 3):
        wanted = n * n * torch.nn.functional.avg_pool2d(plane, n)
        torch.testing.assert_close(scaled(plane, float(n), (24 // n, 30 // n), kernel), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.55, 0.84, 1.31, 2.7])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_flux_of_a_source_is_conserved(kernel: str, scale: float) -> None:
    """Exactly, wherever the source is; and each pixel has the integral over its area, here of a Gaussian."""
    at, sigma, new = (2.3, -1.6), 1.6, int(90 / scale)
    got = scaled(torch.from_numpy(gaussian((90, 90), sigma, at))[None, None], scale, (new, new), kernel)[0, 0]
    assert abs(got.sum().item() - 1) < 1e-9
    wanted = gaussian((new, new), sigma, at, scale)
    limit = {"bilinear": 0.15, "cubic": 0.03, "quintic": 0.011}[kernel]
    assert np.abs(got.numpy() - wanted).max() < limit * wanted.max()
    spike = torch.zeros(1, 1, 90, 90)
    spike[0, 0, 31, 47] = 5.0
    assert scaled(spike, scale, (new, new), kernel).sum().item() == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_even_background_stays_even_up_to_the_edge(kernel: str) -> None:
    got = scaled(torch.full((1, 1, 20, 33), 7.0), 0.5, (40, 66), kernel)
    torch.testing.assert_close(got, torch.full((1, 1, 40, 66), 7.0 / 4), rtol=1e-5, atol=0)


def test_evenly_spread_flux_is_the_area_of_overlap() -> None:
    """The oracle adds the overlap of every pair of pixels."""
    plane, scale, new = torch.rand(1, 1, 9, 12, dtype=torch.float64), 1.7, (5, 6)

    def overlaps(old: int, count: int) -> np.ndarray:
        start = old / 2 + scale * (np.arange(count) - count / 2)
        ends = np.minimum(start[:, None] + scale, np.arange(old) + 1)
        return np.maximum(0, ends - np.maximum(start[:, None], np.arange(old)))

    wanted = overlaps(9, 5) @ plane[0, 0].numpy() @ overlaps(12, 6).T
    np.testing.assert_allclose(scaled(plane, scale, new, "bilinear")[0, 0], wanted, atol=1e-6)


def test_each_target_has_its_own_pixels_and_what_is_outside_is_not_valid() -> None:
    batch = full_batch(2)
    batch["valid"][:] = True
    both = resampled(batch, ScaleSampler(torch.tensor([0.8, 2.0]), (21, 26), (16, 16), "quintic"))
    for i, scale in enumerate((0.8, 2.0)):
        one = {name: v[i : i + 1] for name, v in batch.items()}
        alone = resampled(one, ScaleSampler(torch.tensor([scale]), (21, 26), (16, 16), "quintic"))
        same({name: v[i : i + 1] for name, v in both.items()}, alone, atol=1e-4)
    at = (21 / 2 + 2.0 * (np.arange(16) - 7.5), 26 / 2 + 2.0 * (np.arange(16) - 7.5))
    inside = [(v >= 0) & (v <= size) for v, size in zip(at, (21, 26), strict=True)]
    np.testing.assert_array_equal(both["valid"][1, 0].numpy(), inside[0][:, None] & inside[1])
    assert not both["image"][1][~both["valid"][1]].any()
    assert both["valid"][0].all()


def test_planes_of_larger_pixels() -> None:
    """Where the new pixels are 2 x 2 old ones: sums of variances, bits of any, valid if all are."""
    batch = full_batch(3, y=20, x=26)
    got = resampled(batch, ScaleSampler(torch.tensor([2.0]), (20, 26), (10, 13), "quintic"))
    blocks = {name: batch[name].reshape(3, 3, 10, 2, 13, 2) for name in PLANES}
    torch.testing.assert_close(got["variance"], blocks["variance"].sum((3, 5)))
    torch.testing.assert_close(got["valid"], blocks["valid"].all(5).all(3))
    torch.testing.assert_close(got["mask"], blocks["mask"].amax((3, 5)))
    unknown = (blocks["ivar"] == 0).any(5).any(3)
    wanted = torch.where(unknown, 0.0, 1 / (1 / blocks["ivar"]).sum((3, 5)))
    torch.testing.assert_close(got["ivar"], wanted)
    high = torch.full((1, 1, 4, 4), -(2**31), dtype=torch.int32)
    assert (ScaleSampler(torch.tensor([2.0]), (4, 4), (2, 2), "cubic").union(high) == -(2**31)).all()
