"""DOFA: the patch embedding as one static convolution, against torchgeo's forward that generates it for every batch."""

import torch

from tests.bench.pairs import paired

IMAGES = 8
BANDS = {3: "rgb", 9: "s2-9", 12: "s2-12"}


def bench_dofa_3_bands() -> dict:
    """Images/s of DOFA base in fp32, 8 images of 3 bands: our forward against torchgeo's `forward_features`."""
    return compare(3)


def bench_dofa_9_bands() -> dict:
    """Images/s of DOFA base in fp32, 8 images of 9 bands: our forward against torchgeo's `forward_features`."""
    return compare(9)


def bench_dofa_12_bands() -> dict:
    """Images/s of DOFA base in fp32, 8 images of 12 bands: our forward against torchgeo's `forward_features`."""
    return compare(12)


def compare(count: int) -> dict:
    """The whole forward, and beside it the patch embedding alone."""
    from torchgeo.models import dofa_base_patch16_224

    from data.bands import RGB, SENTINEL2, choose_bands
    from featurize.models.dofa import DOFAStaticEmbedding, training_wavelength_um

    device = "cuda" if torch.cuda.is_available() else "cpu"
    bands = choose_bands([*SENTINEL2.values(), *(RGB.values() if count == 3 else ())], BANDS[count])
    waves = [training_wavelength_um(band) for band in bands]
    model = dofa_base_patch16_224(num_classes=0).eval()
    static = DOFAStaticEmbedding(model.patch_embed, waves).to(device)
    model = model.to(device)
    generating = model.patch_embed
    images, wavelengths = torch.randn(IMAGES, count, 224, 224, device=device), torch.tensor(waves, device=device)

    def forward(embedding: torch.nn.Module, given: list[float]) -> None:
        model.patch_embed = embedding
        model.forward_features(images, given)
        finish()

    def embed(embedding: torch.nn.Module) -> None:
        embedding(images, wavelengths)
        finish()

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        alone = paired(lambda: embed(static), lambda: embed(generating), IMAGES, "images")
        whole = paired(lambda: forward(static, []), lambda: forward(generating, waves), IMAGES, "images")
    return whole | {"patch_embedding_alone": alone, "device": device}
