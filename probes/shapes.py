"""Words that many functions of this package share, and the shapes of their arrays.

``truth``, and ``decided`` or ``predicted``: labels and decisions; ``scores``: probabilities; ``names``: the K class
names; ``multilabel``: whether a sample may have several classes, so that the columns are independent labels; ``units``:
the independent units of a split (`probes.spatial.Units`); ``seed``: of everything drawn at random.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Num

Truth = Bool[np.ndarray, "samples classes"]  # labels or decisions, one column per class
Scores = Float[np.ndarray, "samples classes"]  # probabilities, one column per class
Decisions = Integer[np.ndarray, "samples classes"] | Integer[np.ndarray, " samples"]  # multi-label rows, class numbers
Counts = Num[np.ndarray, "..."]  # of any shape, as long as they broadcast
Rates = Float64[np.ndarray, "..."]
