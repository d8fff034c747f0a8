"""Forward passes: ours against the libraries' own."""

import sys

import torch

from tests.bench.pairs import PROJECT, paired


def bench_rcf_forward() -> dict:
    """Images/s of rcf, 64 images of 64 x 64 RGB, 512 filters: passes that fit the cache against torchgeo's forward."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from pixels import PixelDataset

    from featurize.encoder import EncoderRequest, build_encoder

    dataset = PixelDataset()
    request = EncoderRequest((), dataset.statistics, lambda: dataset, "gaussian")
    encoder = build_encoder("rcf", dataset, "rgb", request)
    images = torch.randn(64, 3, 64, 64)
    with torch.inference_mode():
        return paired(lambda: encoder.embed(images, None), lambda: encoder.filters(images), 64, "images")  # type: ignore
