"""Shapes of the tensors that models take and give; the tests check them."""

from jaxtyping import Float, Float32
from torch import Tensor

Images = Float32[Tensor, "batch bands height width"]
Lonlat = Float[Tensor, "batch 2"]  # degrees
Embeddings = Float[Tensor, "batch dim"]
