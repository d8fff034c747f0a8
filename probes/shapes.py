"""Shapes of arrays that many functions take."""

import numpy as np
from jaxtyping import Bool, Float

Truth = Bool[np.ndarray, "samples classes"]  # labels or decisions, one column per class
Scores = Float[np.ndarray, "samples classes"]  # probabilities, one column per class
