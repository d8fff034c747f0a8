"""Training of scikit-learn's networks epoch by epoch, on the CPU by scikit-learn itself or on a GPU by torch."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num
from sklearn.neural_network import MLPClassifier

from probes.metrics import one_hot

_NO_STEP = 1e-30  # a learning rate too small to change any weight
_BATCHES_AT_ONCE = 256  # passed to scikit-learn together: bounds the copy of shuffled rows


class DivergedError(ValueError):
    """Training led to weights that are infinite or NaN."""


def initialize(
    model: MLPClassifier,
    features: Num[np.ndarray, "samples dim"],
    labels: Integer[np.ndarray, "samples classes"] | Integer[np.ndarray, " samples"],
    *,
    rows: int = 200,
) -> MLPClassifier:
    """The network before its first step: scikit-learn draws the weights when it sees a batch, here the first rows."""
    classes = np.arange(labels.shape[1]) if labels.ndim == 2 else np.unique(labels)
    given = {name: model.get_params()[name] for name in ("learning_rate_init", "batch_size", "shuffle")}
    model.set_params(learning_rate_init=_NO_STEP, batch_size=len(labels[:rows]), shuffle=False)
    model.partial_fit(features[:rows], labels[:rows], classes=classes)
    del model._optimizer  # it has the moments of that step; scikit-learn creates a new one
    return model.set_params(**given)


def train_epoch(
    model: MLPClassifier,
    features: Num[np.ndarray, "samples dim"],
    labels: Integer[np.ndarray, "samples classes"] | Integer[np.ndarray, " samples"],
    rows: Integer[np.ndarray, " order"],
    batch: int,
    weights: Float[np.ndarray, " samples"] | None = None,
) -> None:
    """One step of Adam per batch, in the order of `rows`.

    Args:
        model: from `initialize`, or trained before; its own ``batch_size`` and ``shuffle`` are replaced.
        features: of training.
        labels: multi-label rows or class numbers.
        rows: in their order; not all need to occur.
        batch: samples per step.
        weights: of all samples, or None.

    Raises:
        DivergedError: weights became infinite.
    """

    def fit(chunk: np.ndarray) -> None:
        given = {} if weights is None else {"sample_weight": weights[chunk]}
        with np.errstate(all="ignore"):  # scikit-learn checks the weights afterwards
            model.set_params(batch_size=min(batch, len(chunk)), shuffle=False)
            model.partial_fit(features[chunk], labels[chunk], **given)

    with ThreadPoolExecutor(1) as thread:  # in the main thread, scikit-learn would catch Ctrl-C and go on untrained
        for start in range(0, len(rows), batch * _BATCHES_AT_ONCE):
            try:
                thread.submit(fit, rows[start : start + batch * _BATCHES_AT_ONCE]).result()
            except ValueError as error:
                if _finite([*model.coefs_, *model.intercepts_]):
                    raise
                raise DivergedError from error


def _finite(arrays: list[np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in arrays)


class Trainer:
    """scikit-learn's training by Adam in torch: the same loss, penalty and steps, on any device.

    Args:
        model: from `initialize`; `finish` gives it the trained weights.
        features: z-scored training features; they stay on the device.
        labels: multi-label rows or class numbers.
        device: of torch.
        weights: per sample, or None.
    """

    def __init__(
        self,
        model: MLPClassifier,
        features: Num[np.ndarray, "samples dim"],
        labels: Integer[np.ndarray, "samples classes"] | Integer[np.ndarray, " samples"],
        device: str,
        weights: Float[np.ndarray, " samples"] | None = None,
    ) -> None:
        import torch  # deferred: only for a GPU

        self.torch, self.model, self.device = torch, model, device
        self.exclusive = model.out_activation_ == "softmax"
        if labels.ndim == 1:
            labels = one_hot(np.searchsorted(model.classes_, labels), len(model.classes_))
            labels = labels if self.exclusive else labels[:, 1:]  # of two classes, only the second has an output
        put = self._put
        self.features, self.labels = put(features), put(labels.astype(np.float32))
        self.weights = None if weights is None else put(weights.astype(np.float32))
        self.values = [put(value) for value in (*model.coefs_, *model.intercepts_)]
        self.first, self.second = ([torch.zeros_like(value) for value in self.values] for _ in range(2))
        self.steps = self.epochs = 0

    def _put(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def epoch(self, rows: Integer[np.ndarray, " order"], batch: int) -> None:
        """One step per batch, in the order of `rows`."""
        self.epochs += 1
        with self.torch.inference_mode():
            for some in self._put(rows).split(batch):
                self._step(self._gradients(some))

    def _gradients(self, rows: Any) -> list[Any]:
        """Of the mean loss of these rows plus the penalty, for `values`."""
        torch, layers = self.torch, len(self.values) // 2
        coefs, intercepts = self.values[:layers], self.values[layers:]
        seen = [self.features[rows]]
        for coef, intercept in zip(coefs, intercepts, strict=True):
            seen.append(torch.addmm(intercept, seen[-1], coef))
            if len(seen) <= layers:
                seen[-1].relu_()
        output = seen.pop()
        error = (output.softmax(1) if self.exclusive else output.sigmoid()) - self.labels[rows]
        count = len(rows)
        if self.weights is not None:
            error *= self.weights[rows][:, None]
            count = self.weights[rows].sum()
        of_coefs, of_intercepts = [], []
        for coef, below in zip(coefs[::-1], seen[::-1], strict=True):
            of_coefs.insert(0, torch.addmm(coef, below.T, error, beta=self.model.alpha) / count)
            of_intercepts.insert(0, error.sum(0) / count)
            if below is not seen[0]:
                error = (error @ coef.T) * (below > 0)
        return of_coefs + of_intercepts

    def _step(self, gradients: list[Any]) -> None:
        """Adam (Kingma & Ba 2015, arXiv:1412.6980, end of section 2), as scikit-learn has it."""
        self.steps += 1
        one, two = self.model.beta_1, self.model.beta_2
        rate = self.model.learning_rate_init * (1 - two**self.steps) ** 0.5 / (1 - one**self.steps)
        for value, first, second, gradient in zip(self.values, self.first, self.second, gradients, strict=True):
            first.lerp_(gradient, 1 - one)
            second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
            value.addcdiv_(first, second.sqrt().add_(self.model.epsilon), value=-rate)

    def finish(self) -> MLPClassifier:
        """The network with the weights so far.

        Raises:
            DivergedError: they became infinite.
        """
        arrays = [value.cpu().numpy().copy() for value in self.values]
        if not _finite(arrays):
            raise DivergedError
        layers = len(arrays) // 2
        self.model.coefs_, self.model.intercepts_ = arrays[:layers], arrays[layers:]
        self.model.n_iter_ = self.epochs
        return self.model
