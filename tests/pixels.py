"""A small dataset with pixels of every Sentinel band at its native resolution, for testing encoders."""

import numpy as np

from data.bands import RGB, SENTINEL1, SENTINEL2
from data.dataset import EODataset, Statistic
from data.errors import RequestError

SIDE = {10: 48, 20: 24, 60: 8, None: 48}


class PixelDataset(EODataset):
    """Noise around a level that depends on the class; `sizes` gives each sample its own side instead."""

    def __init__(self, split="train", rows=20, *, sizes=None, broken=(), located=True, name="pixels"):
        bands = [*SENTINEL1.values(), *SENTINEL2.values(), *RGB.values()]
        self.sizes, self.broken = sizes, set(broken)
        place = np.random.default_rng(9).uniform(0, 50, (rows, 2)) if located else None
        super().__init__(
            name=name,
            variant=None,
            split=split,
            ids=[f"{split}-{i}" for i in range(rows)],
            labels=np.arange(rows) % 3,
            class_names=["a", "b", "c"],
            bands=bands,
            statistics={b.name: self._statistic(b) for b in bands},
            lonlat=place,
        )

    @staticmethod
    def _statistic(band):
        return {"S1": Statistic(-12.0, 3.0), "S2": Statistic(1500.0, 500.0), "RGB": Statistic(120.0, 40.0)}[band.sensor]

    def read(self, index, bands):
        if index in self.broken:
            raise RequestError(f"sample {self.ids[index]} is truncated")
        return [self._band(index, band) for band in bands]

    def _band(self, index, band):
        rng = np.random.default_rng([index, self.bands.index(band)])
        side = self.sizes[index] if self.sizes else SIDE[band.gsd_m]
        s = self._statistic(band)
        values = rng.normal(s.mean + s.std * (index % 3 - 1), s.std / 2, (side, side))
        kind = {"S1": np.float32, "S2": np.uint16, "RGB": np.uint8}[band.sensor]
        return values.clip(0 if band.sensor != "S1" else -50, 255 if band.sensor == "RGB" else 9999).astype(kind)
