"""k-nearest neighbors, exact: k, Euclidean or cosine distance and z-scoring chosen on val."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from jaxtyping import Float32, Integer, Num
from sklearn.base import BaseEstimator, ClassifierMixin
from threadpoolctl import threadpool_limits

from data.machine import cpu_computes_bf16
from probes import inputs
from probes.card import ProbeCard
from probes.metrics import one_hot
from probes.scores import in_columns
from probes.search import FitTask, Trial, on_device
from probes.shapes import Decisions, Scores

CARD = ProbeCard(standardize="candidates", stored_dtype=True, gpu=True, limits={"k": (1,)})

K_VALUES = (1, 3, 5, 10, 20, 50)
# Every sample is compared with all of train, so candidates are evaluated on part of val, drawn by the seed. The chosen
# one then scores all of val.
MOST_JUDGED = 8192
JUDGED_ROWS = 4096  # scored together
QUERIES, TILE = 1024, 4096  # compared at a time: 17 MB of distances
# With this many rows of train or more, candidates are found in bf16 where the CPU supports it: 3 times as fast. The
# error of a product is 2^-9 of its value, from rounding it, and a few times 2^-9 / sqrt(D) of both lengths: below
# BF16_ERROR of these.
BF16_ROWS, BF16_ERROR = 50_000, 2**-9 + 2**-11
RERANKED = 32  # queries at a time: 132 candidates each are 13 MB
_LOCK = threading.Lock()


class Neighbours(ClassifierMixin, BaseEstimator):
    """The share of each class or label among the k nearest training samples.

    Args:
        kept: (N, D) training samples, as they are stored.
        labels: (N, K) uint8 or (N,) class numbers.
        k: neighbors, at most N.
        distance: ``euclidean`` or ``cosine``, the Euclidean distance between rows of length 1.
        mean: (D,) to subtract first, or None.
        scale: (D,) to divide by, or None.
        device: where to compare; a loaded probe is on the CPU.
    """

    def __init__(
        self, kept: Any, labels: Any, k: int, distance: str, mean: Any = None, scale: Any = None, device: str = "cpu"
    ) -> None:
        self.kept, self.labels = kept, labels
        self.k, self.distance = k, distance
        self.mean, self.scale = mean, scale
        self.device = device

    @property
    def classes_(self) -> Integer[np.ndarray, " classes"]:
        """Class numbers of the columns."""
        return np.arange(self.labels.shape[1]) if self.labels.ndim == 2 else np.unique(self.labels)

    @property
    def n_features_in_(self) -> int:
        """D."""
        return self.kept.shape[1]

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Without what `_ready` made, and in tiles: skops copies each array that it writes."""
        tiles = [self.kept[start : start + TILE] for start in range(0, len(self.kept), TILE)]
        return self.get_params(deep=False) | {"device": "cpu", "kept": tiles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"kept": np.concatenate(state["kept"])})

    def predict_proba(self, features: Num[np.ndarray, "samples dim"]) -> Scores:
        """Shares among the neighbors, one column per class in `classes_`, of features as they are stored."""
        return self.shares(self.neighbours(features))

    def predict(self, features: Num[np.ndarray, "samples dim"]) -> Decisions:
        """Multi-label rows, or class numbers."""
        scores = self.predict_proba(features)
        return (scores >= 0.5).astype(np.uint8) if self.labels.ndim == 2 else self.classes_[scores.argmax(axis=1)]

    def shares(self, near: Integer[np.ndarray, "samples k"]) -> Scores:
        """The share of each class or label among rows of train."""
        shown = self._shown()
        total = shown[near[:, 0]]
        for column in near.T[1:]:
            total += shown[column]
        return total / np.float32(near.shape[1])

    def neighbours(self, features: Num[np.ndarray, "samples dim"]) -> Integer[np.ndarray, "samples k"]:
        """Rows of train, the nearest first."""
        shift, _ = self._ready()
        queries = self._scaled(features) - shift
        if self.device == "cpu" and len(self.kept) >= BF16_ROWS and cpu_computes_bf16():
            return self._reranked(queries)
        return self._nearest(queries, self.k)[1]

    def _nearest(self, queries: np.ndarray, k: int, *, bf16: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The k highest x·t - |t|²/2, which are those of the least |x - t|, and their rows of train: (N, k) each."""
        parts = [queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES)]
        parts = [as_bf16(part) for part in parts] if bf16 else on_device(self.device, *parts)
        best: list[Any] = [None] * len(parts)
        # One OpenMP thread: PyTorch would start as many as there are cores in each of the callers' threads.
        with threadpool_limits(1, user_api="openmp") if bf16 else nullcontext():
            for start, rows, half_squares in self._tiles():
                rows = as_bf16(rows) if bf16 else rows
                for number, part in enumerate(parts):
                    close = part @ rows.T
                    close = close.float().numpy() if bf16 else close
                    close -= half_squares
                    best[number] = highest(close, start, best[number], k)
        values, at = (
            np.concatenate([part if isinstance(part, np.ndarray) else part.cpu().numpy() for part in parts])
            for parts in zip(*best, strict=True)
        )
        return values, at

    def _reranked(self, queries: np.ndarray) -> np.ndarray:
        """(N, k) rows of train: candidates by bf16 products, ranked by float32 products.

        Where rounding to bf16 might hide a neighbor, all of train is compared again in float32.
        """
        shift, half_squares = self._ready()
        count = min(self.k + 32, len(self.kept))
        rounded, rows = self._nearest(queries, count, bf16=True)
        exact = np.empty(rounded.shape, np.float32)
        for start in range(0, len(queries), RERANKED):
            near = rows[start : start + RERANKED]
            scaled = self._scaled(self.kept[near.ravel()]) - shift
            products = scaled.reshape(*near.shape, -1) @ queries[start : start + RERANKED, :, None]
            exact[start : start + RERANKED] = products[..., 0] - half_squares[near]
        order = np.lexsort((rows, -exact))[:, : self.k]
        near, kth = np.take_along_axis(rows, order, 1), np.take_along_axis(exact, order[:, -1:], 1)[:, 0]
        error = BF16_ERROR * np.linalg.norm(queries, axis=1) * np.sqrt(2 * half_squares.max())
        unsure = np.flatnonzero(kth < rounded[:, -1] + error)
        if len(unsure) and count < len(self.kept):
            near[unsure] = self._nearest(queries[unsure], self.k)[1]
        return near

    def _shown(self) -> np.ndarray:
        """One-hot classes of the training rows, float32; made once."""
        with _LOCK:
            if "_classes" not in vars(self):
                labels = self.labels if self.labels.ndim == 2 else one_hot(self.labels, self.labels.max() + 1)
                self._classes = labels[:, self.classes_].astype(np.float32)
            return self._classes

    def _ready(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean of the scaled rows, and half their squared lengths after subtracting it (N,); made once.

        Distances do not change when all rows are shifted, but far from 0 they would be lost to float32 rounding.
        """
        with _LOCK:
            if "_made" not in vars(self):
                starts = range(0, len(self.kept), TILE)
                sums = [self._scaled(self.kept[start : start + TILE]).sum(axis=0, dtype=float) for start in starts]
                shift = (np.sum(sums, axis=0) / len(self.kept)).astype(np.float32)
                scaled = (self._scaled(self.kept[start : start + TILE]) - shift for start in starts)
                half_squares = np.concatenate([np.einsum("nd,nd->n", tile, tile) / 2 for tile in scaled])
                self._on_gpu: dict[int, tuple[Any, Any]] = {}
                self._made = shift, half_squares
            return self._made

    def _tiles(self) -> Iterator[tuple[int, Any, Any]]:
        """Tile by tile: first row number, scaled rows and half their squared lengths.

        A GPU keeps them: it compares faster than they are scaled. On the CPU that would be a second copy.
        """
        shift, half_squares = self._ready()
        for start in range(0, len(self.kept), TILE):
            if start not in self._on_gpu:
                tile = self._scaled(self.kept[start : start + TILE]) - shift
                rows, lengths = on_device(self.device, tile, half_squares[start : start + TILE])
                if self.device == "cpu":
                    yield start, rows, lengths
                    continue
                self._on_gpu[start] = rows, lengths
            yield start, *self._on_gpu[start]

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        """Features (N, D) as new float32 rows between which the Euclidean distance is the distance wanted."""
        scaled = features.astype(np.float32)
        if self.mean is not None:
            scaled -= self.mean
            scaled /= self.scale
        if self.distance == "cosine":
            lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
            scaled /= np.where(lengths == 0, 1, lengths)
        return scaled


def as_bf16(array: Float32[np.ndarray, "rows dim"]) -> Any:
    """A torch tensor on the CPU, rounded to bf16."""
    import torch  # deferred: only for large train

    return torch.from_numpy(array).bfloat16()


def highest(close: Any, start: int, best: tuple[Any, Any] | None, k: int) -> tuple[Any, Any]:
    """The k highest values per row so far, the highest first, and their columns; NumPy or torch.

    The values (B, T) start at a column; `best` is the result for those before. Fewer columns than k give fewer values.
    """
    if not isinstance(close, np.ndarray):
        import torch  # deferred: only for a GPU

        values, at = close.topk(min(k, close.shape[1]), dim=1)
        at += start
        if best is not None:
            values, order = torch.cat([best[0], values], 1).topk(min(k, best[0].shape[1] + values.shape[1]), dim=1)
            at = torch.cat([best[1], at], 1).gather(1, order)
        return values, at
    if best is None or best[0].shape[1] < k:
        columns = np.broadcast_to(np.arange(start, start + close.shape[1]), close.shape)
        values, at = (close, columns) if best is None else (np.hstack([best[0], close]), np.hstack([best[1], columns]))
        if values.shape[1] > k:
            chosen = np.argpartition(-values, k - 1, axis=1)[:, :k]
            values, at = np.take_along_axis(values, chosen, 1), np.take_along_axis(at, chosen, 1)
    else:  # after a few tiles, few values are high enough
        row, column = np.divmod(np.flatnonzero(close > best[0][:, -1:]), close.shape[1])
        counts = np.bincount(row, minlength=len(close))
        slot = k + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        values = np.full((len(close), k + counts.max()), -np.inf, np.float32)
        at = np.zeros(values.shape, np.intp)
        values[:, :k], at[:, :k] = best
        values[row, slot], at[row, slot] = close[row, column], column + start
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, 1), np.take_along_axis(at, order, 1)


def candidates(
    rows: int,
    *,
    k_values: Sequence[int] | None = None,
    distances: Sequence[str] = ("euclidean", "cosine"),
    zscore: bool | None = None,
) -> list[dict[str, Any]]:
    """Hyper-parameters to try: features as they are before z-scored ones, smooth (large k) before rough.

    If all k exceed the number of training rows, that number is used; without ``zscore``, both are tried.
    """
    return [
        {"k": k, "distance": distance, "zscore": scaled}
        for scaled in ((False, True) if zscore is None else (zscore,))  # it hurts as often as it helps
        for distance in distances
        for k in [k for k in sorted(k_values or K_VALUES, reverse=True) if k <= rows] or [rows]
    ]


def search(task: FitTask) -> Iterator[Trial]:
    """Evaluate every k of one distance with one search, on at most `MOST_JUDGED` samples of val."""
    scaler = task.scaler()
    zscores = {"mean": np.asarray(scaler.mean_, np.float32), "scale": np.asarray(scaler.scale_, np.float32)}

    def fitted(params: dict[str, Any], k: int) -> Neighbours:
        scaled = zscores if params["zscore"] else {}
        return Neighbours(task.train, task.targets, k, params["distance"], device=task.settings.device, **scaled)

    if task.val is None:
        for params in task.candidates:
            yield task.evaluate(params, fitted(params, params["k"]), fit_s=0.0)
        return
    judged = np.sort(np.random.default_rng(task.seed).permutation(len(task.val_truth))[:MOST_JUDGED])
    val, truth = inputs.in_memory([task.val], judged), task.val_truth[judged]
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for params in task.candidates:
        groups.setdefault((params["distance"], params["zscore"]), []).append(params)
    for members in groups.values():
        start = time.perf_counter()
        widest = fitted(members[0], max(params["k"] for params in members))
        blocks = [val[row : row + JUDGED_ROWS] for row in range(0, len(val), JUDGED_ROWS)]
        with ThreadPoolExecutor(task.threads) as pool:
            near = np.concatenate(list(pool.map(widest.neighbours, blocks)))
        seconds = (time.perf_counter() - start) / len(members)  # nothing is fitted: all of this is scoring
        for params in members:
            probe = fitted(params, params["k"])
            given = probe.shares(near[:, : params["k"]])
            scores = in_columns(given, probe.classes_, classes=task.classes, multilabel=task.multilabel)
            said = task.judge(truth, scores)
            yield Trial(params, probe, None, *said, True, 0.0, seconds, {"val_samples_judged": len(judged)})
