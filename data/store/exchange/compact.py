"""Smaller vectors for export: principal components and 8-bit numbers, with what they cost a linear probe."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped

from data import paths
from data.errors import RequestError
from data.store.reader import FeatureSet, read_features, splits_in

LEVELS = 254  # -127 to 127
PROBE_ROWS = 20_000  # at most, for the comparison


@dataclass(frozen=True)
class Compact:
    """Vectors to write, and how to read them.

    Args:
        vectors: (N, D) float32 or int8.
        pca: dimensions kept and their share of the variance; None without.
        quantization: as in STAC's embedding extension; None without.
        scores: of a linear probe on the vectors as stored and as written; None where no labels allow one.
    """

    vectors: Shaped[np.ndarray, "samples dim"]
    pca: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None


def compacted(features: FeatureSet, pca: int | None, quantize: str | None) -> Compact:
    """Vectors of one split with fewer dimensions, or as 8-bit integers, or both.

    Components, scales and offsets are fitted on the train split beside the file, if there is one, else on the file's
    own vectors, so that all splits agree. Values beyond those seen in fitting are clipped.

    Args:
        features: one whole split.
        pca: dimensions to keep; None for all.
        quantize: ``int8`` or None.

    Raises:
        RequestError: more dimensions than there are, or than samples to fit them on.
    """
    if not pca and not quantize:
        return Compact(features.features.astype(np.float32))
    beside = {split: paths.feature_file(features.file.parent, split) for split in splits_in(features.file.parent)}
    held = {split: features if file == features.file else read_features(file) for split, file in beside.items()}
    fitted = _Fitted(held.get("train", features).features.astype(np.float32), pca)
    change = fitted.codes if quantize else fitted.reduced
    back = (lambda values: fitted.decoded(fitted.codes(values))) if quantize else fitted.reduced
    return Compact(
        vectors=change(features.features.astype(np.float32)),
        pca={"dimensions": pca, "explained_variance": fitted.explained} if pca else None,
        quantization=fitted.quantization() if quantize else None,
        scores=_probe_scores(held, back),
    )


class _Fitted:
    def __init__(self, vectors: Float32[np.ndarray, "samples dim"], pca: int | None) -> None:
        self._vectors, self._pca, self.explained = vectors, None, 1.0
        if pca:
            if not 1 <= pca <= min(vectors.shape):
                raise RequestError(
                    f"--pca {pca}: there are {vectors.shape[1]} dimensions and {len(vectors)} samples to fit on; "
                    f"give 1 to {min(vectors.shape)}"
                )
            from sklearn.decomposition import PCA  # deferred: only here

            self._pca = PCA(pca, random_state=0).fit(vectors)
            self.explained = float(self._pca.explained_variance_ratio_.sum())

    def reduced(self, vectors: Float32[np.ndarray, "samples dim"]) -> Float32[np.ndarray, "samples kept"]:
        return self._pca.transform(vectors).astype(np.float32) if self._pca else vectors

    @cached_property
    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset of each dimension, (D,) each."""
        values = self.reduced(self._vectors)
        least, most = np.nanmin(values, axis=0).astype(np.float64), np.nanmax(values, axis=0).astype(np.float64)
        return np.maximum(most - least, np.finfo(np.float32).tiny) / LEVELS, (most + least) / 2

    def quantization(self) -> dict[str, Any]:
        scale, offset = (values.tolist() for values in self.range)
        kinds = {"method": "linear", "original_dtype": "float32", "quantized_dtype": "int8"}
        return kinds | {"scale": scale, "offset": offset}

    def codes(self, vectors: Float32[np.ndarray, "samples dim"]) -> Shaped[np.ndarray, "samples kept"]:
        scale, offset = self.range
        return np.rint((self.reduced(vectors) - offset) / scale).clip(-LEVELS // 2, LEVELS // 2).astype(np.int8)

    def decoded(self, codes: Shaped[np.ndarray, "samples kept"]) -> Float[np.ndarray, "samples kept"]:
        scale, offset = self.range
        return (codes * scale + offset).astype(np.float32)


def _probe_scores(held: dict[str, FeatureSet], change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any] | None:
    """Scores of ridge regression on the classes, fitted on train and scored on test (else val), before and after."""
    scored = held.get("test") or held.get("val")
    train = held.get("train")
    if not train or not scored or not train.class_names or any((one.labels < 0).any() for one in (train, scored)):
        return None
    from sklearn.linear_model import Ridge  # deferred: only here
    from sklearn.metrics import average_precision_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.random.default_rng(0).permutation(len(train.labels))[:PROBE_ROWS]
    onehot = train.labels if train.multilabel else np.eye(len(train.class_names))[train.labels]

    def score(change: Callable[[np.ndarray], np.ndarray]) -> float:
        fit_on, apply_to = (change(one.astype(np.float32)) for one in (train.features[rows], scored.features))
        scores = make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(fit_on, onehot[rows]).predict(apply_to)
        if not scored.multilabel:
            return float((scores.argmax(axis=1) == scored.labels).mean())
        occurring = scored.labels.any(axis=0)
        return float(average_precision_score(scored.labels[:, occurring], scores[:, occurring], average="macro"))

    return {
        "metric": "mAP (macro)" if scored.multilabel else "accuracy",
        "split": scored.identity["split"]["name"],
        "train_samples": len(rows),
        "before": score(lambda vectors: vectors),
        "after": score(change),
    }
