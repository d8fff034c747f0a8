"""What each probe kind can do, as a typed card in its file, and the registry of the kinds."""

from dataclasses import dataclass, field
from typing import Literal

from data.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ProbeCard:
    """What a probe kind can do and how its candidates are fitted.

    Args:
        standardize: ``train``: z-score features by train unless ``--no-standardize`` is given; ``candidates``: both
            are candidates; ``never``: the kind has no such step.
        parallel_fit: whether fitting one estimator uses all threads; otherwise each thread fits one candidate.
        stored_dtype: whether the kind takes features in the type in which they are stored; otherwise as float32.
        class_weights: ``single-label`` and ``multi-label``, where the kind can weight classes (``--balanced``).
        gpu: whether the kind can run on ``--device cuda``.
        limits: by hyper-parameter, values beyond which there are none, such as one neighbor.
    """

    standardize: Literal["never", "train", "candidates"] = "never"
    parallel_fit: bool = False
    stored_dtype: bool = False
    class_weights: tuple[str, ...] = ()
    gpu: bool = False
    limits: dict[str, tuple[int, ...]] = field(default_factory=dict)


PROBES = Registry("probes.kinds", "probe", ProbeCard)
