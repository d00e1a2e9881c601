"""Linear L2-SVM of DCGAN's Tables 1 and 2: the objective of scikit-learn's ``LinearSVC``, on features left on disk.

Per class, with targets y = +-1 and a constant 1 appended to every x, so that the intercept is penalised (as liblinear
does):

    P(w) = 1/2 |w|^2 + C sum_i max(0, 1 - y_i w.x_i)^2

P is convex and piecewise quadratic. All classes are solved together by Newton steps with an exact line search (Keerthi
and DeCoste, "A modified finite Newton method for fast solution of large scale linear SVMs", JMLR 2005): one reading of
the features serves every class. Products are float32 on the way, which decides how many steps are taken and not where
they end: the objective and the gradient that a fit stops at are float64.

With a_i = 2 C max(0, 1 - y_i w.x_i) as the dual variables the duality gap is |grad P(w)|^2 / 2 exactly, so the gradient
proves how far the objective can be from its minimum. The proof is far from tight where 2 C |x|^2 is large; beyond 1e7
or so it asks for more than float64 holds, and a fit ends with a warning although its objective no longer falls.
"""

# ruff: noqa: N803, N806 - C and X are scikit-learn's names
from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

DTYPES = (np.float32, np.float64, np.float16)  # kept as they are; anything else that is numbers becomes the first
INNER_ACCURACY = 0.03  # of a Newton system, in the preconditioner's norm: more costs Newton steps, less costs products
INNER_PRODUCTS = 300  # at most, per Newton step
FLOAT32_STEPS = 20  # Newton steps, then float64: no more than ten are needed where float32 suffices
LADDER_RATIO = 10.0  # a start from another C helps up to here
LADDER_TOLERANCE = 0.1
GRAM_COLUMNS = 512  # products are summed in float32 so far, then in float64
READING = 40  # multiply-adds of inner products that take as long as reading one number for a product; measured


class LinearL2SVM(ClassifierMixin, BaseEstimator):
    """One-vs-rest linear SVM with squared hinge loss and l2 penalty, intercept penalised.

    The minimum is that of ``LinearSVC(C=C, loss="squared_hinge", penalty="l2", fit_intercept=True,
    intercept_scaling=1)``. Features may be a float16, float32 or float64 array or memory map, read by blocks and never
    copied whole (on a GPU they are moved there once, in their own precision). The same input on the same threads gives
    the same bytes.

    Parameters
    ----------
    C : float > 0
        Weight of the loss.
    tol : float > 0
        A class is solved when its duality gap is at most ``tol`` times its objective. The gap is an upper bound:
        the objective is typically ten to a hundred times closer to its minimum.
    max_iter : int > 0
        Newton steps per value of C; what is not solved by then is returned with a ``ConvergenceWarning``.
    rank : int >= 0
        Directions of largest variance that are solved exactly in every Newton system, for each class on its own; the
        conjugate gradients see the rest only. Changes the time, not the result. Memory: 4 bytes x rank x features and
        4 bytes x rank x rows.
    gram_rows : int >= 0
        Up to so many rows, if there are fewer rows than features, the rows are first expressed in an orthonormal basis
        of the space that they span (n numbers a row): a whole path of C then costs little more than their inner
        products. The answer is still checked, and if need be improved, on the features. Memory: 20 bytes x rows^2.
    system_mib : int >= 0
        Where C is so large that the conjugate gradients get slow, Newton systems are solved exactly, through the inner
        products of the rows within the margin, if those of all classes fit in so much memory. Changes the time, not
        the result.
    block_mib : int > 0
        Size of the blocks that the features are read in. Changes rounding only.
    device : str
        Where products are computed: "cpu" or "cuda".

    Attributes
    ----------
    classes_ : array (n_classes,)
    coef_ : float64 array (n_classes, n_features), or (1, n_features) for two classes
    intercept_ : float64 array (n_classes,) or (1,)
    objective_ : float64 array, like ``intercept_``
        P of each class.
    duality_gap_ : float64 array, like ``intercept_``
        P is at most so far above its minimum.
    n_iter_ : int
        Newton steps taken, those towards a starting point included.
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = 1e-4,
        max_iter: int = 100,
        rank: int = 256,
        gram_rows: int = 4096,
        system_mib: int = 128,
        block_mib: int = 16,
        device: str = "cpu",
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.rank = rank
        self.gram_rows = gram_rows
        self.system_mib = system_mib
        self.block_mib = block_mib
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Solve for one C.

        Raises
        ------
        ValueError
            If a parameter, the shapes or dtypes are not as documented, a feature is NaN or infinite, or y has one
            class only.
        """
        path = self._path(X, y, [self.C])
        return self._take(path, path.minimum(float(self.C)))

    def fit_path(self, X: Any, y: Any, Cs: Iterable[float]) -> Iterator[Self]:
        """One fitted copy of this estimator for each C, in the order given, each started from the one before.

        Fastest in ascending order. Input is checked at once (errors as of :meth:`fit`), the work is done as the copies
        are asked for.
        """
        values = list(Cs)
        path = self._path(X, y, values)

        def fitted() -> Iterator[Self]:
            for C in values:
                copy: Self = clone(self)  # pyright: ignore[reportAssignmentType] - clone also takes containers
                copy.set_params(C=C)
                for name in ("n_features_in_", "feature_names_in_", "classes_"):
                    if hasattr(self, name):
                        setattr(copy, name, getattr(self, name))
                yield copy._take(path, path.minimum(float(C)))

        return fitted()

    def decision_function(self, X: Any) -> np.ndarray:
        """float64 (n, n_classes), or (n,) for two classes; products are float32 unless the features are float64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False, ensure_all_finite=False)
        rows = _Rows(_as_tensor(X, self.device), intercept=True, block_mib=self.block_mib)
        rows.check()
        w = torch.from_numpy(np.column_stack([self.coef_, self.intercept_])).to(self.device)
        dtype = torch.float64 if X.dtype == np.float64 else torch.float32
        scores = rows.products(w, dtype).cpu().numpy()
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Class of highest score, (n,)."""
        scores = self.decision_function(X)
        index = (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[index]

    def _path(self, X: Any, y: Any, Cs: Sequence[float]) -> _Path:
        for C in Cs:
            _require_positive("C", C)
        _require_positive("tol", self.tol)
        for name, least in (("max_iter", 1), ("block_mib", 1), ("rank", 0), ("gram_rows", 0), ("system_mib", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                message = f"LinearL2SVM: {name} is {value!r}; expected an integer of at least {least}"
                raise ValueError(message)
        if torch.device(self.device).type == "cuda" and not torch.cuda.is_available():
            message = f"LinearL2SVM: device is {self.device!r}, but torch finds no GPU; expected 'cpu'"
            raise ValueError(message)
        X, y = validate_data(self, X, y, dtype=DTYPES, ensure_all_finite=False)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            message = (
                f"LinearL2SVM: y has 1 class only, {self.classes_[0]}, in {len(y)} rows; "
                "expected at least 2 classes in the labels"
            )
            raise ValueError(message)
        is_class = index[:, None] == np.arange(len(self.classes_))
        if len(self.classes_) == 2:
            is_class = is_class[:, 1:]
        signs = torch.from_numpy(np.where(is_class, 1.0, -1.0)).to(self.device)
        rows = _Rows(_as_tensor(X, self.device), intercept=True, block_mib=self.block_mib)
        return _Path(rows, signs, self)

    def _take(self, path: _Path, point: _Point) -> Self:
        w = point.w.cpu().numpy()
        self.coef_, self.intercept_ = w[:, :-1].copy(), w[:, -1].copy()
        self.objective_ = point.objective.cpu().numpy()
        self.duality_gap_ = point.gap.cpu().numpy()
        self.n_iter_ = path.newton_steps
        worst = float((point.gap / point.objective).max())
        if not worst <= self.tol:
            warnings.warn(
                f"LinearL2SVM: C = {self.C:g} is not solved after {self.n_iter_} Newton steps: the duality gap is "
                f"{worst:.1e} of the objective, tol asks for {self.tol:.1e}; raise max_iter or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self


def _require_positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):
        message = f"LinearL2SVM: {name} is {value!r}; expected a finite number above 0"
        raise ValueError(message)


def _as_tensor(X: np.ndarray, device: str) -> torch.Tensor:
    """The same memory as a tensor; a copy only on a GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read here
        return torch.from_numpy(np.ascontiguousarray(X)).to(device)


# ---- the features, by blocks ----------------------------------------------------------------------------------------


class _Rows:
    """Features X (n, d), with a constant 1 as column d if there is an intercept; vectors w are (classes, d + 1)."""

    def __init__(self, features: torch.Tensor, *, intercept: bool, block_mib: int) -> None:
        self.features = features
        self.n, self.d = features.shape
        self.constant = 1.0 if intercept else 0.0
        self.block_mib = block_mib
        self.device = features.device
        # one buffer for all blocks and precisions: fresh pages would cost more than the products
        self._buffer = torch.empty(max(block_mib << 17, self.d), dtype=torch.float64, device=self.device)

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """Consecutive rows in a precision; a block is valid until the next one."""
        buffer = self._buffer.view(dtype)
        size = len(buffer) // self.d
        for start in range(0, self.n, size):
            rows = slice(start, min(start + size, self.n))
            block = self.features[rows]
            if block.dtype != dtype:
                block = buffer[: block.numel()].view(block.shape).copy_(block)
            yield rows, block

    @cached_property
    def squares(self) -> float:
        """Sum of squares; a ValueError if a feature is NaN, infinite or too large for float32."""
        total = 0.0
        for rows, block in self.blocks(torch.float32):
            squares = float(torch.linalg.vector_norm(block, dtype=torch.float32)) ** 2
            if not math.isfinite(squares):
                finite = torch.isfinite(block)
                if not finite.all():
                    row, column = (~finite).nonzero()[0].tolist()
                    message = (
                        f"LinearL2SVM: X[{rows.start + row}, {column}] is "
                        f"{self.features[rows.start + row, column].item()}; expected features without NaN or infinity, "
                        "within the range of float32"
                    )
                    raise ValueError(message)
                squares = float(block.double().square().sum())
            total += squares
        return total + self.n * self.constant

    def check(self) -> None:
        """Raise the error of :attr:`squares`, if there is one."""
        _ = self.squares

    def products(self, w: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """X w for each of the vectors: float64 (n, k)."""
        out = torch.empty(self.n, len(w), dtype=torch.float64, device=self.device)
        weights = w[:, : self.d].to(dtype).t()
        for rows, block in self.blocks(dtype):
            out[rows] = block @ weights
        return out.add_(self.constant * w[:, self.d].double())

    def sweep(
        self, w: torch.Tensor, respond: Callable[[slice, torch.Tensor], torch.Tensor], dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """X w, and the sum over rows of ``respond(rows, X w)`` times x, in one reading; float64 (n, k), (k, d + 1)."""
        out = torch.empty(self.n, len(w), dtype=torch.float64, device=self.device)
        total = torch.zeros(len(w), self.d + 1, dtype=torch.float64, device=self.device)
        weights, constant = w[:, : self.d].to(dtype).t(), self.constant * w[:, self.d].double()
        for rows, block in self.blocks(dtype):
            out[rows] = block @ weights
            out[rows] += constant
            response = respond(rows, out[rows])
            total[:, : self.d] += response.to(dtype).t() @ block
            total[:, self.d] += self.constant * response.sum(dim=0)
        return out, total

    def combined(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum over rows of ``weights`` (n, k) times x: float64 (k, d + 1)."""
        total = torch.zeros(weights.shape[1], self.d + 1, dtype=torch.float64, device=self.device)
        for rows, block in self.blocks(torch.float64):
            total[:, : self.d] += weights[rows].t() @ block
        total[:, self.d] = self.constant * weights.sum(dim=0)
        return total

    def inner_products(self, some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Of the rows at two lists of positions: float64 (n_some, n_others)."""
        products = torch.full((len(some), len(others)), self.constant, dtype=torch.float64, device=self.device)
        for start in range(0, self.d, GRAM_COLUMNS):
            columns = self.features[:, start : start + GRAM_COLUMNS]
            products.addmm_(columns[some].double(), columns[others].double().t())
        return products

    def orthonormal(self) -> _Rows | None:
        """The same rows in an orthonormal basis of their span, (n, n); None where float32 does not tell them apart.

        The Cholesky factor L of the inner products: X = L Q' for some Q with orthonormal columns. The problem in L is
        the problem in X, and w = X' L'^-1 z takes its solution z back.
        """
        gram = torch.full((self.n, self.n), self.constant, dtype=torch.float64, device=self.device)
        panel = max(1, -(-self.n // 4))
        for start in range(0, self.d, GRAM_COLUMNS):
            columns = self.features[:, start : start + GRAM_COLUMNS].to(torch.float32)
            for top in range(0, self.n, panel):  # the lower triangle is all that is read
                gram[top:, top : top + panel] += columns[top:] @ columns[top : top + panel].t()
        gram.diagonal().add_(1e-7 * float(gram.diagonal().mean()))  # equal rows
        factor, failed = torch.linalg.cholesky_ex(gram)
        return None if int(failed) else _Rows(factor.to(torch.float32), intercept=False, block_mib=self.block_mib)


# ---- one C, from any start ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Point:
    """Where a minimisation stands, float64: w and gradient (k, d + 1), products X w (n, k), objective (k,)."""

    w: torch.Tensor
    products: torch.Tensor
    objective: torch.Tensor
    gradient: torch.Tensor

    @property
    def gap(self) -> torch.Tensor:
        return 0.5 * self.gradient.square().sum(dim=1)

    def or_else(self, other: _Point, mine: torch.Tensor) -> _Point:
        """Itself for some classes, the other for the rest."""
        return _Point(
            w=torch.where(mine[:, None], self.w, other.w),
            products=torch.where(mine, self.products, other.products),
            objective=torch.where(mine, self.objective, other.objective),
            gradient=torch.where(mine[:, None], self.gradient, other.gradient),
        )


class _Problem:
    """P for given rows and signs y (n, k)."""

    def __init__(self, rows: _Rows, signs: torch.Tensor, settings: LinearL2SVM) -> None:
        self.rows = rows
        self.signs = signs
        self.rank = settings.rank
        self.system_bytes = settings.system_mib << 20
        self.newton_steps = 0

    @cached_property
    def coarse(self) -> _CoarseSpace:
        return _CoarseSpace(self.rows, self.rank)

    def origin(self) -> torch.Tensor:
        return torch.zeros(self.signs.shape[1], self.rows.d + 1, dtype=torch.float64, device=self.rows.device)

    def point(self, w: torch.Tensor, C: float, dtype: torch.dtype) -> _Point:
        def pull(rows: slice, products: torch.Tensor) -> torch.Tensor:
            return self.signs[rows] * (1 - self.signs[rows] * products).clamp_(min=0)

        products, pulls = self.rows.sweep(w, pull, dtype)
        losses = (1 - self.signs * products).clamp_(min=0).square_().sum(dim=0)
        objective = 0.5 * w.square().sum(dim=1) + C * losses
        return _Point(w=w, products=products, objective=objective, gradient=w - 2 * C * pulls)

    def minimum(self, w: torch.Tensor, C: float, tol: float, max_iter: int) -> _Point:
        """Newton steps from w until every class has a duality gap of at most ``tol`` times its objective.

        Products are float32 for as long as that brings P down, then float64: they have the last word.
        """
        dtype = torch.float32
        point = self.point(w, C, dtype)
        within_margin = _ActiveRows(self.rows, self.signs.shape[1])
        lower = torch.ones_like(point.objective, dtype=torch.bool)
        for step in range(max_iter):
            open_ = lower & (point.gap > tol * point.objective)
            if dtype == torch.float32 and (step == FLOAT32_STEPS or not open_.any()):
                dtype = torch.float64
                point = self.point(point.w, C, dtype)
                open_ = point.gap > tol * point.objective
            if not open_.any():
                return point
            self.newton_steps += 1
            direction, products = self._direction(point, C, open_, 0.25 * tol * point.objective, within_margin, dtype)
            length = torch.where(open_, self._length(point, direction, products, C), 0.0)
            after = self.point(point.w + length[:, None] * direction, C, dtype)
            lower = open_ & (after.objective < point.objective)  # else rounding is all that is left
            point = after.or_else(point, lower)
        return point if dtype == torch.float64 else self.point(point.w, C, torch.float64)

    def _direction(
        self,
        point: _Point,
        C: float,
        open_: torch.Tensor,
        enough: torch.Tensor,
        within_margin: _ActiveRows,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve H s = -gradient by preconditioned conjugate gradients, H = 1 + 2 C X' D X of each class; s and X s.

        The residual is the gradient after the step, where the step changes no D: half its square below ``enough`` ends
        the search. Where it has taken as long as the exact inverse would, it goes on with that.
        """
        active = (self.signs * point.products < 1).double()  # D
        worth = math.inf
        in_question = active * open_
        if within_margin.n_bytes(in_question) <= self.system_bytes:
            worth = within_margin.multiply_adds(in_question) / (READING * self.rows.n * self.rows.d)
        precondition = self.coarse.inverse(active, C)
        residual = -point.gradient
        conjugate = preconditioned = precondition(residual)
        size = first_size = (residual * preconditioned).sum(dim=1)
        step, step_products = torch.zeros_like(residual), torch.zeros_like(active)
        for number in range(INNER_PRODUCTS):
            if number >= worth:
                worth = math.inf
                precondition = within_margin.inverse(in_question, C)
                conjugate = preconditioned = precondition(residual)
                size = first_size = (residual * preconditioned).sum(dim=1)
            products, curved = self.rows.sweep(conjugate, lambda rows, p: active[rows] * p, dtype)
            curved = conjugate + 2 * C * curved
            length = torch.where(open_, size / (conjugate * curved).sum(dim=1), 0.0)
            step += length[:, None] * conjugate
            step_products += length * products
            residual = residual - length[:, None] * curved
            open_ = open_ & (0.5 * residual.square().sum(dim=1) > enough)
            if not open_.any():
                break
            preconditioned = precondition(residual)
            before, size = size, (residual * preconditioned).sum(dim=1)
            open_ = open_ & (size > INNER_ACCURACY**2 * first_size)
            if not open_.any():
                break
            conjugate = preconditioned + torch.where(open_, size / before, 0.0)[:, None] * conjugate
        return step, step_products

    def _length(self, point: _Point, direction: torch.Tensor, products: torch.Tensor, C: float) -> torch.Tensor:
        """Where P is lowest on the ray, for each class: the root of its increasing, piecewise linear slope."""
        margins, change = self.signs * point.products, self.signs * products
        along, square = (point.w * direction).sum(dim=1), direction.square().sum(dim=1)
        low, high = torch.zeros_like(along), torch.full_like(along, math.inf)
        length, steepest = torch.ones_like(along), None
        for _ in range(50):
            short = 1 - margins - length * change
            slope = along + length * square - 2 * C * (change * short.clamp(min=0)).sum(dim=0)
            steepest = slope.abs() if steepest is None else steepest
            if (slope.abs() <= 1e-6 * steepest).all():
                break
            curvature = square + 2 * C * (change.square() * (short > 0)).sum(dim=0)
            low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
            newton = length - torch.where(curvature > 0, slope / curvature, 0.0)
            middle = torch.where(high < math.inf, (low + high) / 2, 2 * length)
            length = torch.where((newton >= low) & (newton <= high), newton, middle)
        return length


def _mean(total: float, parts: int) -> float:
    return max(total, 0.0) / parts if parts else 0.0


class _CoarseSpace:
    """The directions in which the rows vary most, and the Newton system within them.

    Found by one step of subspace iteration from evenly spaced rows. Within them a class's system is small and solved
    exactly; outside them it is taken for a multiple of 1, the mean of what is left of the spectrum.
    """

    def __init__(self, rows: _Rows, rank: int) -> None:
        rank = min(rank, rows.n, rows.d + 1)
        self.rank = rank
        chosen = torch.arange(rank, device=rows.device) * rows.n // max(rank, 1)
        start = torch.full((rank, rows.d + 1), rows.constant, device=rows.device)
        start[:, : rows.d] = rows.features[chosen]
        weights = torch.linalg.qr(rows.products(start, torch.float32).float())[
            0
        ]  # the rows' products are near parallel
        del start  # tens of megabytes
        image = torch.zeros(rank, rows.d + 1, device=rows.device)
        for part, block in rows.blocks(torch.float32):
            image[:, : rows.d] += weights[part].t() @ block
        image[:, rows.d] = rows.constant * weights.sum(dim=0)
        self.basis = torch.linalg.qr(image.t())[0]  # (d + 1, rank)
        del image
        self.products = rows.products(self.basis.t(), torch.float32).float()  # (n, rank)
        variances = torch.linalg.eigvalsh(self.products.double().t() @ self.products.double())
        all_directions = min(rows.n, rows.d + 1)
        self.mean_curvature = _mean(rows.squares - float(variances.sum()), all_directions - rank)
        # of all but the first direction, which is the rows' mean and holds most of their squares
        self.typical_curvature = _mean(rows.squares - float(variances[-1:].sum()), all_directions - 1)

    def inverse(self, active: torch.Tensor, C: float) -> Callable[[torch.Tensor], torch.Tensor]:
        """Approximate inverse of 1 + 2 C X' D X for the D (n, k) of each class."""
        systems = torch.empty(active.shape[1], self.rank, self.rank, dtype=torch.float64, device=active.device)
        for index, mask in enumerate(active.t() > 0):
            rows = self.products[mask].double()
            systems[index] = 2 * C * (rows.t() @ rows)
        systems.diagonal(dim1=1, dim2=2).add_(1)
        factors = torch.linalg.cholesky(systems)
        outside = 1 / (1 + 2 * C * self.mean_curvature * active.mean(dim=0))

        def apply(vectors: torch.Tensor) -> torch.Tensor:
            inside = (vectors.float() @ self.basis).double()
            solved = torch.cholesky_solve(inside[:, :, None], factors)[:, :, 0]
            correction = (solved - outside[:, None] * inside).float() @ self.basis.t()
            return outside[:, None] * vectors + correction

        return apply


class _ActiveRows:
    """The Newton systems, solved exactly: by the inner products A A' of the active rows A of each class.

    (1 + 2 C A'A)^-1 = 1 - A' (1 / 2C + A A')^-1 A. What is known of A A' is kept from one Newton step to the next: the
    last steps change few rows.
    """

    def __init__(self, rows: _Rows, n_classes: int) -> None:
        self.rows = rows
        nothing = torch.empty(0, 0, dtype=torch.float64, device=rows.device)
        self.known = [nothing.long().view(-1)] * n_classes  # positions of rows
        self.grams = [nothing] * n_classes

    def n_bytes(self, active: torch.Tensor) -> float:
        """What inner products and their factors would take."""
        return 16 * float(active.sum(dim=0).square().sum())

    def multiply_adds(self, active: torch.Tensor) -> float:
        """What :meth:`inverse` would take."""
        total = 0.0
        for known, mask in zip(self.known, active.t() > 0, strict=True):
            n_active = int(mask.sum())
            n_new = n_active - int(mask[known].sum())
            total += n_new * n_active * self.rows.d + n_active**3 / 3
        return total

    def inverse(self, active: torch.Tensor, C: float) -> Callable[[torch.Tensor], torch.Tensor]:
        """Of 1 + 2 C X' D X for the D (n, k) of each class."""
        factors = [self._factor(index, mask, C) for index, mask in enumerate(active.t() > 0)]

        def apply(vectors: torch.Tensor) -> torch.Tensor:
            products = self.rows.products(vectors, torch.float64)
            solved = torch.zeros_like(products)
            for index, (chosen, factor) in enumerate(zip(self.known, factors, strict=True)):
                solved[chosen, index] = torch.cholesky_solve(products[chosen, index, None], factor)[:, 0]
            return vectors - self.rows.combined(solved)

        return apply

    def _factor(self, index: int, mask: torch.Tensor, C: float) -> torch.Tensor:
        known = self.known[index]
        stays = mask[known]
        is_new = mask.clone()
        is_new[known] = False
        new = is_new.nonzero()[:, 0]
        chosen = torch.cat([known[stays], new])
        n_old = len(chosen) - len(new)
        gram = torch.empty(len(chosen), len(chosen), dtype=torch.float64, device=mask.device)
        gram[:n_old, :n_old] = self.grams[index][stays][:, stays]
        gram[n_old:] = self.rows.inner_products(new, chosen)
        gram[:n_old, n_old:] = gram[n_old:, :n_old].t()
        self.known[index], self.grams[index] = chosen, gram
        return torch.linalg.cholesky(gram + torch.eye(len(gram), dtype=gram.dtype, device=mask.device) / (2 * C))


# ---- a path of C ----------------------------------------------------------------------------------------------------


class _Path:
    """Minima for one C after another, each from where the last one ended."""

    def __init__(self, rows: _Rows, signs: torch.Tensor, settings: LinearL2SVM) -> None:
        rows.check()
        self.settings = settings
        self.problem = _Problem(rows, signs, settings)
        self.w = self.problem.origin()
        self.last_C = 0.0
        self.small: _Problem | None = None
        if rows.n <= settings.gram_rows and rows.n < rows.d:
            small = rows.orthonormal()
            if small is not None:
                self.small = _Problem(small, signs, settings)
                self.z = self.small.origin()
        self.newton_steps = 0

    def minimum(self, C: float) -> _Point:
        tol, max_iter = self.settings.tol, self.settings.max_iter
        before = self._steps_so_far()
        if self.small is None:
            for easier in self._ladder(C, self.problem):
                self.w = self.problem.minimum(self.w, easier, LADDER_TOLERANCE, max_iter).w
        else:
            for easier in self._ladder(C, self.small):
                self.z = self.small.minimum(self.z, easier, LADDER_TOLERANCE, max_iter).w
            self.z = self.small.minimum(self.z, C, tol / 2, max_iter).w
            self.w = self._taken_back(self.small)
        point = self.problem.minimum(self.w, C, tol, max_iter)
        self.w, self.last_C = point.w, C
        self.newton_steps = self._steps_so_far() - before
        return point

    def _steps_so_far(self) -> int:
        return self.problem.newton_steps + (self.small.newton_steps if self.small else 0)

    def _ladder(self, C: float, problem: _Problem) -> list[float]:
        """Smaller values of C on the way to one that is hard to reach at once.

        Far beyond 2 C x curvature = 1 a first step fits all rows at once, and finds nearly all of them inactive.
        """
        first = self.last_C or 1 / (2 * max(problem.coarse.typical_curvature, 1e-300))
        steps = math.ceil(math.log(C / first, LADDER_RATIO) - 1e-9)
        return np.geomspace(first, C, steps + 1)[1:-1].tolist() if steps > 1 else []

    def _taken_back(self, small: _Problem) -> torch.Tensor:
        """z in the basis of the rows' span -> w: X' L'^-1 z."""
        factor = small.rows.features.double()
        weights = torch.linalg.solve_triangular(factor.t(), self.z[:, :-1].t(), upper=True)  # (n, k)
        return self.problem.rows.combined(weights)
