"""Galileo: multimodal transformer for Sentinel-1 and Sentinel-2, used with one date and small patches."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.bands import require_whole_groups
from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.normalization import stretched
from featurize.shapes import Embeddings, Images
from featurize.tokens import TokenModel, Tokens, ndvi
from featurize.weights import hub_file, load_weights, random_module

CARD = ModelCard(
    variant=("nano", "tiny", "base"),
    pooling=("mean", "mean+std", "max", "std", "gem"),
    normalize=("galileo",),
    weights=("pretrained", "random", "PATH"),
    default_bands=("VV,VH,B02,B03,B04,B05,B06,B07,B08,B8A,B11,B12", "s2-10", "s1", "B02,B03,B04"),
    sizes="any square; patches are the largest of 1 to 8 pixels that divide it",
    dim="128 (nano), 192 (tiny), 768 (base)",
    bands="Sentinel-1 VV VH and Sentinel-2 B02-B08 B8A B11 B12, in whole band groups",
    files="nasaharvest/galileo: models/{nano,tiny,base}/encoder.pt",
    license="MIT",
    citation="Tseng et al. 2025, Galileo: Learning Global & Local Features of Many Remote Sensing Modalities, "
    "arXiv:2502.09356",
    layers=True,
)

REPOSITORY = "nasaharvest/galileo"
# Dimensions, blocks and attention heads, as the authors' config.json has them.
SIZES = {"nano": (128, 4, 8), "tiny": (192, 12, 3), "base": (768, 12, 12)}
MLP_RATIO, BASE_PATCH, DATES = 4, 8, 24
MONTH = 5  # 0 is January; the authors' default where an image has no date
GSD_M = 10  # of the images that Galileo was trained on
# Every group is one token for each patch; an absent group has none.
GROUPS = {
    "S1": ("VV", "VH"),
    "S2_RGB": ("B02", "B03", "B04"),
    "S2_Red_Edge": ("B05", "B06", "B07"),
    "S2_NIR_10m": ("B08",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
    "NDVI": ("NDVI",),
}
# Means and standard deviations of the pretraining data (config/normalization.json of the authors' repository).
STATISTICS = {
    "VV": (-11.728724389184965, 4.887145774840316),
    "VH": (-18.85558188024017, 5.730270320384293),
    "B02": (1395.3408730676722, 917.7041440370853),
    "B03": (1338.4026921784578, 913.2988423581528),
    "B04": (1343.09883810357, 1092.678723527555),
    "B05": (1543.8607982512297, 1047.2206083460424),
    "B06": (2186.2022069512263, 1048.0101611156767),
    "B07": (2525.0932853316694, 1143.6903026819996),
    "B08": (2410.3377187373408, 1098.979177731649),
    "B8A": (2750.2854646886753, 1204.472755085893),
    "B11": (2234.911100061487, 1145.9774063078878),
    "B12": (1474.5311266077113, 980.2429840007796),
}
# Of the published file: embeddings of weather, elevation, land cover and places, which images do not bring along.
UNUSED = ("space_embed.", "time_embed.", "static_embed.", "sp_channel_embed", "t_channel_embed", "st_channel_embed")


def build(request: EncoderRequest) -> FrozenModel:
    """See the module."""
    require_whole_groups("galileo", request.bands, [members for members in GROUPS.values() if members != ("NDVI",)])
    return GalileoEncoder(request)


class GalileoEncoder(TokenModel):
    """Tokens of all groups and patches after the last layer norm, pooled."""

    has_patches = True

    def __init__(self, request: EncoderRequest) -> None:
        variant = str(request.variant)
        model: Any = random_module(lambda: Galileo(*SIZES[variant]))
        name = f"models/{variant}/encoder.pt"
        weights = load_weights(
            model,
            request.weights,
            hub_name=f"{REPOSITORY}/{name}",
            file=lambda: hub_file(REPOSITORY, name),
            unused=UNUSED,
        )
        numbers = [STATISTICS[band.name] for band in request.bands]
        super().__init__(
            request,
            width=SIZES[variant][0],
            blocks=model.blocks,
            norm=model.norm,
            prefix=0,
            normalization=stretched("galileo", request.bands, numbers, clip=False),  # values beyond are kept
            weights=weights,
            dtype="float32",
            settings={"month": MONTH, "gsd_m": GSD_M},
        )
        self.model = model
        names = [band.name for band in request.bands]
        self.groups = {
            group: [names.index(name) for name in members]
            for group, members in GROUPS.items()
            if all(name in names for name in members)
        }
        self.ndvi_of = (names.index("B08"), names.index("B04")) if {"B08", "B04"} <= set(names) else None

    def run(self, images: Images) -> Tokens:
        """See `TokenModel.run`."""
        height, width = images.shape[-2:]
        if height != width:
            raise RequestError(f"galileo takes square images, not {height} x {width}; give --image-size")
        groups = {group: images[:, channels] for group, channels in self.groups.items()}
        if self.ndvi_of:
            groups["NDVI"] = self.ndvi(images)
        return self.model(groups, patch_size(height))

    def pooled(self, tokens: Sequence[Tokens]) -> Embeddings:
        """See `TokenModel.pooled`; a patch has a token of each group."""
        if self.request.pooling == "patches":
            groups = len(self.groups) + bool(self.ndvi_of)
            tokens = [one.unflatten(1, (groups, -1)).mean(dim=1) for one in tokens]
        return super().pooled(tokens)

    def ndvi(self, images: Images) -> Float[Tensor, "batch 1 height width"]:
        """(B08 - B04) / (B08 + B04) of the digital numbers behind scaled images."""
        assert self.ndvi_of and self.normalization.low
        return ndvi(*(images[:, [i]] * self.normalization.unit[i] + self.normalization.low[i] for i in self.ndvi_of))


def patch_size(side: int) -> int:
    """The largest patch of 1 to 8 pixels that divides a side."""
    return max(size for size in range(1, BASE_PATCH + 1) if side % size == 0)


# ---------------------------------------------------------------------------------------------- the transformer


class Galileo(nn.Module):
    """Galileo's encoder for bands of one date; parameters have the names of the authors' files."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        quarter = dim // 4  # an embedding is four parts: group, place in time, month, place in the image
        self.space_time_embed = nn.ModuleDict(
            {group: _PatchEmbedding(len(members), dim) for group, members in GROUPS.items()}
        )
        self.s_t_channel_embed = nn.Parameter(torch.zeros(len(GROUPS), quarter))
        self.pos_embed = nn.Parameter(sine_cosine(torch.arange(DATES).float(), quarter), requires_grad=False)
        self.month_embed = nn.Embedding(12, quarter)
        self.blocks = nn.ModuleList(_Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, groups: dict[str, Float[Tensor, "batch _ height width"]], patch: int
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens of all patches of all groups.

        Returns:
            (B, groups * patches, D).
        """
        order = list(GROUPS)
        tokens = []
        for group, bands in groups.items():
            grid = self.space_time_embed[group](bands, patch)  # (B, D, h, h)
            place = self.position(grid.shape[-1], patch).to(grid)
            about = torch.cat(
                (self.s_t_channel_embed[order.index(group)], self.pos_embed[0], self.month_embed.weight[MONTH])
            )
            code = torch.cat((about.expand(len(place), -1), place), dim=1)
            tokens.append(grid.flatten(2).transpose(1, 2) + code)
        x = torch.cat(tokens, dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def position(self, side: int, patch: int) -> Float[Tensor, "patches _"]:
        """Column and row in units of the training images' pixels, rows after one another."""
        steps = torch.arange(side) * float(patch)  # of GSD_M meters
        half = self.s_t_channel_embed.shape[1] // 2
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        return torch.cat((sine_cosine(columns.ravel(), half), sine_cosine(rows.ravel(), half)), dim=1)


def sine_cosine(places: Float[Tensor, " places"], dim: int) -> Float[Tensor, "places dim"]:
    """Places as sines and cosines of falling frequency, as the authors' files have them."""
    frequency = 1.0 / 10_000 ** (torch.arange(dim // 2) / dim / 2.0)
    angle = places[:, None] * frequency
    return torch.cat((angle.sin(), angle.cos()), dim=1)


class _PatchEmbedding(nn.Module):
    """A convolution whose kernel is resized to the patch (FlexiViT: Beyer et al. 2023, arXiv:2212.08013)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, BASE_PATCH, BASE_PATCH)

    def forward(self, bands: Tensor, patch: int) -> Tensor:
        """(B, C, H, H) to (B, D, H / patch, H / patch)."""
        kernel = self.proj.weight
        if patch != BASE_PATCH:
            kernel = (kernel.flatten(2) @ resize_inverse(patch).T.to(kernel)).unflatten(2, (patch, patch))
        return F.conv2d(bands, kernel, self.proj.bias, stride=patch)


@lru_cache(maxsize=BASE_PATCH)
def resize_inverse(patch: int) -> Float[Tensor, "_ 64"]:
    """Pseudo-inverse of resizing a base patch, by which a kernel gives equal tokens for resized images."""
    pixels = torch.eye(BASE_PATCH**2).reshape(-1, 1, BASE_PATCH, BASE_PATCH)
    resized = F.interpolate(pixels, (patch, patch), mode="bicubic", antialias=True)
    return torch.linalg.pinv(resized.flatten(1))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        layers = {"fc1": nn.Linear(dim, MLP_RATIO * dim), "act": nn.GELU(), "fc2": nn.Linear(MLP_RATIO * dim, dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
