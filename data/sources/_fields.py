"""Random fields, parcels and blurs that simulated scenes are drawn with."""

import math

import numpy as np
from jaxtyping import Float32, Integer

PIXELS = 120  # per side, at 10 m
SLOTS = 64  # parcels of a scene share this many random states; a power of two
Y, X = np.mgrid[:PIXELS, :PIXELS].astype(np.float32) / (PIXELS - 1) - 0.5


def noise(scene: np.random.Generator, cells: int) -> Float32[np.ndarray, "height width"]:
    """Smooth random field of unit variance, (120, 120), with `cells` independent values per side."""
    # Gathers instead of a matrix product: BLAS would start threads for it, and many readers run side by side.
    low, weight_low, weight_high = _GROW[cells]
    values = scene.standard_normal((cells, cells), np.float32)
    rows = values[low] * weight_low[:, None] + values[low + 1] * weight_high[:, None]
    return rows[:, low] * weight_low + rows[:, low + 1] * weight_high


def parcels(scene: np.random.Generator, least: float, most: float) -> Integer[np.ndarray, "height width"]:
    """State number of every pixel's parcel, (120, 120): strips of fields, `least` to `most` pixels wide."""
    u, v = turned(scene.uniform(0, math.pi))
    strip = np.floor((u * PIXELS + 1.5 * noise(scene, 4)) / scene.uniform(least, most)).astype(np.int32)
    length = scene.uniform(least, 2 * most, SLOTS).astype(np.float32)[strip & (SLOTS - 1)]
    start = scene.random(SLOTS, np.float32)[strip & (SLOTS - 1)]
    return (strip * 17 + np.floor(v * PIXELS / length + start).astype(np.int32) * 5) & (SLOTS - 1)


def turned(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates, -0.5 to 0.5 across the patch, rotated by an angle in radians."""
    return X * math.cos(angle) + Y * math.sin(angle), Y * math.cos(angle) - X * math.sin(angle)


def _interpolation(cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of 120 pixels the cell below, its weight and the next cell's: cosine, weights of unit length."""
    position = np.linspace(0, cells - 1, PIXELS)
    low = np.minimum(position.astype(int), cells - 2)
    high = 0.5 - 0.5 * np.cos(np.pi * (position - low))
    length = np.hypot(high, 1 - high)
    return low, ((1 - high) / length).astype(np.float32), (high / length).astype(np.float32)


def blurred(image: np.ndarray) -> np.ndarray:
    """Blur like a 10 m band's point spread function: weights 1 2 1 across and down, edges repeated."""
    image = np.pad(image, 1, "edge")
    image = image[:-2] + 2 * image[1:-1] + image[2:]
    return (image[:, :-2] + 2 * image[:, 1:-1] + image[:, 2:]) / 16


def averaged(image: np.ndarray, size: int) -> np.ndarray:
    """Means over squares of `size` pixels: the pixels of a coarser band."""
    none = np.zeros((), image.dtype)
    rows = sum((image[start::size] for start in range(size)), none)
    return sum((rows[:, start::size] for start in range(size)), none) / size**2


_GROW = {cells: _interpolation(cells) for cells in (4, 5, 6, 8, 16, 24, 30)}
