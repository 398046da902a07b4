"""The cave: shadows of solids, drawn on the fly, with the factors that cast them.

A solid of size s stands at c, turned by the rotation Q. A fire at L, a point light, casts its
shadow on the wall z = 0, of which the window [-1, 1]^2 is visible. The wall's point (u, v) is dark iff
its segment to L meets the solid. In the solid's own frame, where it is unturned, of size 1 and at
the origin,

    o = Q' (L - c) / s                            the fire
    d = Q' ((u, v, 0) - L) = B (u, v, 1)'         the ray o + t d, with B = Q' [e1, e2, -L]

A solid strictly between fire and wall meets the line iff it meets the segment, so t drops out:

    ball            (c - o).d >= sqrt(|c - o|^2 - r^2) |d|: d lies in the cone from o that touches
                    the ball of centre c and radius r
    ring            the union of 64 balls whose centres run round a circle
    polytope        m.d >= 0, m = +-(a - o) x (b - o), at every edge ab between a lit and an unlit
                    face, with the sign that keeps the solid in
    cylinder, cone  the union of the discs at both ends and of the quadrilateral between the lines
                    along which planes through o touch the side; the disc of radius r at height h
                    contains the ray iff |(h - o_z) d_xy + d_z o_xy| < r |d_z|

The solids of size 1 are inscribed in the unit ball, so that a size is the radius of the ball around
a solid. All are exact but the ring, which misses its torus by at most 0.003 of its size.

A shadow does not determine what cast it: ball, cylinder and cone cast discs, cube, brick and cylinder
cast rectangles, and a solid nearer to the fire casts the same shadow as a larger one farther from it.

Shapes: N shadows of R x R pixels, each judged at its centre; u grows to the right, v upwards.
"""

from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import combinations, product
from math import pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["KINDS", "Shadows", "cast", "draw"]


class Shadows(NamedTuple):
    """N shadows and the factors that cast them; lengths are in half-widths of the window.

    `cast(*shadows[1:], resolution=R)` casts the same shadows at another resolution.
    """

    images: Tensor  # (N, 1, R, R) float32, 1 = shadow, 0 = light
    kind: Tensor  # (N,) int64, index into KINDS
    rotation: Tensor  # (N, 4) float32, unit quaternion (w, x, y, z)
    position: Tensor  # (N, 3) float32, the solid's centre c
    size: Tensor  # (N,) float32, the radius s of the ball around the solid
    light: Tensor  # (N, 3) float32, the fire L


# Below, every solid is a function of o (N, 3), B (N, 3, 3), and the wall's u (1, R) and v (R, 1);
# it returns what is dark, (N, R, R) bool.


def _dots(m: Tensor, B: Tensor, u: Tensor, v: Tensor) -> Iterator[Tensor]:
    """m.d = mB.(u, v, 1) at every pixel, (N, R, R), for each of the E vectors m (N, E, 3)."""
    # No matmul: what BLAS rounds to depends on the batch, and its threads stall on a busy machine.
    lines = (m[..., None] * B[:, None]).sum(2).permute(2, 1, 0)[..., None, None]
    return (a * u + (b * v + c) for a, b, c in zip(*lines, strict=True))


def _balls(centres: Tensor, radius: float, o: Tensor, B: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The union of K balls: centres (K, 3)."""
    to = centres - o[:, None]
    to = to * (to.square().sum(-1, keepdim=True) - radius**2).rsqrt()
    x, y, z = _dots(_IDENTITY, B, u, v)
    greatest = reduce(torch.maximum, _dots(to, B, u, v))
    return greatest.clamp(min=0).square() >= x * x + y * y + z * z


def _edges(corners: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
    """The edges ab of the polytope n.x <= 1, with the faces n left and right of ab: each (E, 3)."""
    on = corners @ normals.mT > 1 - 1e-9
    edges = []
    for i, j in combinations(range(len(corners)), 2):
        faces = normals[on[i] & on[j]]
        if len(faces) == 2:
            ab = corners[[i, j]]
            counterclockwise = torch.linalg.det(torch.cat((ab, faces[:1]))) > 0
            edges.append(torch.cat((ab if counterclockwise else ab.flip(0), faces)))
    return torch.stack(edges).unbind(1)


def _polytope(a: Tensor, b: Tensor, left: Tensor, right: Tensor, o: Tensor, B: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The convex polytope with these E edges."""
    o = o[:, None]
    lit_left, lit_right = (((o * n).sum(-1, keepdim=True) > 1).to(o) for n in (left, right))
    # Between two lit or two unlit faces m is 0, which excludes nothing.
    m = (lit_right - lit_left) * torch.linalg.cross(a - o, b - o)
    return reduce(torch.minimum, _dots(m, B, u, v)) >= 0


def _frustum(
    foot: tuple[float, float], head: tuple[float, float], o: Tensor, B: Tensor, u: Tensor, v: Tensor
) -> Tensor:
    """The frustum of a cone, or a cylinder, around the z axis with the ends (height, radius)."""
    x, y, z = _dots(_IDENTITY, B, u, v)
    o_x, o_y, o_z = o.T[..., None, None]

    def disc(h: float, r: float) -> Tensor:
        return ((h - o_z) * x + z * o_x).square() + ((h - o_z) * y + z * o_y).square() < (r * z).square()

    # e points from the axis to the fire, f across; the side is touched at the angles +-phi from e.
    (h_0, r_0), (h_1, r_1) = foot, head
    up, height = _IDENTITY[0, 2].expand_as(o), o[:, 2:]
    distance = o[:, :2].norm(dim=1, keepdim=True)
    e = (o - height * up) / distance
    f = torch.linalg.cross(up, e)
    cos = (r_0 + (r_1 - r_0) * (height - h_0) / (h_1 - h_0)) / distance
    # A fire that sees one end alone touches no side: the root is NaN, and NaN >= 0 is false.
    sin = (1 - cos.square()).sqrt()
    foot_right, head_right = (h * up + r * (cos * e + sin * f) - o for h, r in (foot, head))
    foot_left, head_left = (h * up + r * (cos * e - sin * f) - o for h, r in (foot, head))
    # The chord at either end runs along f, even where its length is 0.
    sides = (head_right, foot_right), (f, foot_right), (foot_left, head_left), (head_left, f)
    m = torch.stack([torch.linalg.cross(a, b) for a, b in sides], dim=1)
    side = reduce(torch.minimum, _dots(m, B, u, v)) >= 0
    return disc(*foot) | disc(*head) | side


_IDENTITY = torch.eye(3, dtype=torch.float64)[None]
_ORIGIN = torch.zeros(1, 3, dtype=torch.float64)
_OCTAHEDRON_CORNERS = torch.cat((_IDENTITY[0], -_IDENTITY[0]))
_CUBE_CORNERS = torch.tensor(list(product((-1, 1), repeat=3)), dtype=torch.float64)
_TETRAHEDRON_CORNERS = _CUBE_CORNERS[_CUBE_CORNERS.prod(1) > 0] / sqrt(3)
_BRICK_HALVES = torch.tensor((3, 2, 1), dtype=torch.float64) / sqrt(14)
_RING_ANGLES = torch.arange(64, dtype=torch.float64) * (2 * pi / 64)
_RING_CENTRES = torch.stack((_RING_ANGLES.cos(), _RING_ANGLES.sin(), 0 * _RING_ANGLES), dim=1)

_SOLIDS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "ball": partial(_balls, _ORIGIN, 1.0),
    "cube": partial(_polytope, *_edges(_CUBE_CORNERS / sqrt(3), _OCTAHEDRON_CORNERS * sqrt(3))),
    "brick": partial(_polytope, *_edges(_CUBE_CORNERS * _BRICK_HALVES, _OCTAHEDRON_CORNERS / _BRICK_HALVES)),
    "tetrahedron": partial(_polytope, *_edges(_TETRAHEDRON_CORNERS, -3 * _TETRAHEDRON_CORNERS)),
    "octahedron": partial(_polytope, *_edges(_OCTAHEDRON_CORNERS, _CUBE_CORNERS)),
    "cylinder": partial(_frustum, (-0.8, 0.6), (0.8, 0.6)),
    "cone": partial(_frustum, (-0.6, 0.8), (1.0, 0.0)),
    "ring": partial(_balls, 0.7 * _RING_CENTRES, 0.3),
}

KINDS: tuple[str, ...] = tuple(_SOLIDS)
"""Names of the solids; a kind is an index of these."""

_CHUNK_PIXELS = 2**15  # pixels worked on at once


def draw(count: int, resolution: int = 28, seed: int = 0) -> Shadows:
    """Draw `count` shadows of `resolution` x `resolution` pixels, and the factors that cast them.

    The kind is uniform over KINDS, the rotation over all rotations, the size over [0.3, 0.45], the
    fire over [-1, 1]^2 x [2.5, 4], the solid's height over [1.1 size, 0.4 of the fire's], and its
    position over all those where the shadow of the ball around it lies in [-0.95, 0.95]^2: no
    shadow is clipped.

    A seed gives the same shadows whenever it is used, a larger draw begins with a smaller one, and
    the factors do not depend on the resolution. Global random state is neither read nor changed.

    Returns `Shadows`: images (count, 1, resolution, resolution), kind (count,), rotation
    (count, 4), position (count, 3), size (count,), light (count, 3).

    Raises ValueError if count < 1 or resolution < 1.

    >>> shadows = draw(1000, seed=0)
    >>> shadows.images.shape, shadows.images.unique()
    (torch.Size([1000, 1, 28, 28]), tensor([0., 1.]))
    >>> cast(*shadows[1:], resolution=56).shape
    torch.Size([1000, 1, 56, 56])
    """
    if count < 1:
        raise ValueError(f"count is {count}, wanted at least 1: ask for one shadow or more")
    # A row of uniforms per shadow, so that a larger draw begins with the smaller one.
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, 11, generator=generator, dtype=torch.float64).mT.contiguous()
    kind = (uniform[0] * len(KINDS)).long()

    # Shoemake, "Uniform random rotations", Graphics Gems III, 1992.
    first, second = (1 - uniform[1]).sqrt(), uniform[1].sqrt()
    alpha, beta = 2 * pi * uniform[2:4]
    four = first * alpha.sin(), first * alpha.cos(), second * beta.sin(), second * beta.cos()

    fire, fire_z = 2 * uniform[4:6] - 1, 2.5 + 1.5 * uniform[6]
    size = 0.3 + 0.15 * uniform[7]
    z = 1.1 * size + (0.4 * fire_z - 1.1 * size) * uniform[8]
    # The ball around the solid touches the plane through the fire and a side of the square.
    low, high = (
        w + (fire - w) * z / fire_z - w / 0.95 * size * (1 + ((fire - w) / fire_z).square()).sqrt()
        for w in (-0.95, 0.95)
    )
    place = low + (high - low) * uniform[9:11]

    rotation, position, light = (torch.stack(rows, dim=1).float() for rows in (four, (*place, z), (*fire, fire_z)))
    factors = kind, rotation, position, size.float(), light
    return Shadows(cast(*factors, resolution=resolution), *factors)


def cast(
    kind: Tensor,
    rotation: Tensor,
    position: Tensor,
    size: Tensor,
    light: Tensor,
    resolution: int = 28,
) -> Tensor:
    """Cast the shadows of N solids: images (N, 1, resolution, resolution) float32, 1 = shadow.

    kind (N,) integers, indices into KINDS; rotation (N, 4) unit quaternions (w, x, y, z); position
    (N, 3), the centres; size (N,), the radii of the balls around the solids; light (N, 3). Lengths
    are in half-widths of the window. The images carry no gradient.

    Raises ValueError if a shape is wrong, a kind is no index into KINDS, a quaternion is not of
    length 1 (within 0.001), a size is not positive, the ball around a solid is not strictly between
    wall and light, or resolution < 1.

    >>> upright, centre = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0, 0, 1.0]])
    >>> kind, size, light = torch.tensor([KINDS.index("ring")]), torch.ones(1) / 2, 3 * centre
    >>> for row in cast(kind, upright, centre, size, light, resolution=12)[0, 0]:
    ...     print("".join("-#"[int(pixel)] for pixel in row))
    ------------
    -----##-----
    ---######---
    --########--
    --###--###--
    -###----###-
    -###----###-
    --###--###--
    --########--
    ---######---
    -----##-----
    ------------
    """
    n = kind.numel()
    for name, factor, shape in (
        ("kind", kind, (n,)),
        ("rotation", rotation, (n, 4)),
        ("position", position, (n, 3)),
        ("size", size, (n,)),
        ("light", light, (n, 3)),
    ):
        if factor.shape != shape:
            came = tuple(factor.shape)
            raise ValueError(f"{name} has shape {came}, wanted {shape}: give a row per shadow")
    if resolution < 1:
        raise ValueError(f"resolution is {resolution}, wanted at least 1: ask for a pixel or more")
    if kind.is_floating_point():
        raise ValueError(f"kind is {kind.dtype}, wanted integers: give indices into KINDS")
    last = len(KINDS) - 1
    _check("kind", kind, (kind >= 0) & (kind <= last), f"0 to {last}: give indices into KINDS")
    unit = (rotation.norm(dim=1) - 1).abs() < 1e-3
    _check("rotation", rotation, unit, "a unit quaternion: divide it by its length")
    _check("size", size, size > 0, "more than 0: give the radius of the ball around the solid")
    heights = torch.stack((position[:, 2] - size, position[:, 2] + size, light[:, 2]), dim=1)
    between = (heights[:, 0] > 0) & (heights[:, 1] < heights[:, 2])
    wanted = "0 < lowest < highest < light: move the solid between wall and light"
    _check("heights (lowest, highest, light)", heights, between, wanted)

    # In float64 no rounding shows, however the solids are cut into chunks.
    rotation, position, size, light = (x.double() for x in (rotation, position, size, light))
    u = torch.arange(1 - resolution, resolution, 2, dtype=torch.float64)[None] / resolution
    v = -u.T
    frame = _IDENTITY.repeat(n, 1, 1)
    frame[:, 2] = -light
    B = _unturn(rotation, frame).mT
    o = _unturn(rotation, (light - position)[:, None])[:, 0] / size[:, None]

    # Kind by kind, in chunks that stay in the cache.
    order, counts = kind.argsort(), kind.bincount(minlength=len(KINDS)).tolist()
    dark = torch.empty(n, resolution, resolution, dtype=torch.bool)
    chunk = max(1, _CHUNK_PIXELS // resolution**2)
    for solid, rows, place in zip(_SOLIDS.values(), order.split(counts), dark.split(counts), strict=True):
        for some, there in zip(rows.split(chunk), place.split(chunk), strict=True):
            there.copy_(solid(o[some], B[some], u, v))
    return dark[order.argsort(), None].float()


def _unturn(rotation: Tensor, x: Tensor) -> Tensor:
    """Turn x (N, K, 3) by the inverse of the quaternions (N, 4)."""
    w, axis = rotation[:, None, :1], rotation[:, None, 1:].expand_as(x)
    across: Tensor = torch.linalg.cross(axis, torch.linalg.cross(axis, x) - w * x)
    return x + 2 * across


def _check(name: str, factor: Tensor, fine: Tensor, wanted: str) -> None:
    if not fine.all():
        row = int((~fine).nonzero()[0])
        raise ValueError(f"{name}[{row}] is {factor[row].tolist()}, wanted {wanted}")
