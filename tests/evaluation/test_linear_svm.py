"""The L2-SVM against LinearSVC, its own definition in float64, and itself with other blocks, starts and orders."""

# ruff: noqa: N802, N803, N806 - C and X are scikit-learn's names
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from pipeline.core.seeding import numpy_stream
from pipeline.evaluation import linear_svm
from pipeline.evaluation.linear_svm import LinearL2SVM

CS = [1e-4, 1e-2, 1.0, 1e2]
WIDE, TALL = (60, 150), (400, 20)  # fewer rows than features, and more


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give on problems this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(n: int, d: int, classes: int = 4, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes; features mostly positive and correlated, with a large mean, as after pooling."""
    rng = numpy_stream(3, "linear_svm")
    labels = rng.permutation(np.arange(n) % classes)
    factors = rng.normal(size=(n, 12)) + 0.7 * rng.normal(size=(classes, 12))[labels]
    mixed = factors @ rng.normal(size=(12, d)) / 3 + rng.normal(size=d) + 1 + 0.5 * rng.normal(size=(n, d))
    return np.where(mixed > 0, mixed, 0.2 * mixed).astype(dtype), labels


def signs_of(y: np.ndarray) -> np.ndarray:
    classes = np.unique(y)
    signs = np.where(y[:, None] == classes, 1.0, -1.0)
    return signs[:, 1:] if len(classes) == 2 else signs


def definition(model, C: float, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P and its gradient (k, d + 1), from the sums as written, in float64."""
    rows = np.hstack([X.astype(np.float64), np.ones((len(X), 1))])
    w = np.column_stack([model.coef_, model.intercept_])
    signs = signs_of(y)
    short = np.maximum(0, 1 - signs * (rows @ w.T))
    return 0.5 * (w**2).sum(axis=1) + C * (short**2).sum(axis=0), w - 2 * C * (signs * short).T @ rows


def peer(C: float, X: np.ndarray, y: np.ndarray, *, dual: bool) -> LinearSVC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of tol: the objective is what the tests compare
        return LinearSVC(C=C, dual=dual, tol=1e-9, max_iter=20_000, random_state=0).fit(X.astype(np.float64), y)


# ---- the minimum ----------------------------------------------------------------------------------------------------


# liblinear's dual solver does not get there for (TALL, 100)
@pytest.mark.parametrize(
    ("shape", "C", "dual"),
    [(s, C, dual) for s in (WIDE, TALL) for C in CS for dual in (False, True) if not (dual and s == TALL and C > 1)],
)
def test_same_minimum_as_linear_svc(shape, C, dual):
    X, y = problem(*shape)
    ours, theirs = LinearL2SVM(C=C, tol=1e-8).fit(X, y), peer(C, X, y, dual=dual)
    objective, expected = definition(ours, C, X, y)[0], definition(theirs, C, X, y)[0]
    assert objective == pytest.approx(expected, rel=1e-3)
    assert (objective <= expected * (1 + 1e-7)).all()
    tests, _ = problem(500, shape[1])
    theirs_scores = theirs.decision_function(tests.astype(np.float64))
    first_two = np.sort(theirs_scores, axis=1)[:, -2:]
    near_tie = np.diff(first_two, axis=1)[:, 0] < 1e-3
    assert near_tie.mean() < 0.05
    assert np.array_equal(ours.predict(tests)[~near_tie], theirs.predict(tests.astype(np.float64))[~near_tie])


@pytest.mark.parametrize("gram_rows", [0, 4096], ids=["features", "inner products"])
@pytest.mark.parametrize("C", CS)
@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])
def test_gradient_vanishes_by_definition(shape, C, gram_rows):
    X, y = problem(*shape)
    model = LinearL2SVM(C=C, tol=1e-10, gram_rows=gram_rows).fit(X, y)
    objective, gradient = definition(model, C, X, y)
    assert (np.linalg.norm(gradient, axis=1) <= np.sqrt(2e-10 * objective) * (1 + 1e-6)).all()


@pytest.mark.parametrize("tol", [1e-1, 1e-4])
def test_reported_objective_and_gap_are_those_of_the_definition(tol):
    X, y = problem(*WIDE)
    C = 0.05
    model = LinearL2SVM(C=C, tol=tol).fit(X, y)
    objective, gradient = definition(model, C, X, y)
    assert model.objective_ == pytest.approx(objective, rel=1e-10)
    assert model.duality_gap_ == pytest.approx(0.5 * (gradient**2).sum(axis=1), rel=1e-4)
    # the dual objective, sum a - |sum a y x|^2 / 2 - sum a^2 / 4 C, at a = 2 C max(0, 1 - y w.x)
    rows, signs = np.hstack([X.astype(np.float64), np.ones((len(X), 1))]), signs_of(y)
    a = 2 * C * np.maximum(0, 1 - signs * (rows @ np.column_stack([model.coef_, model.intercept_]).T))
    dual = a.sum(axis=0) - 0.5 * (((a * signs).T @ rows) ** 2).sum(axis=1) - (a**2).sum(axis=0) / (4 * C)
    assert model.duality_gap_ == pytest.approx(objective - dual, rel=1e-4, abs=1e-9)
    assert (model.duality_gap_ <= tol * model.objective_).all()


def test_no_perturbation_is_lower():
    X, y = problem(*TALL)
    model = LinearL2SVM(C=0.1, tol=1e-9).fit(X, y)
    at_minimum = definition(model, 0.1, X, y)[0]
    rng = numpy_stream(5, "perturbation")
    for size in (1e-3, 1e-2, 1e-1):
        other = clone(model)
        other.coef_ = model.coef_ + size * rng.normal(size=model.coef_.shape)
        other.intercept_ = model.intercept_ + size * rng.normal(size=model.intercept_.shape)
        assert (definition(other, 0.1, X, y)[0] > at_minimum * (1 + 1e-9)).all()


def test_default_tolerance_is_far_better_than_a_thousandth():
    X, y = problem(*WIDE)
    exact = LinearL2SVM(C=0.01, tol=1e-10).fit(X, y).objective_
    assert LinearL2SVM(C=0.01).fit(X, y).objective_ == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("gram_rows", [0, 4096], ids=["features", "inner products"])
@pytest.mark.parametrize(("shape", "C"), [((40, 3000), 10.0), ((3000, 40), 1e3)], ids=["wide", "tall"])
def test_separable_rows_and_large_C_from_a_cold_start(shape, C, gram_rows):
    X, y = problem(*shape)
    if shape[0] > shape[1]:
        X[:, :4] += 20 * np.eye(4, dtype=np.float32)[y]
    model = LinearL2SVM(C=C, tol=1e-5, gram_rows=gram_rows).fit(X, y)
    assert model.score(X, y) == 1.0
    assert model.n_iter_ < 60
    objective, gradient = definition(model, C, X, y)  # LinearSVC stays two per cent above it, and takes 20 seconds
    assert (0.5 * (gradient**2).sum(axis=1) <= 1.0001e-5 * objective).all()


def test_equal_rows_equal_and_constant_columns():
    X, y = problem(*WIDE)
    X = np.hstack([X, X[:, :40], np.ones((60, 3), np.float32), np.zeros((60, 3), np.float32)])
    X, y = np.vstack([X, X[:20]]), np.concatenate([y, (y[:20] + 1) % 4])  # equal rows that disagree
    for gram_rows in (0, 4096):
        model = LinearL2SVM(C=1.0, tol=1e-8, gram_rows=gram_rows).fit(X, y)
        assert definition(model, 1.0, X, y)[0] == pytest.approx(
            definition(peer(1.0, X, y, dual=False), 1.0, X, y)[0], rel=1e-6
        )


def test_features_that_are_all_zero():
    y = np.array([0, 1, 2, 0, 1, 2, 0])
    for width in (1, 30):
        model = LinearL2SVM(tol=1e-8).fit(np.zeros((7, width), np.float32), y)
        assert not model.coef_.any()
        # 1/2 b^2 + p (1 - b)^2 + q (1 + b)^2 is lowest at b = 2 (p - q) / (1 + 2 (p + q))
        assert model.intercept_ == pytest.approx([2 * (3 - 4) / 15, 2 * (2 - 5) / 15, 2 * (2 - 5) / 15], rel=1e-4)


# ---- what must not matter -------------------------------------------------------------------------------------------


def test_inner_products_and_features_agree():
    X, y = problem(*WIDE)
    for C in CS:
        by_rows = LinearL2SVM(C=C, tol=1e-9, gram_rows=len(X)).fit(X, y)
        direct = LinearL2SVM(C=C, tol=1e-9, gram_rows=len(X) - 1).fit(X, y)
        assert by_rows.objective_ == pytest.approx(direct.objective_, rel=1e-8)
        assert by_rows.coef_ == pytest.approx(direct.coef_, abs=1e-3 * np.abs(direct.coef_).max())


def test_float16_memory_map_is_read_as_it_is(tmp_path):
    X, y = problem(*WIDE, dtype=np.float16)
    np.save(tmp_path / "features.npy", X)
    stored = np.load(tmp_path / "features.npy", mmap_mode="r")
    for gram_rows in (0, 4096):
        from_map = LinearL2SVM(C=0.01, tol=1e-9, gram_rows=gram_rows).fit(stored, y)
        from_memory = LinearL2SVM(C=0.01, tol=1e-9, gram_rows=gram_rows).fit(X.astype(np.float32), y)
        assert from_map.objective_ == pytest.approx(from_memory.objective_, rel=1e-8)
        assert from_map.coef_ == pytest.approx(from_memory.coef_, rel=1e-3, abs=1e-5)
        assert from_map.decision_function(stored) == pytest.approx(from_memory.decision_function(X), abs=1e-4)
    assert np.array_equal(np.load(tmp_path / "features.npy"), X)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64])
def test_other_dtypes_and_layouts(dtype):
    X, y = problem(*TALL)
    X = np.round(4 * X).astype(dtype)
    model = LinearL2SVM(C=0.01, tol=1e-9).fit(np.asfortranarray(X), y)
    assert model.objective_ == pytest.approx(definition(peer(0.01, X, y, dual=False), 0.01, X, y)[0], rel=1e-6)


@pytest.mark.parametrize("shape", [(2100, 300), (300, 2100)], ids=["tall", "wide"])
def test_block_size_changes_rounding_only(shape):
    X, y = problem(*shape)
    settings = {"C": 0.003, "tol": 1e-9, "gram_rows": 0}
    small, large = (LinearL2SVM(**settings, block_mib=size).fit(X, y) for size in (1, 64))
    blocks = list(linear_svm._Rows(torch.from_numpy(X), intercept=True, block_mib=1).blocks(torch.float64))
    assert len(blocks) > 3
    assert sum(len(block) for _, block in blocks) == len(X)
    assert small.objective_ == pytest.approx(large.objective_, rel=1e-8)
    assert small.coef_ == pytest.approx(large.coef_, abs=1e-4 * np.abs(large.coef_).max())
    assert small.decision_function(X) == pytest.approx(large.decision_function(X), abs=1e-4)


@pytest.mark.parametrize("rank", [0, 1, 10, 10_000])
def test_rank_changes_time_only(rank):
    X, y = problem(*WIDE)
    for gram_rows in (0, 4096):
        model = LinearL2SVM(C=0.01, tol=1e-8, rank=rank, gram_rows=gram_rows).fit(X, y)
        assert model.objective_ == pytest.approx(LinearL2SVM(C=0.01, tol=1e-8).fit(X, y).objective_, rel=1e-7)


@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])
def test_exact_newton_systems_change_time_only(shape, monkeypatch):
    X, y = problem(*shape)
    settings = {"C": 5.0, "tol": 1e-8, "gram_rows": 0}
    iterated = LinearL2SVM(**settings, system_mib=0).fit(X, y)
    monkeypatch.setattr(linear_svm, "READING", math.inf)  # from the first product on
    inverse, systems = linear_svm._ActiveRows.inverse, []
    monkeypatch.setattr(
        linear_svm._ActiveRows, "inverse", lambda self, active, C: systems.append(C) or inverse(self, active, C)
    )
    exact = LinearL2SVM(**settings).fit(X, y)
    assert len(systems) == exact.n_iter_  # one a Newton step
    assert exact.objective_ == pytest.approx(iterated.objective_, rel=1e-7)
    assert exact.coef_ == pytest.approx(iterated.coef_, abs=2e-3 * np.abs(iterated.coef_).max())


def test_exact_inverse_by_definition_while_rows_come_and_go():
    X, _ = problem(60, 20)
    C = 3.0
    within = linear_svm._ActiveRows(linear_svm._Rows(torch.from_numpy(X), intercept=True, block_mib=1), 2)
    rows = np.hstack([X.astype(np.float64), np.ones((60, 1))])
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 21)))
    some, others, none = range(10, 30), [*range(25, 12, -1), 3, 59], []
    for of_class in ((some, none), (others, some), (none, range(60))):
        active = torch.zeros(60, 2, dtype=torch.float64)
        for index, chosen in enumerate(of_class):
            active[list(chosen), index] = 1
        assert within.n_bytes(active) == 16 * sum(len(chosen) ** 2 for chosen in of_class)
        assert within.multiply_adds(active) >= 0
        found = within.inverse(active, C)(vectors).numpy()
        for index, chosen in enumerate(of_class):
            of_these = rows[list(chosen)]
            expected = np.linalg.solve(np.eye(21) + 2 * C * of_these.T @ of_these, vectors[index].numpy())
            assert found[index] == pytest.approx(expected, rel=1e-8, abs=1e-10)
        assert within.multiply_adds(active) == sum(len(chosen) ** 3 / 3 for chosen in of_class)  # all is known now


@pytest.mark.parametrize("gram_rows", [0, 4096], ids=["features", "inner products"])
@pytest.mark.parametrize("order", [1, -1], ids=["up", "down"])
def test_path_gives_the_minimum_of_each_C(order, gram_rows):
    X, y = problem(*WIDE)
    Cs = [1e-4, 2e-4, 1e-2, 5.0][::order]
    estimator = LinearL2SVM(tol=1e-8, gram_rows=gram_rows)
    fitted = list(estimator.fit_path(X, y, iter(Cs)))
    assert [model.C for model in fitted] == Cs
    assert not hasattr(estimator, "coef_")
    for model in fitted:
        alone = clone(model).fit(X, y)
        assert model.objective_ == pytest.approx(alone.objective_, rel=1e-7)
        assert model.coef_ == pytest.approx(alone.coef_, abs=2e-3 * np.abs(alone.coef_).max())
        assert np.array_equal(model.predict(X), alone.predict(X))


def test_a_start_from_the_last_C_saves_steps():
    X, y = problem(300, 500)
    Cs = [1e-3, 1e-3, 1.1e-3]
    steps = [model.n_iter_ for model in LinearL2SVM(gram_rows=0).fit_path(X, y, Cs)]
    assert steps[1] == 0
    assert steps[2] < LinearL2SVM(gram_rows=0, C=Cs[2]).fit(X, y).n_iter_


def test_order_of_rows_does_not_matter():
    X, y = problem(*TALL)
    order = numpy_stream(6, "order").permutation(len(X))
    straight, shuffled = LinearL2SVM(tol=1e-9).fit(X, y), LinearL2SVM(tol=1e-9).fit(X[order], y[order])
    assert shuffled.objective_ == pytest.approx(straight.objective_, rel=1e-8)
    assert shuffled.coef_ == pytest.approx(straight.coef_, abs=1e-3 * np.abs(straight.coef_).max())


def test_same_input_same_bytes():
    for shape in (WIDE, TALL):
        X, y = problem(*shape)
        first, second = LinearL2SVM().fit(X, y), LinearL2SVM().fit(X, y)
        assert first.coef_.tobytes() == second.coef_.tobytes()
        assert first.intercept_.tobytes() == second.intercept_.tobytes()


def test_runs_with_repeatable_algorithms_demanded():
    X, y = problem(*WIDE)
    free = LinearL2SVM().fit(X, y)
    torch.set_deterministic_debug_mode("error")  # as every stage does
    try:
        demanded = LinearL2SVM().fit(X, y)
    finally:
        torch.set_deterministic_debug_mode("default")
    assert demanded.coef_.tobytes() == free.coef_.tobytes()


# ---- scikit-learn's interface ---------------------------------------------------------------------------------------


def test_scikit_learn_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that are skipped here, and fits of noise
        check_estimator(LinearL2SVM())


def test_parameters_and_clone():
    model = LinearL2SVM(C=0.3, tol=1e-5, max_iter=7, rank=3, gram_rows=9, block_mib=2, device="cpu")
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(C=2.0).C == 2.0


def test_two_classes_and_names():
    X, y = problem(*TALL, classes=2)
    names = np.array(["room", "face"])[y]
    model = LinearL2SVM(C=0.01, tol=1e-8).fit(X, names)
    theirs = peer(0.01, X, names, dual=False)
    assert list(model.classes_) == ["face", "room"]
    assert model.coef_.shape == (1, 20)
    assert model.intercept_.shape == model.objective_.shape == (1,)
    assert model.decision_function(X).shape == (400,)
    assert model.decision_function(X) == pytest.approx(theirs.decision_function(X), abs=1e-3)
    assert model.objective_ == pytest.approx(definition(theirs, 0.01, X, names)[0], rel=1e-6)
    assert set(model.predict(X)) == {"face", "room"}
    assert model.score(X, names) == pytest.approx(theirs.score(X, names), abs=0.005)


def test_unsolved_is_said():
    X, y = problem(*TALL)
    with pytest.warns(
        ConvergenceWarning, match=r"C = 0\.001 is not solved after 1 Newton steps: the duality gap is .* of the"
    ):
        model = LinearL2SVM(C=0.001, max_iter=1, tol=1e-9, rank=2).fit(X, y)
    assert (model.duality_gap_ > 1e-9 * model.objective_).any()
    with pytest.warns(ConvergenceWarning):  # rounding ends the descent, not max_iter
        LinearL2SVM(tol=1e-300).fit(X, y)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [0, -1.0, np.nan, np.inf, None, "1", True])
def test_C_must_be_positive(C):
    X, y = problem(*TALL)
    with pytest.raises(ValueError, match=r"C is .*expected a finite number above 0"):
        LinearL2SVM(C=C).fit(X, y)
    with pytest.raises(ValueError, match=r"C is .*expected a finite number above 0"):
        LinearL2SVM().fit_path(X, y, [1.0, C])


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_iter", 0), ("rank", -1), ("gram_rows", 2.5), ("system_mib", -1), ("block_mib", 0), ("tol", 0)],
)
def test_other_parameters(name, value):
    X, y = problem(*TALL)
    with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
        LinearL2SVM(**{name: value}).fit(X, y)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds no GPU"):
        LinearL2SVM(device="cuda").fit(*problem(*TALL))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2100, 300), (300, 2100)], ids=["tall", "wide"])
def test_a_feature_that_is_not_finite_is_found(shape, dtype, value):
    X, y = problem(*shape, dtype=dtype)
    X[shape[0] - 2, 7] = value  # not in the first block
    with pytest.raises(
        ValueError, match=rf"X\[{shape[0] - 2}, 7\] is {value}; expected features without NaN or infinity"
    ):
        LinearL2SVM(block_mib=1).fit(X, y)
    model = LinearL2SVM(block_mib=1).fit(X[:100], y[:100])
    with pytest.raises(ValueError, match=rf"X\[{shape[0] - 2}, 7\] is {value}"):
        model.predict(X)


def test_a_feature_beyond_float32_is_refused():
    X, y = problem(*TALL, dtype=np.float64)
    X[3, 2] = 1e300
    with pytest.raises(ValueError, match=r"X\[3, 2\] is 1e\+300; .*within the range of float32"):
        LinearL2SVM().fit(X, y)


def test_shapes_and_labels():
    X, y = problem(*TALL)
    with pytest.raises(ValueError, match=r"y has 1 class only, 3, in 400 rows; expected at least 2"):
        LinearL2SVM().fit(X, np.full(400, 3))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LinearL2SVM().fit(X, y[:-1])
    with pytest.raises(ValueError, match="Expected 2D array"):
        LinearL2SVM().fit(X[0], y)
    with pytest.raises(ValueError, match="Unknown label type"):
        LinearL2SVM().fit(X, y + 0.5)
    with pytest.raises(ValueError, match="could not convert string to float"):
        LinearL2SVM().fit(np.full((400, 2), "a"), y)
    with pytest.raises(ValueError, match="X has 19 features, but LinearL2SVM is expecting 20"):
        LinearL2SVM().fit(X, y).predict(X[:, 1:])
    with pytest.raises(NotFittedError):
        LinearL2SVM().predict(X)
