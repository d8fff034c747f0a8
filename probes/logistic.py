"""L2-regularized logistic regression of all labels at once, along an ascending path of C.

The objective is scikit-learn's, ``C * sum(w * loss) + |W|² / 2`` with unpenalized intercepts, on z-scored features.
Small problems of mutually exclusive classes, up to `MOST_NEWTON` operations a step, go to scikit-learn's Newton solver,
which ends in a few steps where L-BFGS takes a thousand rounds: features of other scales, classes that separate. Its
Hessian has the square of all weights, so it is no choice for the others. Of scikit-learn's solvers for those, none fits
several labels at a time or preconditions; here

- all labels share each matrix product, but each label is a separate problem with its own step and curvature, and it is
  left out of the products once it has converged. A single L-BFGS over all labels, as in a network without hidden layer,
  is as slow as the slowest label and mixes their curvatures;
- L-BFGS (Nocedal & Wright, Numerical Optimization, algorithm 7.4) is preconditioned with a model of the Hessian that
  costs one product: the second moments of the features times the mean p (1 - p) of the label, plus the penalty (with
  more than `MOST_COORDINATES` coordinates, only the diagonal of the second moments);
- each C starts from the previous solution and keeps its curvature pairs: only the penalty has changed, which is known
  exactly. After a C of more than `MANY_ROUNDS` it starts where the line through the last two solutions, over the
  logarithm of C, leads to, if that is better: weights of classes that separate grow with it.

With more features than rows, the problem is solved in the span of the rows. This is exact: the penalty keeps the
weights of every optimum in that span (representer theorem), so N coordinates suffice, whatever D is.

Rows are processed in blocks whose sums are added in order, so the number of threads does not change the result. The
same code runs on NumPy arrays and on torch tensors, hence on a GPU.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

BLOCK_ROWS = 1024  # 3 MB at 768 features: stays in the cache between the two products of an iteration
MOST_COORDINATES = 5000  # limit for an eigendecomposition: about a minute on one core, and 0.6 GB
MEMORY = 10  # pairs of steps and gradient changes
# A label has converged when the expected step, in the norm of the Hessian, is below this share of the label's standard
# deviation. Probabilities are then within 1e-3 of the optimum at every C that val could choose; at the largest C, where
# rare classes become separable and the optimum diverges, within 3e-2 (20 times closer than scikit-learn's default).
TOLERANCE = 3e-4
MAX_ROUNDS = 1000
MANY_ROUNDS = 50
MOST_NEWTON = 3e8  # about the multiplications of a step: 20 ms on one core
# Of half the squared expected step in the norm of the Hessian; as `TOLERANCE` at its strictest.
NEWTON_TOLERANCE = 1e-12
# Up to this many feature values, float64 is used: where a label is almost separable at a large C, rounding errors of a
# float32 loss hide the last steps (probabilities stayed up to 0.08 from the optimum).
MOST_EXACT = 2_000_000
LEAST_SPREAD = 1e-5  # lower limit of the mean p (1 - p) of a label: it approaches 0 where all rows are decided
LEAST_SINGULAR = 1e-6  # singular values below this share of the largest are rounding errors of float32 features
NOISE = 1e-6  # relative error of a float32 loss: below it, only slopes show whether a step was good


@dataclass(frozen=True)
class Solution:
    """Weights at one C.

    Args:
        coef: float64.
        intercept: float64.
        converged: per label; a single entry for mutually exclusive classes.
        rounds: evaluations of the loss.
    """

    coef: Float64[np.ndarray, "classes dim"]
    intercept: Float64[np.ndarray, " classes"]
    converged: Bool[np.ndarray, " problems"]
    rounds: int


def solve_path(
    features: Any,
    targets: Any,
    c_values: Iterable[float],
    *,
    exclusive: bool,
    weights: Float[np.ndarray, "2 labels"] | None = None,
    threads: int = 1,
    tolerance: float = TOLERANCE,
    max_rounds: int = MAX_ROUNDS,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Iterator[Solution]:
    """The optimum at each C, the smallest first.

    Stops early when the time budget is spent: the first solution is always returned, even if unfinished; later ones
    only if they have converged.

    Args:
        features: (N, D) float32 z-scores, NumPy or torch.
        targets: (N, K) float32 of 0 and 1, of the same library; every column has both.
        c_values: ascending, as far as possible; each is asked for after the solution before it was used.
        exclusive: whether each row has exactly one class (softmax), else labels are independent (sigmoid).
        weights: (2, K) weights of zeros and of ones; for `exclusive` the second row holds the classes' weights.
        threads: for NumPy; torch uses its own.
        tolerance: see `TOLERANCE`; Newton's method has its own.
        max_rounds: evaluations of the loss for each C.
        out_of_time: called before every evaluation of the loss.
    """
    classes = targets.shape[1]
    if not classes:
        for _ in c_values:
            yield Solution(np.zeros((0, features.shape[1])), np.zeros(0), np.ones(0, bool), 0)
        return
    span = None
    if features.shape[1] > len(features) <= MOST_COORDINATES:
        features, span = _row_span(features)
        targets = _double(targets)
    elif features.shape[0] * features.shape[1] <= MOST_EXACT:
        features, targets = _double(features), _double(targets)
    variables = classes * (features.shape[1] + 1)
    small = (len(features) + variables / 3) * variables**2 <= MOST_NEWTON
    if exclusive and classes > 2 and isinstance(features, np.ndarray) and small:  # of two it has one row of weights
        path = _newton_path(features, targets, c_values, weights, max_rounds, out_of_time)
    else:
        loss = _Loss(features, targets, np.ones((2, classes)) if weights is None else weights, exclusive, threads)
        path = _lbfgs_path(loss, c_values, max_rounds, out_of_time, tolerance=tolerance, diagonal=span is not None)
    for solution in path:
        yield solution if span is None else replace(solution, coef=solution.coef @ span.T)


def _lbfgs_path(
    loss: "_Loss",
    c_values: Iterable[float],
    max_rounds: int,
    out_of_time: Callable[[], bool],
    *,
    tolerance: float,
    diagonal: bool,
) -> Iterator[Solution]:
    """See `solve_path`; ``diagonal`` says that the features' second moments are, as those of `_row_span`."""
    with loss:
        state = _State(loss, tolerance=tolerance, diagonal=diagonal)
        for number, c in enumerate(c_values):
            solution = state.solve(1 / (c * len(loss.features)), max_rounds, out_of_time)
            if number and out_of_time() and not solution.converged.all():
                return
            yield solution


def _newton_path(
    features: np.ndarray,
    targets: np.ndarray,
    c_values: Iterable[float],
    weights: np.ndarray | None,
    max_rounds: int,
    out_of_time: Callable[[], bool],
) -> Iterator[Solution]:
    """See `solve_path`; a started C is finished, and rounds are steps of Newton's method."""
    from scipy.linalg import LinAlgWarning
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # deferred: slow to import

    labels = targets.argmax(axis=1)
    model: Any = LogisticRegression(
        solver="newton-cholesky", warm_start=True, tol=NEWTON_TOLERANCE, max_iter=max_rounds
    )
    for number, c in enumerate(c_values):
        if number and out_of_time():
            return
        with warnings.catch_warnings():
            # The solution records whether it converged; scikit-learn continues with L-BFGS if the Hessian is singular.
            for category in (ConvergenceWarning, LinAlgWarning):
                warnings.simplefilter("ignore", category)
            model.set_params(C=c).fit(features, labels, None if weights is None else weights[1][labels])
        rounds = int(np.max(model.n_iter_))
        yield Solution(model.coef_.copy(), np.array(model.intercept_), np.array([rounds < max_rounds]), rounds)
        model.intercept_ -= model.intercept_[-1]  # the same model, from which scikit-learn 1.6 can start the next C


def _double(array: Any) -> Any:
    return array.astype(np.float64) if isinstance(array, np.ndarray) else array.double()


def _row_span(features: Any) -> tuple[Any, np.ndarray]:
    """Coordinates of the rows in an orthonormal basis of their span.

    With ``X X' = U S² U'`` the coordinates are ``U S`` and the basis is ``X' U / S``.

    Returns:
        (N, R) float64 of the same library, R at most N, and the basis (D, R) float64.
    """
    rows = features if isinstance(features, np.ndarray) else features.cpu().numpy()
    # Blocks of columns: no second copy of all features in float64.
    blocks = [rows[:, start : start + BLOCK_ROWS] for start in range(0, rows.shape[1], BLOCK_ROWS)]
    gram = np.zeros((len(rows), len(rows)))
    for block in blocks:
        wide = block.astype(np.float64)
        gram += wide @ wide.T
    squares, u = np.linalg.eigh(gram)
    kept = squares > LEAST_SINGULAR**2 * squares[-1]
    singular, u = np.sqrt(squares[kept]), u[:, kept]
    basis = np.concatenate([block.T @ (u / singular) for block in blocks])
    coordinates = u * singular
    if isinstance(features, np.ndarray):
        return coordinates, basis
    import torch  # deferred: only for a GPU

    return torch.from_numpy(coordinates).to(features.device), basis


class _Loss:
    """Mean loss, its gradient and the mean p (1 - p), over all rows."""

    def __init__(self, features: Any, targets: Any, weights: np.ndarray, exclusive: bool, threads: int) -> None:
        if isinstance(features, np.ndarray):
            self.xp: Any = np
            self.rows = BLOCK_ROWS
            self.put = lambda array: np.ascontiguousarray(array, features.dtype)
        else:
            import torch  # deferred: only for a GPU

            self.xp, self.rows, threads = torch, len(features), 1
            self.put = lambda array: torch.tensor(array, dtype=features.dtype, device=features.device)
        self.features, self.targets, self.exclusive = features, targets, exclusive
        self.given, self.weights = weights, self.put(weights)
        self.threads = threads

    def __enter__(self) -> None:
        self.pool = ThreadPoolExecutor(self.threads)

    def __exit__(self, *exc: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def log_odds(self) -> np.ndarray:
        """The best intercepts without features, (K,)."""
        share = np.asarray(self.targets.mean(0) if self.xp is np else self.targets.mean(0).cpu(), np.float64)
        zeros, ones = self.given * np.stack([1 - share, share])
        return np.log(ones) if self.exclusive else np.log(ones / zeros)

    def second_moments(self) -> np.ndarray:
        """X'X / N, (D, D) float64."""

        def block(start: int) -> tuple[Any]:
            x = self.features[start : start + 8 * self.rows]
            return (x.T @ x,)

        return self._sums(block, 8 * self.rows)[0] / len(self.features)

    def squares(self) -> np.ndarray:
        """The diagonal of `second_moments`, (D,) float64."""

        def block(start: int) -> tuple[Any]:
            return ((self.features[start : start + self.rows] ** 2).sum(0, dtype=self.xp.float64),)

        return self._sums(block, self.rows)[0] / len(self.features)

    def evaluate(self, coef: np.ndarray, intercept: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        """Loss (P,), gradients (D, L) and (L,), and mean p (1 - p) (L,), of the L given labels, in float64."""
        xp, w, b = self.xp, self.put(coef), self.put(intercept)
        every = len(labels) == self.targets.shape[1]
        chosen = slice(None) if every else labels
        w0, w1 = self.weights[0, chosen], self.weights[1, chosen]

        def block(start: int) -> tuple[Any, ...]:
            x, y = self.features[start : start + self.rows], self.targets[start : start + self.rows][:, chosen]
            z = x @ w + b
            if self.exclusive:
                z = z - xp.amax(z, 1)[:, None]
                e = xp.exp(z)
                # Not 1 - p and log(total): for decided rows these would be rounding errors only.
                others = (e * (1 - y)).sum(1)[:, None]
                own, own_z = (e * y).sum(1)[:, None], (y * z).sum(1)[:, None]
                total = others + own
                decided = others < own
                loss = xp.where(decided, xp.log1p(others / xp.where(decided, own, 1.0)), xp.log(total) - own_z)
                row = (y * w1).sum(1)[:, None]
                each = (row * loss).sum(dtype=xp.float64)[None]
                p = e / total
                rest = row * xp.where(y > 0, -others / total, p)
                spread = p * xp.where(y > 0, others / total, 1 - p)
            else:
                e = xp.exp(-xp.abs(z))
                p, q = xp.where(z >= 0, 1.0, e) / (1 + e), xp.where(z >= 0, e, 1.0) / (1 + e)
                weight = y * w1 + (1 - y) * w0
                wrong = xp.where(y > 0, -z, z)
                each = (weight * (xp.log1p(e) + xp.where(wrong > 0, wrong, 0.0))).sum(0, dtype=xp.float64)
                rest = weight * xp.where(y > 0, -q, p)
                spread = p * q
            return each, x.T @ rest, rest.sum(0, dtype=xp.float64), spread.sum(0, dtype=xp.float64)

        return tuple(total / len(self.features) for total in self._sums(block, self.rows))

    def _sums(self, block: Any, rows: int) -> list[np.ndarray]:
        """Sums over blocks of rows, added in order."""
        totals: list[np.ndarray] = []
        starts = range(0, len(self.features), rows)
        each = self.pool.map if min(self.threads, len(starts)) > 1 else map  # thousands of calls: a thread's costs more
        for parts in each(block, starts):
            arrays = [np.asarray(part if self.xp is np else part.cpu(), np.float64) for part in parts]
            totals = [total + array for total, array in zip(totals, arrays, strict=True)] if totals else arrays
        return totals


class _State:
    """L-BFGS of P independent problems in parallel, in the basis that makes the features' second moments diagonal.

    The variables of a label are its D weights in that basis and its intercept. Mutually exclusive classes are one
    problem of K (D + 1) variables, other labels are K problems of D + 1.
    """

    def __init__(self, loss: _Loss, *, tolerance: float, diagonal: bool) -> None:
        self.loss, self.tolerance = loss, tolerance
        self.classes, dim = loss.targets.shape[1], loss.features.shape[1]
        self.problems = problems = 1 if loss.exclusive else self.classes
        if diagonal or dim > MOST_COORDINATES:
            moments, self.basis = loss.squares(), None
        else:
            moments, self.basis = np.linalg.eigh(loss.second_moments())
        self.moments = np.append(np.maximum(moments, 0), 1.0)  # 1: of the intercept's constant feature
        self.penalised = np.append(np.ones(dim), 0.0)
        start = np.zeros((self.classes, dim + 1))
        start[:, -1] = loss.log_odds()
        self.x = start.reshape(problems, -1)
        self.steps = np.zeros((MEMORY, *self.x.shape))  # newest first
        self.changes = np.zeros_like(self.steps)
        self.penalty: float | None = None
        self.hard, self.solved = False, []  # whether the last C took many rounds; the last two penalties and solutions

    def solve(self, penalty: float, max_rounds: int, out_of_time: Callable[[], bool]) -> Solution:
        """The optimum of the mean loss plus ``penalty / 2 * |W|²``, starting at the previous one."""
        every = np.arange(self.problems)
        if self.penalty is not None:  # the previous gradient changes, under this penalty
            self.changes += (penalty - self.penalty) * self._spread(self.penalised) * self.steps
        self.penalty = penalty
        if self.hard and len(self.solved) == 2:
            (p1, x1), (p2, x2) = self.solved
            ahead = x2 + np.log(penalty / p2) / np.log(p2 / p1) * (x2 - x1)
            better = self._evaluate(every, ahead)[0] < self._evaluate(every, x2)[0]
            self.x[better] = ahead[better]
        self.preconditioner, self.tolerances = np.empty_like(self.x), np.empty(self.problems)
        self.value, self.gradient, spread = self._evaluate(every, self.x)
        self._precondition(every, spread)
        self.direction = np.zeros_like(self.x)
        self.step = np.ones(self.problems)
        fresh = np.zeros(self.problems, bool)  # whether the direction uses no memory
        active = ~self._converged(every)
        self._set_direction(every)
        rounds = 1
        while active.any() and rounds < max_rounds and not out_of_time():
            rounds += 1
            now = np.flatnonzero(active)
            x = self.x[now] + self.step[now, None] * self.direction[now]
            f, g, spread = self._evaluate(now, x)
            before, after = (
                (self.gradient[now] * self.direction[now]).sum(axis=1),
                (g * self.direction[now]).sum(axis=1),
            )
            good = f <= self.value[now] + 1e-4 * self.step[now] * before
            # Hager & Zhang 2005, (4.1): near the optimum the loss is noise, and slopes decide.
            good |= (f <= self.value[now] + NOISE * np.abs(self.value[now])) & (after <= -0.8 * before)
            if len(kept := now[good]):
                self._add_to_memory(kept, x[good] - self.x[kept], g[good] - self.gradient[kept])
                self.x[kept], self.value[kept], self.gradient[kept] = x[good], f[good], g[good]
                self._precondition(kept, spread.reshape(len(now), -1)[good])
                self.step[kept], fresh[kept] = 1, False
                active[kept] = ~self._converged(kept)
                self._set_direction(kept)
            if len(missed := now[~good]):
                self._shorten(missed, f[~good], before[~good])
                lost = missed[self.step[missed] < 1e-6]
                active[lost[fresh[lost]]] = False  # no step helps, even along the preconditioned gradient
                self._forget(lost)
                fresh[lost], self.step[lost] = True, 1
                self._set_direction(lost)
        self.hard = rounds > MANY_ROUNDS
        self.solved = [*self.solved[-1:], (penalty, self.x.copy())]
        weights = self.x.reshape(self.classes, -1)
        return Solution(self._in_features(weights[:, :-1]), weights[:, -1].copy(), self._converged(every), rounds)

    def _evaluate(self, now: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Objective (P,), gradient (P, M) and mean p (1 - p) of the given problems, at x (P, M)."""
        labels = now if self.problems > 1 else np.arange(self.classes)
        weights = x.reshape(len(labels), -1)
        f, coef, intercept, spread = self.loss.evaluate(self._in_features(weights[:, :-1]).T, weights[:, -1], labels)
        shrink = self.penalty * self.penalised * weights
        g = np.column_stack([coef.T if self.basis is None else coef.T @ self.basis, intercept]) + shrink
        return f + (shrink * weights).reshape(len(x), -1).sum(axis=1) / 2, g.reshape(x.shape), spread

    def _in_features(self, weights: np.ndarray) -> np.ndarray:
        """Weights (L, D) of the basis as weights of the features."""
        return weights.copy() if self.basis is None else weights @ self.basis.T

    def _precondition(self, now: np.ndarray, spread: np.ndarray) -> None:
        """Set the preconditioner, the inverse of a model of the Hessian's diagonal, and the convergence limits."""
        spread = np.maximum(spread.reshape(len(now), -1, 1), LEAST_SPREAD)
        diagonal = spread * self.moments + self.penalty * self.penalised
        self.preconditioner[now] = 1 / diagonal.reshape(len(now), -1)
        self.tolerances[now] = self.tolerance * np.sqrt(spread.min(axis=(1, 2)))

    def _converged(self, now: np.ndarray) -> np.ndarray:
        return np.sqrt((self.gradient[now] ** 2 * self.preconditioner[now]).sum(axis=1)) <= self.tolerances[now]

    def _set_direction(self, now: np.ndarray) -> None:
        """New directions by the two-loop recursion of L-BFGS; the preconditioned gradient where that is no descent."""
        steps, changes = self.steps[:, now], self.changes[:, now]
        curved = (steps * changes).sum(axis=2)
        rho = np.divide(1, curved, out=np.zeros_like(curved), where=curved > 0)  # 0 where there is no memory
        q = self.gradient[now].copy()
        alphas = []
        for s, y, r in zip(steps, changes, rho, strict=True):
            alphas.append(r * (s * q).sum(axis=1))
            q -= alphas[-1][:, None] * y
        size = (changes[0] ** 2 * self.preconditioner[now]).sum(axis=1)
        scale = np.divide(curved[0], size, out=np.ones_like(size), where=size > 0)
        direction = scale[:, None] * self.preconditioner[now] * q
        for s, y, r, alpha in zip(steps[::-1], changes[::-1], rho[::-1], alphas[::-1], strict=True):
            direction += (alpha - r * (y * direction).sum(axis=1))[:, None] * s
        uphill = (direction * self.gradient[now]).sum(axis=1) <= 0
        self._forget(now[uphill])
        direction[uphill] = self.preconditioner[now[uphill]] * self.gradient[now[uphill]]
        self.direction[now] = -direction

    def _add_to_memory(self, now: np.ndarray, steps: np.ndarray, changes: np.ndarray) -> None:
        curved = (steps * changes).sum(axis=1)
        keep = curved > 1e-10 * np.sqrt((steps**2).sum(axis=1) * (changes**2).sum(axis=1))
        for memory, newest in ((self.steps, steps[keep]), (self.changes, changes[keep])):
            memory[1:, now[keep]] = memory[:-1, now[keep]]
            memory[0, now[keep]] = newest

    def _forget(self, now: np.ndarray) -> None:
        self.steps[:, now] = self.changes[:, now] = 0

    def _shorten(self, now: np.ndarray, f: np.ndarray, slope: np.ndarray) -> None:
        """Shorten the step to the minimum of the interpolating parabola, at most to a half and at least to a tenth."""
        t = self.step[now]
        bend = f - self.value[now] - slope * t
        lowest = np.divide(-slope * t**2, 2 * bend, out=t / 2, where=bend > 0)
        self.step[now] = np.clip(lowest, t / 10, t / 2)

    def _spread(self, each: np.ndarray) -> np.ndarray:
        """Values for the D + 1 variables of a label as values for the M variables of a problem."""
        return np.tile(each, self.x.shape[1] // len(each))
