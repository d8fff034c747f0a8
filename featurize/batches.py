"""Raw samples stacked into batches, and batches made into the images that an encoder takes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from featurize.encoder import FrozenModel
from featurize.shapes import Images


@dataclass(frozen=True)
class Batch:
    """Raw samples whose images are of one size."""

    rows: list[int]  # indices of these samples in the batch
    # (channels, pixels) with pixels (b, c, h, w) of native type; bands of one resolution together
    stacks: list[tuple[list[int], Shaped[Tensor, "batch _ _ _"]]]

    def size(self) -> tuple[int, int]:
        """Height and width of the finest band."""
        return max(p.shape[-2] for _, p in self.stacks), max(p.shape[-1] for _, p in self.stacks)

    def pieces(self, rows: int) -> Iterator["Batch"]:
        """Batches of at most so many rows."""
        for start in range(0, len(self.rows), rows):
            cut = slice(start, start + rows)
            yield Batch(self.rows[cut], [(channels, pixels[cut]) for channels, pixels in self.stacks])

    def on(self, device: torch.device) -> "Batch":
        """The same batch on a device; pinned memory is copied asynchronously."""
        return Batch(self.rows, [(channels, copied(pixels, device)) for channels, pixels in self.stacks])


def copied(tensor: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """A tensor on a device; a GPU copies from pinned memory without waiting for queued work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def collate(samples: Sequence[Sequence[Shaped[np.ndarray, "_ _"]]]) -> list[Batch]:
    """Group samples by the sizes of their bands, then bands by size, and stack each group."""
    by_sizes: dict[tuple, list[int]] = defaultdict(list)
    for row, sample in enumerate(samples):
        by_sizes[tuple((band.shape, band.dtype.str) for band in sample)].append(row)
    batches = []
    for sizes, rows in by_sizes.items():
        by_size: dict[tuple, list[int]] = defaultdict(list)
        for channel, size in enumerate(sizes):
            by_size[size].append(channel)
        stacks = [
            (channels, torch.from_numpy(np.stack([np.stack([samples[row][c] for c in channels]) for row in rows])))
            for channels in by_size.values()
        ]
        batches.append(Batch(rows, stacks))
    return batches


def prepare(batches: Sequence[Batch], encoder: FrozenModel, device: torch.device) -> list[tuple[list[int], Images]]:
    """Move raw batches to the device and resize every band to the encoder's size, or the finest band's.

    Returns:
        (rows, images) with images in native units; one pair where all sizes agree.
    """
    side = encoder.request.image_size
    prepared = []
    for batch in batches:
        size = (side, side) if side else batch.size()
        images = torch.empty(len(batch.rows), len(encoder.request.bands), *size, device=device)
        for channels, pixels in batch.stacks:
            resized = encoder.resize(pixels.to(device, non_blocking=True).float(), size)
            for at, channel in enumerate(channels):  # a list of channels would be copied to a GPU, which would wait
                images[:, channel] = resized[:, at]
        prepared.append((batch.rows, images))
    if side and len(prepared) > 1:
        return [([row for rows, _ in prepared for row in rows], torch.cat([images for _, images in prepared]))]
    return prepared
