"""Forward passes on a CPU: ours, a few images per core, against the whole batch on all cores together."""

import sys

import torch

from tests.bench.pairs import PROJECT, paired

IMAGES = 32


def bench_rcf_forward() -> dict:
    """Images/s of rcf, 32 raw RGB images of 48 x 48 pixels, 512 filters: against torchgeo's forward of scaled ones."""
    encoder, embed = _ours("rcf", bands="rgb", variant="gaussian")
    images = torch.randn(IMAGES, 3, 48, 48)
    with torch.inference_mode():
        return paired(embed, lambda: encoder.filters(images), IMAGES, "images")  # type: ignore


def bench_images_a_core() -> dict:
    """Images/s from raw pixels, a few a core at once, against the model's forward of a scaled batch of 32, all cores
    together, as a plain loop does it: each model with random weights at its own defaults, fp32."""
    models = {
        "dinov2 small": {"variant": "small", "image_size": 224},
        "dofa base": {"variant": "base"},
        "resnet": {},
        "presto": {},
    }
    return {"unit": "images/s"} | {name: _against_whole(name.split()[0], **flags) for name, flags in models.items()}


def _against_whole(name: str, **settings) -> dict:
    encoder, embed = _ours(name, weights="random", **settings)
    side = encoder.request.image_size
    images = torch.randn(IMAGES, len(encoder.request.bands), side, side)
    lonlat = torch.zeros(IMAGES, 2)
    with torch.inference_mode():
        return paired(embed, lambda: encoder.embed(images, lonlat), IMAGES, "images")


def _ours(name: str, *, bands: str | None = None, **settings):
    """An encoder, and a call that embeds a batch of raw pixels with it."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from pixels import PixelDataset

    from featurize.batches import collate
    from featurize.embedder import Embedder
    from featurize.encoder import EncoderRequest, build_encoder
    from featurize.runtime import Runtime
    from featurize.stages import Meter

    dataset = PixelDataset(rows=IMAGES)
    encoder = build_encoder(name, dataset, bands, EncoderRequest((), dataset.statistics, lambda: dataset, **settings))
    raw = collate([dataset.read(row, encoder.request.bands) for row in range(IMAGES)])
    lonlat = torch.from_numpy(dataset.lonlat)
    embedder = Embedder(encoder, Runtime(torch.device("cpu"), "fp32", IMAGES, 0, 1024))
    return encoder, lambda: embedder.embed(raw, IMAGES, lonlat, Meter())
