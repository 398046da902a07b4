"""The cave's shadows against exact answers, other ways to cast them, and laws they must keep."""

from collections.abc import Iterator
from itertools import product
from math import asin, pi, sqrt, tan

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation
from torch import Tensor

from allegory.data import cave
from allegory.data.cave import KINDS, Shadows, cast, draw

UPRIGHT = (1.0, 0.0, 0.0, 0.0)
CONVEX = [kind for kind in KINDS if kind != "ring"]


@pytest.fixture(scope="module")
def shadows() -> Shadows:
    return draw(4000, seed=7)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def centres(resolution: int) -> np.ndarray:
    """The pixels' centres on the wall, (R, R, 3)."""
    steps = (np.arange(resolution) + 0.5) * 2 / resolution - 1
    u, v = np.meshgrid(steps, -steps)
    return np.stack((u, v, np.zeros_like(u)), axis=-1)


def one(
    kind: str,
    position: tuple[float, float, float],
    size: float,
    light: tuple[float, float, float],
    rotation: tuple[float, float, float, float] = UPRIGHT,
    resolution: int = 28,
) -> Tensor:
    """One shadow, (R, R)."""
    turn, place, radius, fire = (torch.tensor([x], dtype=torch.float64) for x in (rotation, position, size, light))
    return cast(torch.tensor([KINDS.index(kind)]), turn, place, radius, fire, resolution)[0, 0]


def some(shadows: Shadows, kind: str, count: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Image, rotation (3, 3), position, size and light of the first few shadows of a kind."""
    chosen = (shadows.kind == KINDS.index(kind)).nonzero()[:count, 0]
    for i in chosen.tolist():
        image, _, (w, x, y, z), *rest = (factor[i].double().numpy() for factor in shadows)
        yield image[0] > 0, Rotation.from_quat((x, y, z, w)).as_matrix(), *rest


def surface(kind: str) -> np.ndarray:
    """Points whose hull is the solid of size 1: its corners, or 2000 points of a round edge."""
    angles = np.linspace(0, 2 * pi, 2000)
    circle = np.stack((np.cos(angles), np.sin(angles), 0 * angles), axis=1)
    cube = np.array(list(product((-1, 1), repeat=3)))
    up = np.array([0, 0, 1])
    return {
        "cube": cube / sqrt(3),
        "brick": cube * (3, 2, 1) / sqrt(14),
        "tetrahedron": np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) / sqrt(3),
        "octahedron": np.concatenate((np.eye(3), -np.eye(3))),
        "cylinder": np.concatenate((0.6 * circle + 0.8 * up, 0.6 * circle - 0.8 * up)),
        "cone": np.concatenate((0.8 * circle - 0.6 * up, up[None])),
    }[kind]


@pytest.mark.parametrize("kind", [kind for kind in CONVEX if kind != "ball"])
def test_a_convex_shadow_is_the_hull_of_its_projected_points(shadows: Shadows, kind: str) -> None:
    pixels = centres(28)[..., :2]
    for image, turn, position, size, light in some(shadows, kind, 50):
        points = position + size * surface(kind) @ turn.T
        t = light[2] / (light[2] - points[:, 2:])
        hull = ConvexHull((light + t * (points - light))[:, :2])
        outside = (pixels @ hull.equations[:, :2].T + hull.equations[:, 2]).max(-1)
        sure = abs(outside) > 1e-5
        assert sure.mean() > 0.99
        assert (image == (outside < 0))[sure].all()


def test_a_ball_darkens_the_rays_that_come_near_its_centre(shadows: Shadows) -> None:
    for image, _, position, size, light in some(shadows, "ball", 100):
        rays = centres(28) - light
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        distance = np.linalg.norm(np.cross(position - light, rays), axis=-1)
        sure = abs(distance - size) > 1e-6
        assert sure.mean() > 0.99
        assert (image == (distance < size))[sure].all()


def test_a_ring_darkens_the_rays_that_pass_through_the_torus(shadows: Shadows) -> None:
    for image, turn, position, size, light in some(shadows, "ring", 25):
        o, d = (light - position) @ turn / size, (centres(28) - light) @ turn / size
        d /= np.linalg.norm(d, axis=-1, keepdims=True)
        # 1000 steps along the ray, through the ball around the ring.
        t = -(d @ o)[..., None] + np.linspace(-1, 1, 1000)
        x, y, z = (o[i] + t * d[..., i : i + 1] for i in range(3))
        outside = (np.hypot(np.hypot(x, y) - 0.7, z) - 0.3).min(-1)
        # The 64 balls miss the torus by 0.003, the steps its nearest point by half a step.
        sure = (outside < -0.004) | (outside > 0.001)
        assert sure.mean() > 0.98
        assert (image == (outside < 0))[sure].all()


@pytest.mark.parametrize(
    ("kind", "size", "radius"),
    [
        ("ball", 0.5, 3 * tan(asin(0.5 / 2))),
        ("cylinder", 0.5, 0.6 * 0.5 * 3 / (2 - 0.8 * 0.5)),
        ("cone", 0.5, 0.8 * 0.5 * 3 / (2 + 0.6 * 0.5)),
    ],
)
def test_a_round_solid_before_the_light_throws_a_disc(kind: str, size: float, radius: float) -> None:
    image = one(kind, (0, 0, 1), size, (0, 0, 3), resolution=101).numpy()
    outside = np.linalg.norm(centres(101), axis=-1) - radius
    assert (image == (outside < 0))[abs(outside) > 1e-9].all()


def test_several_solids_throw_one_shadow() -> None:
    # Sizes at which each solid's disc has the radius 0.5 on the wall.
    ball = 2 * np.sin(np.arctan(0.5 / 3))
    cylinder = 1 / (0.6 * 3 + 0.5 * 0.8)
    cone = 1 / (0.8 * 3 - 0.5 * 0.6)
    images = [
        one(kind, (0, 0, 1), size, (0, 0, 3)) for kind, size in (("ball", ball), ("cylinder", cylinder), ("cone", cone))
    ]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_right_is_positive_u_and_up_is_positive_v() -> None:
    rows, columns = one("ball", (0.4, 0.2, 1), 0.1, (0, 0, 3), resolution=100).nonzero().T
    # A shadow's centre is a little farther out than the shadow of the centre, (0.6, 0.3).
    assert columns.double().mean() == pytest.approx(79.5, abs=1)
    assert rows.double().mean() == pytest.approx(34.5, abs=1)


@pytest.mark.parametrize("kind", ["ball", "cube", "octahedron", "ring"])
def test_a_symmetric_scene_throws_a_symmetric_shadow(kind: str) -> None:
    image = one(kind, (0, 0, 1), 0.4, (0, 0, 3), resolution=33)
    for mirrored in (image.flip(0), image.flip(1), image.T):
        assert torch.equal(image, mirrored)


def test_a_quarter_turn_of_the_scene_turns_the_image(shadows: Shadows) -> None:
    kind, rotation, position, size, light = shadows[1:]
    w, x, y, z = rotation.unbind(1)
    turned = torch.stack((w - z, x - y, x + y, w + z), dim=1).double() / sqrt(2)
    place, fire = (torch.stack((-p[:, 1], p[:, 0], p[:, 2]), dim=1) for p in (position, light))
    images = cast(kind, turned, place, size, fire)
    # The float32 quaternions are unit up to 1e-7, and an edge may cross a pixel's centre.
    assert (images != shadows.images.rot90(1, (2, 3))).double().mean() < 1e-5


def test_a_smaller_solid_nearer_the_light_throws_the_same_shadow(shadows: Shadows) -> None:
    kind, rotation, position, size, light = shadows[1:]
    light = light.double()
    nearer = light + 0.7 * (position - light)
    images = cast(kind, rotation, nearer, 0.7 * size.double(), light)
    assert (images != shadows.images).double().mean() < 1e-5


def test_resolutions_agree_at_the_pixels_they_share(shadows: Shadows) -> None:
    first = Shadows(*(factor[:1000] for factor in shadows))
    threefold = cast(*first[1:], resolution=84)
    assert torch.equal(threefold[..., 1::3, 1::3], first.images)


def test_twice_the_resolution_averages_to_the_same_image(shadows: Shadows) -> None:
    doubled = torch.nn.functional.avg_pool2d(cast(*shadows[1:], resolution=56), 2)
    assert (doubled - shadows.images).abs().mean() < 0.02
    assert (doubled.mean() - shadows.images.mean()).abs() < 1e-3
    # What lies between four dark points of a convex shadow is dark.
    convex = shadows.kind != KINDS.index("ring")
    assert (shadows.images[convex][doubled[convex] == 1] == 1).all()


def test_images_are_binary_float32_of_any_resolution() -> None:
    for resolution in (1, 2, 7, 65):
        images = draw(64, resolution).images
        assert images.shape == (64, 1, resolution, resolution)
        assert images.dtype == torch.float32
        assert ((images == 0) | (images == 1)).all()


def test_shadows_are_whole_and_neither_tiny_nor_huge(shadows: Shadows) -> None:
    images = shadows.images
    edge = torch.cat((images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]), -1)
    assert not edge.any()
    dark = images.mean((1, 2, 3))
    assert dark.min() > 0.01
    assert dark.max() < 0.6
    assert dark.std() > 0.05


def test_the_ball_around_a_solid_throws_its_shadow_within_the_square(shadows: Shadows) -> None:
    _, _, position, size, light = (x.double().numpy() for x in shadows[1:])
    height = light[:, 2] - position[:, 2]
    for axis in (0, 1):
        across = position[:, axis] - light[:, axis]
        middle, half = np.arctan2(across, height), np.arcsin(size / np.hypot(across, height))
        low, high = (light[:, axis] + light[:, 2] * np.tan(middle + side * half) for side in (-1, 1))
        assert -0.95 - 1e-5 < low.min() < -0.94
        assert 0.94 < high.max() < 0.95 + 1e-5


def test_factors_have_the_documented_ranges(shadows: Shadows) -> None:
    _, kind, rotation, position, size, light = shadows
    assert kind.dtype == torch.int64
    assert all(factor.dtype == torch.float32 for factor in (rotation, position, size, light))
    assert ((rotation.norm(dim=1) - 1).abs() < 1e-6).all()
    for values, low, high in (
        (size, 0.3, 0.45),
        (light[:, 0], -1, 1),
        (light[:, 1], -1, 1),
        (light[:, 2], 2.5, 4),
    ):
        # Uniform: the mean and the ends are where 4000 draws put them, within 5 standard errors.
        width = high - low
        assert low <= values.min() < low + 0.003 * width
        assert high - 0.003 * width < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 5 * width / sqrt(12 * len(values))
    assert (position[:, 2] > 1.0999 * size).all()
    assert (position[:, 2] < 0.4001 * light[:, 2]).all()


def test_kinds_are_equally_likely(shadows: Shadows) -> None:
    count = torch.bincount(shadows.kind, minlength=len(KINDS)).double()
    mean = len(shadows.kind) / len(KINDS)
    assert ((count - mean).abs() < 5 * sqrt(mean)).all()


def test_rotations_are_uniform(shadows: Shadows) -> None:
    w, x, y, z = shadows.rotation.double().numpy().T
    matrices = Rotation.from_quat(np.stack((x, y, z, w), axis=1)).as_matrix()
    # Over all rotations, an entry has mean 0, its square 1/3, its fourth power 1/5.
    n = len(matrices)
    assert abs(matrices.mean(0)).max() < 5 * sqrt(1 / 3 / n)
    assert abs((matrices**2).mean(0) - 1 / 3).max() < 5 * sqrt((1 / 5 - 1 / 9) / n)


def test_factors_are_drawn_independently(shadows: Shadows) -> None:
    _, kind, rotation, _, size, light = shadows
    columns = torch.cat((kind[:, None], rotation, size[:, None], light), dim=1).T.double()
    correlation = columns.corrcoef() - torch.eye(len(columns))
    assert correlation.abs().max() < 5 / sqrt(len(kind))


def test_the_factors_cast_the_images(shadows: Shadows) -> None:
    assert torch.equal(cast(*shadows[1:]), shadows.images)


def test_a_seed_fixes_the_shadows() -> None:
    again, other = draw(50, seed=3), draw(50, seed=4)
    for first, second, different in zip(draw(50, seed=3), again, other, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, different)


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000])
def test_a_larger_draw_begins_with_a_smaller_one(shadows: Shadows, count: int) -> None:
    for few, many in zip(draw(count, seed=7), shadows, strict=True):
        assert torch.equal(few, many[:count])


def test_factors_do_not_depend_on_the_resolution() -> None:
    for coarse, fine in zip(draw(50, 7, seed=3)[1:], draw(50, 41, seed=3)[1:], strict=True):
        assert torch.equal(coarse, fine)


def test_chunks_do_not_matter(shadows: Shadows, monkeypatch: pytest.MonkeyPatch) -> None:
    for pixels in (1, 10 * 28**2, 10**9):
        monkeypatch.setattr(cave, "_CHUNK_PIXELS", pixels)
        first = Shadows(*(factor[:200] for factor in shadows))
        assert torch.equal(cast(*first[1:]), first.images)


@pytest.mark.usefixtures("one_thread")
def test_threads_do_not_matter(shadows: Shadows) -> None:
    for alone, together in zip(draw(4000, seed=7), shadows, strict=True):
        assert torch.equal(alone, together)


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(10).images, first.images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_dtype_does_not_matter(shadows: Shadows, dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        few = draw(500, seed=7)
    finally:
        torch.set_default_dtype(before)
    for first, second in zip(few, shadows, strict=True):
        assert first.dtype == second.dtype
        assert torch.equal(first, second[:500])


def test_no_solids_cast_no_images() -> None:
    none = torch.empty(0)
    images = cast(none.long(), none.view(0, 4), none.view(0, 3), none, none.view(0, 3))
    assert images.shape == (0, 1, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0, wanted at least 1"),
        ({"count": -3}, "count is -3, wanted at least 1"),
        ({"count": 1, "resolution": 0}, "resolution is 0, wanted at least 1"),
    ],
)
def test_draw_refuses(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": torch.tensor([0, 8])}, r"kind\[1\] is 8, wanted 0 to 7"),
        ({"kind": torch.tensor([-1, 0])}, r"kind\[0\] is -1, wanted 0 to 7"),
        ({"kind": torch.zeros(2, dtype=torch.float32)}, "kind is torch.float32, wanted integers"),
        ({"kind": torch.tensor(0)}, r"kind has shape \(\), wanted \(1,\)"),
        ({"rotation": torch.zeros(2, 3)}, r"rotation has shape \(2, 3\), wanted \(2, 4\)"),
        ({"rotation": torch.ones(2, 4)}, r"rotation\[0\] is .* wanted a unit quaternion"),
        ({"position": torch.zeros(3, 3)}, r"position has shape \(3, 3\), wanted \(2, 3\)"),
        ({"size": torch.ones(2, 1)}, r"size has shape \(2, 1\), wanted \(2,\)"),
        ({"size": torch.tensor([0.3, 0])}, r"size\[1\] is 0.0, wanted more than 0"),
        ({"size": torch.tensor([0.3, torch.nan])}, r"size\[1\] is nan, wanted more than 0"),
        ({"size": torch.tensor([0.3, 1])}, r"heights .*\[1\] is \[0.0, 2.0, 3.0\], wanted 0 < "),
        ({"light": torch.tensor([[0, 0, 1.25]] * 2)}, r"heights .*\[0\] is .* wanted 0 < lowest"),
        ({"light": torch.zeros(2)}, r"light has shape \(2,\), wanted \(2, 3\)"),
        ({"resolution": 0}, "resolution is 0, wanted at least 1"),
    ],
)
def test_cast_refuses(change: dict[str, Tensor | int], message: str) -> None:
    fine = {
        "kind": torch.tensor([0, 1]),
        "rotation": torch.tensor([UPRIGHT] * 2),
        "position": torch.tensor([[0, 0, 1.0]] * 2),
        "size": torch.tensor([0.3, 0.3]),
        "light": torch.tensor([[0, 0, 3.0]] * 2),
    }
    with pytest.raises(ValueError, match=message):
        cast(**{**fine, **change})  # type: ignore[arg-type]
