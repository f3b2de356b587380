"""How it is answered: golden values, statuses, stop quantities, batches, lanes, methods, constraints.

What a solver returns is judged here without its own code: by numbers computed elsewhere (the catalogue), by the
optimality conditions in NumPy, by derivatives taken afresh at the returned point.
"""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ufm
from catalogue import CASES, GOLDEN_CASES, PRODUCT_CASES, READ, Case, feasible, geometry, solution
from ufm.solve import GradientDescent, Status

solve_module = importlib.import_module("ufm.solve.solve")
lanes_module = importlib.import_module("ufm.solve.lanes")

slow = pytest.mark.slow


def lane(result, index):
    """One lane of a stacked result."""
    return jax.tree.map(lambda leaf: leaf[index], result)


def same_bits(a, b):
    """Whether two trees hold the same numbers, bit for bit (NaN included)."""
    return all(
        np.array_equal(x, y, equal_nan=True) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# ------------------------------------------------------------------ golden values

# Compiling is what these tests cost.  Left for `-m slow`: the product of losses, biases, constraints and profiles but
# for three that compile next to nothing, and golden values whose program another test compiles (the reweighted losses
# and the large problem go through `solve_many` below).
QUICK_PRODUCT = {"free-ce-none-balanced", "free-mse-none-step", "free-mse-free-tail"}
SLOW_GOLDEN = {"sphere.02", "reweighted.01", "reweighted.02", "reweighted.03", "reweighted.04", "reduction.01"}


def quick_or_slow(name, *others):
    """A parameter set that is slow where its program is."""
    quick = name in QUICK_PRODUCT or (name in GOLDEN_CASES and name not in SLOW_GOLDEN)
    return pytest.param(name, *others, marks=() if quick else slow)


@pytest.mark.parametrize("name", [quick_or_slow(name) for name, case in CASES.items() if case.value is not None])
def test_known_values(name):
    result, case = solution(name), CASES[name]
    assert result.status_name == "CONVERGED"
    assert result.relative_gradient <= 1e-10
    assert case.value.close(result.value), (float(result.value), case.value)


@pytest.mark.parametrize(
    ("name", "quantity"),
    [quick_or_slow(name, q) for name, case in GOLDEN_CASES.items() for q in case.quantities if q in READ],
)
def test_known_geometry(name, quantity):
    """Margins, norms, cosines, biases, ridge-path ratios: all the digits that the golden file gives."""
    case, result = CASES[name], solution(name, gtol=1e-13)
    found = READ[quantity](case, result.params)
    number = case.quantities[quantity]
    if quantity in ("margin", "weight_norm_sq", "feature_norm_sq") and np.ndim(number.value) == 0:
        assert np.size(found) >= case.problem.num_classes  # one number for all classes: all of them are compared
    assert number.close(found), (found, number)


def test_reweighted_losses_in_one_program():
    """Golden values of LA, LDAM and CDT as members of one family, in lanes, beside a member that uses everything.

    Absent parameters are 0 and 1.  Value and gradient of each answer are taken afresh from the problem: the lanes
    have a formula of their own.
    """
    names = ["reweighted.01", "reweighted.03", "reweighted.04"]
    neutral = {"logit_shift": 0.0, "own_margin": 0.0, "logit_scale": 1.0, "sample_scale": 1.0, "class_weight": 1.0}
    everything = {
        "logit_shift": [0.0, 0.3, -0.5, 0.1, -0.2],
        "own_margin": [0.1, 0.0, 0.4, 0.7, 0.2],
        "logit_scale": [1.0, 0.8, 0.6, 1.2, 0.9],
        "sample_scale": [0.7, 1.0, 1.1, 0.9, 1.3],
        "class_weight": [0.5, 1.0, 2.0, 1.5, 0.8],
        "smoothing": 0.1,
    }
    problem = CASES[names[0]].problem
    problems = []
    for given in [*(CASES[name].problem.loss for name in names), ufm.losses.CrossEntropy(**everything)]:
        values = {key: np.asarray(value) for key in neutral if (value := getattr(given, key)) is not None}
        values = {key: np.full(5, value) for key, value in neutral.items()} | values
        smoothing = 0.0 if given.smoothing is None else given.smoothing
        problems.append(dataclasses.replace(problem, loss=ufm.losses.CrossEntropy(smoothing=smoothing, **values)))
    problems = ufm.stack(problems)
    result = ufm.solve_many(problems, gtol=1e-10)
    assert set(result.status_name) == {"CONVERGED"}
    for name, value in zip(names, result.value, strict=False):
        assert CASES[name].value.close(value), name
    for i in range(4):
        value, _, relative = measured(problems[i], lane(result.params, i))
        assert value == pytest.approx(result.value[i], rel=1e-14)
        assert relative <= 1e-10 + 1e-13


def test_large_problems_go_one_after_another():
    """K = 120: above LARGEST_LANE_CLASSES classes one problem fills the vector unit by itself."""
    case = CASES["reduction.01"]
    assert case.problem.num_classes > lanes_module.LARGEST_LANE_CLASSES
    result = ufm.solve_many(ufm.stack([case.problem]), gtol=1e-10)
    assert result.status_name.tolist() == ["CONVERGED"]
    assert case.value.close(result.value[0])
    assert case.quantities["logit_gaps"].close(READ["logit_gaps"](case, lane(result.params, 0)))


@slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "lower_bound_scaled" in case.quantities])
def test_known_bounds_are_below_the_minimum(name):
    bound = CASES[name].quantities["lower_bound_scaled"].value
    assert bound < solution(name).value < 1.5 * bound


# ------------------------------------------------------------------ a hundred random problems for each bias

SIZES = {"none": 10, "free": 6, "decay": 6}
"""Classes of the random problems, by bias."""


def random_stack(bias, seed=0, size=100, k=None):
    """Random counts in 1..1000 (a quarter of them in groups), lambda_Z over 8 decades up to the zero threshold."""
    k = SIZES[bias] if k is None else k
    rng = np.random.default_rng([seed, k])
    counts = np.exp(rng.uniform(0, np.log(1000), (size, k))).round()
    counts[: size // 4, k // 2 :] = counts[: size // 4, :1]
    lambda_z = 10 ** rng.uniform(-8, 0, size) * np.sqrt(counts.max(axis=1)) / counts.sum(axis=1)
    root_ratio = 10 ** rng.uniform(-2, 2, size)
    options = {"bias_decay": 10 ** rng.uniform(-3, 0, size)} if bias == "decay" else {}
    return ufm.shallow(
        counts, weight_decay=lambda_z * root_ratio, feature_decay=lambda_z / root_ratio, bias=bias, **options
    )


@functools.cache
def solved(bias):
    return ufm.solve(random_stack(bias))


@functools.cache
def solved_many(bias):
    return ufm.solve_many(random_stack(bias))


@pytest.mark.parametrize("bias", SIZES)
def test_random_problems_converge(bias):
    one, many = solved(bias), solved_many(bias)
    assert set(one.status_name) == set(many.status_name) == {"CONVERGED"}
    assert one.relative_gradient.max() <= 1e-10
    assert many.relative_gradient.max() <= 1e-8
    np.testing.assert_allclose(many.value, one.value, rtol=1e-12)
    assert one.steps.max() < 1000


@slow
@pytest.mark.parametrize("bias", SIZES)
@pytest.mark.parametrize("k", [2, 3, 20])
def test_random_problems_of_other_sizes_converge(bias, k):
    problem = random_stack(bias, seed=k, k=k)
    one, many = ufm.solve(problem), ufm.solve_many(problem)
    assert set(one.status_name) == set(many.status_name) == {"CONVERGED"}
    np.testing.assert_allclose(many.value, one.value, rtol=1e-12)


def optimality(problem, params):
    """Violations of the optimality conditions and sum rules of the logit program (shallow theory, 1.3 and 1.5).

    Each is relative to what it is compared with.  Gamma = (P - T) D^{1/2} / N, its own entries as minus the mass of
    the others, so that a miss of 1e-9 keeps its digits.
    """
    n, lambda_z = np.asarray(problem.labels.counts), float(problem.lambda_z)
    total, w, m = n.sum(), params.classifier, params.features
    z, b = w @ m, np.zeros(len(n)) if params.bias is None else params.bias
    exponentials = np.exp(z + b[:, None] - (z + b[:, None]).max(axis=0))
    residual = exponentials / exponentials.sum(axis=0)
    np.fill_diagonal(residual, 0.0)
    np.fill_diagonal(residual, -residual.sum(axis=0))
    gamma, x = residual * np.sqrt(n) / total, z * np.sqrt(n)
    nuclear = np.linalg.norm(x, "nuc")
    collapsed = nuclear < 1e-6
    row = residual @ n / total
    found = {
        "norm": np.linalg.norm(gamma, 2) / lambda_z - 1,
        "alignment": 0.0 if collapsed else abs(-np.sum(gamma * x) / (lambda_z * nuclear) - 1),
        "rows of w": np.abs(w.sum(axis=0)).max() / np.linalg.norm(w),
        "columns of z": 0.0 if collapsed else np.abs(z.sum(axis=0)).max() / np.abs(z).max(),
    }
    if problem.model.bias == "free":
        found["bias"] = np.linalg.norm(row) / (lambda_z * np.sqrt(total))
        found["z n"] = 0.0 if collapsed else np.linalg.norm(z @ n) / np.linalg.norm(x) / np.sqrt(total)
    elif problem.model.bias == "decay":
        found["bias"] = np.linalg.norm(row + problem.decay.bias * b) / np.sqrt(
            problem.objective(params) * (problem.decay.bias + lambda_z)
        )
        found["mean of b"] = abs(b.mean()) / np.linalg.norm(b)
    return found


@pytest.mark.parametrize("bias", SIZES)
@pytest.mark.parametrize("solver", [solved, solved_many])
def test_optimality_conditions(solver, bias):
    """The conditions that are necessary and sufficient, at every one of the random solutions."""
    problem, result = random_stack(bias), solver(bias)
    gtol = 1e-10 if solver is solved else 1e-8
    limits = {"norm": 20 * gtol, "alignment": 20 * gtol, "bias": 20 * gtol, "z n": 1e4 * gtol}
    for i in range(len(problem)):
        for name, violation in optimality(problem[i], lane(result.params, i)).items():
            assert violation <= limits.get(name, 1e-12), (i, name)


def test_factors_are_balanced():
    """lambda_W ||W||^2 = lambda_H ||H||^2 at every critical point (1.1)."""
    problem, result = random_stack("none"), solved("none")
    of_w = problem.decay.weight * np.sum(result.params.classifier**2, axis=(1, 2))
    of_h = problem.decay.feature * np.einsum("bi,bdi->b", problem.labels.multiplicity, result.params.features**2)
    np.testing.assert_allclose(of_w, of_h, rtol=1e-8)


# ------------------------------------------------------------------ batches, lanes and their independence


@pytest.mark.parametrize("bias", ["free", "decay"])
def test_a_lane_is_the_single_solve(bias):
    problem, stacked = random_stack(bias), solved(bias)
    for i in (0, 17, 99):
        single = ufm.solve(problem[i])
        assert single.status == stacked.status[i]
        assert single.value == pytest.approx(stacked.value[i], rel=1e-13)
        z, wanted = (p.classifier @ p.features for p in (single.params, lane(stacked.params, i)))
        np.testing.assert_allclose(z, wanted, rtol=0, atol=1e-7 * np.abs(wanted).max() + 1e-9)


def reverse(tree):
    return jax.tree.map(lambda leaf: leaf[::-1], tree)


@pytest.mark.parametrize("solver", [ufm.solve, ufm.solve_many])
def test_no_answer_depends_on_its_place(solver):
    forward = (solved if solver is ufm.solve else solved_many)("decay")
    assert same_bits(reverse(solver(reverse(random_stack("decay")))), forward)


@pytest.mark.parametrize("solver", [ufm.solve, ufm.solve_many])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_a_bad_lane_harms_no_other(solver, leaf):
    """NaN set behind the door: the lane says NONFINITE, and every other lane keeps every bit."""
    clean = (solved if solver is ufm.solve else solved_many)("decay")
    problem = random_stack("decay")
    spoilt = np.array(getattr(problem.decay, leaf))
    bad = np.array([0, 13, 64, 99])
    spoilt[bad] = [np.nan, np.inf, np.nan, -np.inf]
    result = solver(dataclasses.replace(problem, decay=dataclasses.replace(problem.decay, **{leaf: spoilt})))
    good = np.setdiff1d(np.arange(100), bad)
    assert set(result.status_name[bad]) == {"NONFINITE"}
    assert same_bits(lane(result, good), lane(clean, good))


@pytest.mark.parametrize("loss", ["mse", pytest.param("ce", marks=slow)])
def test_vmap_of_solve(loss):
    problem = dataclasses.replace(random_stack("free"), loss=ufm.shallow([1, 1], loss=loss).loss)
    stacked = solved("free") if loss == "ce" else ufm.solve(problem)
    with ufm.float64():
        mapped = jax.vmap(ufm.solve)(problem)
    np.testing.assert_allclose(mapped.value, stacked.value, rtol=1e-13)
    np.testing.assert_array_equal(mapped.status, stacked.status)
    with pytest.raises(ValueError, match=r"enter `with ufm\.float64\(\):`"):
        jax.vmap(ufm.solve)(problem)


@pytest.mark.parametrize("width", [1, pytest.param(8, marks=slow), pytest.param(128, marks=slow)])
def test_widths_agree(width):
    result, wide = ufm.solve_many(random_stack("decay"), width=width), solved_many("decay")
    np.testing.assert_array_equal(result.status, wide.status)
    np.testing.assert_allclose(result.value, wide.value, rtol=1e-12)


def test_one_program_for_all_numbers():
    """Decays, counts, seed and limits are data: a new value compiles nothing."""
    solved("free"), solved_many("free")
    programs = [solve_module._seed.stack, lanes_module._run_lanes]
    before = [program._cache_size() for program in programs]
    for seed in (1, 2):
        problem = random_stack("free", seed)
        ufm.solve(problem, seed=seed, gtol=10.0**-seed, max_steps=7 + seed)
        ufm.solve_many(problem, gtol=10.0**-seed, max_steps=7 + seed)
    assert [program._cache_size() for program in programs] == before


def test_many_of_another_kind_go_through_solve():
    problem = ufm.shallow([30, 10, 4], loss="mse", weight_decay=[1e-3, 1e-2], feature_decay=0.1)
    assert same_bits(ufm.solve_many(problem), ufm.solve(problem, gtol=1e-8, max_steps=5000))


# ------------------------------------------------------------------ where the results live


def test_results_are_numpy_in_double_precision():
    assert not jax.config.jax_enable_x64
    result = ufm.solve(CASES["mse_balanced.01"].problem)
    many = ufm.solve_many(random_stack("free"))
    assert not jax.config.jax_enable_x64
    for leaf in jax.tree.leaves((result, many)):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype in (np.float64, np.int32)
    assert jnp.ones(1).dtype == jnp.float32


# ------------------------------------------------------------------ statuses

SMALL = {"counts": [20.0, 8.0, 3.0], "weight_decay": 0.02, "feature_decay": 0.005, "dim": 2}


@functools.cache
def small_start():
    problem = ufm.shallow(**SMALL)
    return problem, problem.init(jax.random.key(3))


def test_statuses_are_reached_and_told_apart():
    problem, start = small_start()
    run = functools.partial(ufm.solve, problem, "lbfgs", start=start)
    converged = run()
    assert converged.status_name == "CONVERGED"
    assert converged.relative_gradient <= 1e-10
    limited = run(max_steps=5)
    assert (limited.status_name, limited.steps) == ("MAX_STEPS", 5)
    assert limited.relative_gradient > 1e-10
    assert run(max_steps=0).steps == 0
    stalled = run(gtol=1e-18)
    assert stalled.status_name == "STALLED"
    assert 1e-18 < stalled.relative_gradient < 1e-14  # of points with equal values the flattest is returned
    assert measured(problem, stalled.params)[2] < 1e-14
    assert stalled.steps < 20_000
    many = ufm.stack([problem] * 3)  # alone a problem without numbers is refused; in a stack it gets a status
    weights = np.array([np.nan, np.inf, problem.decay.weight])
    broken = dataclasses.replace(many, decay=dataclasses.replace(many.decay, weight=weights))
    starts = jax.tree.map(lambda leaf: np.stack([leaf] * 3), start)
    assert ufm.solve(broken, "lbfgs", start=starts).status_name.tolist() == ["NONFINITE", "NONFINITE", "CONVERGED"]
    assert converged.value <= stalled.value * (1 + 1e-14)
    assert all(np.isfinite(r.value) for r in (converged, limited, stalled))


def test_a_loss_that_breaks_returns_the_best_point_so_far():
    """Gradient descent with a far too large step runs off to infinity; the answer is a finite point, and says so."""
    problem, start = small_start()
    result = ufm.solve(problem, GradientDescent(learning_rate=1e4), start=start, max_steps=20_000)
    assert result.status_name == "NONFINITE"
    assert np.isfinite(result.value)
    assert result.value <= problem.objective(start)
    assert measured(problem, result.params)[0] == pytest.approx(float(result.value), rel=1e-14)


def test_every_status_has_a_sentence_and_a_name():
    for status in Status:
        assert len(status.sentence) > 10
    stacked = solved("free")
    assert stacked.converged.all()
    assert stacked.status_name.shape == (100,)
    assert solution("mse_balanced.01").status_name == "CONVERGED"


# ------------------------------------------------------------------ the stop quantity at the returned point


@jax.jit
def derivative(problem, params):
    """F and its gradient."""
    return jax.value_and_grad(lambda p: problem.objective(p))(params)


def measured(problem, params):
    """(F, ||grad||, ||grad / sqrt(m)|| / sqrt(F)) taken afresh, with the metric written out."""
    with ufm.float64():
        value, gradient = derivative(problem, jax.tree.map(jnp.asarray, params))
        metric = problem.metric()
    gradient = jax.tree.map(np.asarray, gradient)
    scaled = [gradient.classifier / np.sqrt(problem.decay.weight)]
    scaled += [gradient.features / np.sqrt(problem.decay.feature * problem.labels.multiplicity)[None, :]]
    if gradient.bias is not None:
        scaled += [gradient.bias / np.sqrt(metric.bias)]
    norm = lambda parts: np.sqrt(sum(np.sum(np.square(p)) for p in parts))  # noqa: E731
    return float(value), norm(jax.tree.leaves(gradient)), norm(scaled) / np.sqrt(float(value))


@pytest.mark.parametrize("method", ["lbfgs", "gd", "newton"])
@pytest.mark.parametrize("max_steps", [0, 6])
def test_gradient_is_measured_at_the_returned_point(method, max_steps):
    problem, start = small_start()
    result = ufm.solve(problem, method, start=start, max_steps=max_steps)
    value, plain, relative = measured(problem, result.params)
    assert result.value == pytest.approx(value, rel=1e-14)
    assert result.gradient_norm == pytest.approx(plain, rel=1e-11)
    assert result.relative_gradient == pytest.approx(relative, rel=1e-11)


@pytest.mark.parametrize("bias", ["free", "decay"])
@pytest.mark.parametrize("solver", [ufm.solve, ufm.solve_many])
def test_gradient_of_an_unfinished_stack(solver, bias):
    problem = random_stack(bias)
    result = solver(problem, max_steps=5)
    assert "MAX_STEPS" in result.status_name
    for i in np.flatnonzero(result.status == Status.MAX_STEPS)[:5]:
        value, plain, relative = measured(problem[i], lane(result.params, i))
        assert result.value[i] == pytest.approx(value, rel=1e-12)
        assert result.gradient_norm[i] == pytest.approx(plain, rel=1e-8)
        assert result.relative_gradient[i] == pytest.approx(relative, rel=1e-8)


@pytest.mark.parametrize("name", ["ce_imbalanced.01", "ce_imbalanced.03", "mse_imbalanced.01", "focal.01"])
def test_gradient_of_a_finished_solve(name):
    """What CONVERGED promises is true of the point as it is, up to the rounding of one gradient."""
    case = CASES[name]
    value, _, relative = measured(case.problem, solution(name).params)
    assert relative <= 1e-10 + 1e-13
    assert value == pytest.approx(float(solution(name).value), rel=1e-14)


# ------------------------------------------------------------------ methods


def test_methods_agree():
    """Descent by hand, Adam, L-BFGS, spectral steps, Newton and the convex program find one value."""
    problem, start = small_start()
    newton = ufm.solve(problem, "newton", start=start)
    assert newton.status_name == "CONVERGED"
    assert newton.steps < 60
    for method, gtol in (("lbfgs", 1e-10), ("spectral", 1e-10), ("gd", 1e-9), ("adam", 1e-6)):
        result = ufm.solve(problem, method, start=start, gtol=gtol, max_steps=20_000)
        assert result.status_name == "CONVERGED", method
        assert result.value == pytest.approx(newton.value, rel=max(1e-13, gtol**2))
    logits = ufm.solve(problem, "logits")
    assert logits.value == pytest.approx(newton.value, rel=1e-13)
    wanted = newton.params.classifier @ newton.params.features
    np.testing.assert_allclose(logits.params.classifier @ logits.params.features, wanted, atol=1e-7)


def test_slow_descent_is_not_stalled():
    """A small step makes no visible progress in one step; over many steps it does."""
    problem, start = small_start()
    result = ufm.solve(problem, GradientDescent(0.05), start=start, gtol=1e-7)
    assert result.status_name == "CONVERGED"
    assert result.steps > 10_000


@pytest.mark.parametrize("name", ["ce_imbalanced.03", pytest.param("ce_imbalanced.06", marks=slow)])
def test_the_convex_program_with_a_bias(name):
    """A step that is safe for the logits alone diverges with a bias."""
    result = ufm.solve(CASES[name].problem, "logits")
    assert result.relative_gradient < 1e-8
    assert result.value == pytest.approx(solution(name).value, rel=1e-12)


def test_a_warm_start_ends_at_once():
    problem, start = small_start()
    first = ufm.solve(problem, "lbfgs", start=start)
    again = ufm.solve(problem, "lbfgs", start=first.params)
    assert again.steps == 0
    assert same_bits(again.params, first.params)


def test_newton_leaves_a_saddle_and_reaches_the_floor():
    problem, start = small_start()
    near_zero = jax.tree.map(lambda leaf: 1e-4 * np.asarray(leaf), start)
    result = ufm.solve(problem, "newton", start=near_zero, gtol=1e-13)
    assert result.relative_gradient < 1e-12
    assert result.value == pytest.approx(ufm.solve(problem, "newton", start=start).value, rel=1e-14)


# ------------------------------------------------------------------ restarts and seeds


def test_restarts_draw_distinct_starts():
    """With no step taken the answer is the best of the starts themselves."""
    problem, _ = small_start()
    run = functools.partial(ufm.solve, problem, "gd", max_steps=0)
    keys = jax.random.split(jax.random.key(5), 6)
    starts = [problem.init(key) for key in keys]
    values = [float(problem.objective(start)) for start in starts]
    assert len(set(values)) == 6
    best = run(seed=5, restarts=6)
    assert best.value == pytest.approx(min(values), rel=1e-14)
    np.testing.assert_allclose(best.params.classifier, starts[int(np.argmin(values))].classifier, rtol=1e-14)
    assert same_bits(run(seed=5, restarts=6), best)
    assert not same_bits(run(seed=6, restarts=6).params, best.params)


def test_restarts_find_the_global_minimum_near_a_first_order_transition():
    """Focal, K = 20, gamma = 3: minima at 2.568439, 2.568445, 2.568462 and 2.568466 (zero); shallow theory, 4."""
    problem = ufm.shallow([1] * 20, loss="focal", gamma=3.0, weight_decay=0.0632092, feature_decay=0.0632092)
    result = ufm.solve(problem, restarts=16)
    assert result.value == pytest.approx(2.568439, abs=5e-7)
    spread = READ["margin"](Case("", problem, None, {}, (20,)), result.params)
    assert np.ptp(spread) < 1e-6 * spread.max()  # all twenty classes are separated


# ------------------------------------------------------------------ history


def test_history_is_log_spaced_and_falls():
    problem, start = small_start()
    result = ufm.solve(problem, "lbfgs", start=start)
    used = result.history.step >= 0
    steps, values = result.history.step[used], result.history.value[used]
    assert steps[:9].tolist() == [0, 1, 2, 3, 4, 6, 8, 11, 16][: len(steps[:9])]
    assert np.all(steps <= result.steps)
    assert len(steps) >= 7
    assert values[0] == pytest.approx(float(problem.objective(start)), rel=1e-14)
    assert np.all(np.diff(values) <= 1e-11 * np.abs(values[:-1]))
    assert result.value <= values[-1] * (1 + 1e-13)  # values this close are equal; the smaller gradient decides
    assert np.all(result.history.step[~used] == -1)
    assert np.all(np.isnan(result.history.value[~used]))
    assert np.all(np.isnan(result.history.relative_gradient[~used]))
    assert measured(problem, start)[2] == pytest.approx(result.history.relative_gradient[0], rel=1e-12)


def test_history_of_a_stack():
    history, steps = solved("none").history, solved("none").steps
    assert history.step.shape == history.value.shape == history.relative_gradient.shape
    for i in range(100):
        used = history.step[i] >= 0
        assert np.all(np.diff(history.step[i][used]) > 0)
        assert not used[np.count_nonzero(used) :].any()
        assert history.step[i][used].max() <= steps[i] < 2 * max(history.step[i][used].max(), 1)
        assert np.all(np.diff(history.value[i][used]) <= 1e-11 * history.value[i][used][:-1])
    assert solved_many("none").history.step.shape == (100, 0)


# ------------------------------------------------------------------ thresholds, invariances


def test_zero_is_the_answer_above_its_threshold():
    """Balanced cross-entropy: Z = 0 iff K sqrt(n lambda_W lambda_H) >= 1."""
    counts, at = [9.0] * 5, 1 / (5 * 3)
    above = ufm.solve(ufm.shallow(counts, weight_decay=1.02 * at, feature_decay=1.02 * at))
    below = ufm.solve(ufm.shallow(counts, weight_decay=0.98 * at, feature_decay=0.98 * at))
    assert above.status_name == below.status_name == "CONVERGED"
    assert above.value == pytest.approx(np.log(5), rel=1e-14)
    assert np.abs(above.params.classifier @ above.params.features).max() < 1e-6
    t = np.log1p((1 - 0.98) / (0.98 / 5))
    np.testing.assert_allclose(below.params.classifier @ below.params.features, t * (np.eye(5) - 0.2), rtol=1e-6)


def test_permuted_classes_give_permuted_geometry():
    counts, order = np.array([24.0, 24.0, 7.0, 7.0, 7.0]), np.array([3, 0, 4, 1, 2])
    first = solution("ce_imbalanced.01", gtol=1e-13)
    problem = ufm.shallow(counts[order], weight_decay=0.012, feature_decay=0.012)
    second = ufm.solve(problem, gtol=1e-13)
    assert second.value == pytest.approx(first.value, rel=1e-14)
    case = CASES["ce_imbalanced.01"]
    for a, b in zip(
        dataclasses.astuple(geometry(case, first.params)),
        dataclasses.astuple(geometry(case, second.params)),
        strict=True,
    ):
        np.testing.assert_allclose(b, a[np.ix_(order, order)], atol=1e-8 * np.abs(a).max())


def test_only_the_product_of_the_decays_matters():
    case, first = CASES["ce_imbalanced.01"], solution("ce_imbalanced.01", gtol=1e-13)
    problem = ufm.shallow(case.problem.labels.counts, weight_decay=0.012 * 50, feature_decay=0.012 / 50)
    second = ufm.solve(problem, gtol=1e-13)
    assert second.value == pytest.approx(first.value, rel=1e-14)
    a, b = geometry(case, first.params), geometry(case, second.params)
    np.testing.assert_allclose(b.logits, a.logits, atol=1e-8)
    np.testing.assert_allclose(b.weight_gram, a.weight_gram / 50, atol=1e-8)  # sqrt(lambda_H / lambda_W)
    np.testing.assert_allclose(b.mean_gram, a.mean_gram * 50, atol=1e-7)


def test_the_scale_of_the_logits_divides_lambda_z():
    options = {"counts": [30, 10, 4], "loss": "mse", "weight_decay": 0.01, "bias": "free"}
    scaled = ufm.solve(ufm.shallow(**options, feature_decay=0.09, temperature=1 / 3.0))
    assert scaled.status_name == "CONVERGED"
    assert scaled.value == pytest.approx(ufm.solve(ufm.shallow(**options, feature_decay=0.01)).value, rel=1e-13)


# ------------------------------------------------------------------ mean squared error


@pytest.mark.parametrize("bias", ["none", "free"])
def test_mse_against_its_closed_form(bias):
    """F* = sum_j min(s_j, theta)^2 / 2N + lambda_Z (s_j - theta)_+ over the d largest s_j, all of the others lost."""
    rng = np.random.default_rng(11)
    counts = rng.integers(1, 1000, size=(60, 4)).astype(float)
    total = counts.sum(axis=1)
    lambda_z = 10 ** rng.uniform(-8, 0.3, 60) * np.sqrt(counts.max(axis=1)) / total
    for dim in (2, 4):
        problem = ufm.shallow(
            counts, loss="mse", weight_decay=9 * lambda_z, feature_decay=lambda_z / 9, bias=bias, dim=dim
        )
        result = ufm.solve(problem)
        # In float64 the factored gradient cannot always fall to 1e-10 at the smallest decays; the value is exact.
        assert set(result.status_name) <= {"CONVERGED", "STALLED"}
        for i in range(60):
            n = counts[i]
            target = np.eye(4) if bias == "none" else np.eye(4) - (n / total[i])[:, None]
            s, theta = np.linalg.svd(target * np.sqrt(n))[1], total[i] * lambda_z[i]
            kept = np.minimum(s, theta) ** 2 / (2 * total[i]) + lambda_z[i] * np.maximum(s - theta, 0)
            expected = kept[:dim].sum() + (s[dim:] ** 2).sum() / (2 * total[i])
            assert result.value[i] == pytest.approx(expected, rel=1e-11, abs=1e-15)


@slow
def test_mse_with_a_decayed_bias_is_optimal():
    """||Gamma|| <= lambda_Z, alignment, and the bias condition, for the program that is smooth in b alone."""
    rng = np.random.default_rng(12)
    counts = rng.integers(1, 1000, size=(60, 4)).astype(float)
    total = counts.sum(axis=1)
    lambda_z = 10 ** rng.uniform(-5, 0.1, 60) * np.sqrt(counts.max(axis=1)) / total
    decay = 10 ** rng.uniform(-3, 1, 60)
    problem = ufm.shallow(
        counts, loss="mse", weight_decay=lambda_z * 4, feature_decay=lambda_z / 4, bias="decay", bias_decay=decay
    )
    result = ufm.solve(problem)
    assert set(result.status_name) <= {"CONVERGED", "STALLED"}
    assert result.relative_gradient.max() < 1e-8
    for i in range(60):
        n, params = counts[i], lane(result.params, i)
        z = params.classifier @ params.features
        gamma = (z + params.bias[:, None] - np.eye(4)) * np.sqrt(n) / total[i]
        nuclear = np.linalg.norm(z * np.sqrt(n), "nuc")
        assert np.linalg.norm(gamma, 2) <= lambda_z[i] * (1 + 1e-6)
        assert -np.sum(gamma * z * np.sqrt(n)) == pytest.approx(lambda_z[i] * nuclear, rel=1e-6, abs=1e-12)
        np.testing.assert_allclose(gamma @ np.sqrt(n), -decay[i] * params.bias, atol=1e-9)


# ------------------------------------------------------------------ constraints

CONSTRAINED = ["nonnegative.01", "sphere.01", "layer_peeled.01"]
CONSTRAINED += [pytest.param(n, marks=slow) for n in PRODUCT_CASES if not n.startswith("free")]


@pytest.mark.parametrize("name", CONSTRAINED)
def test_constrained_solutions_are_feasible_and_stationary(name):
    """The multipliers of each constraint, read off the gradient of F: right sign, right direction, nothing left."""
    problem, result = CASES[name].problem, solution(name, gtol=1e-13)
    assert feasible(problem, result.params)
    with ufm.float64():
        _, gradient = derivative(problem, jax.tree.map(jnp.asarray, result.params))
    sides = (
        (problem.model.constraint, result.params.features, np.asarray(gradient.features), problem.model.feature_radius),
        (
            problem.model.classifier_constraint,
            result.params.classifier.T,
            np.asarray(gradient.classifier).T,
            problem.model.classifier_radius,
        ),
    )
    size = max(np.abs(g).max() for _, _, g, _ in sides) + np.sqrt(float(result.value))
    for kind, x, g, radius in sides:
        if kind == "nonnegative":
            assert np.abs(g[x > 0]).max() <= 1e-8 * size
            assert g.min() >= -1e-8 * size
            continue
        if kind == "none":
            multiplier = np.zeros(x.shape[1])
        elif kind == "budget":
            multiplier = np.full(x.shape[1], -np.sum(g * x) / np.sum(x * x))
        else:
            multiplier = -np.sum(g * x, axis=0) / np.sum(x * x, axis=0)
        assert np.abs(g + x * multiplier[None, :]).max() <= 1e-7 * size
        if kind in ("ball", "budget"):
            rho = 1.0 if radius is None else float(radius)
            used = np.sum(x * x, axis=0) / rho**2 if kind == "ball" else np.sum(x * x) / problem.num_classes / rho
            assert np.all(multiplier >= -1e-8 * size)
            assert np.all((used > 1 - 1e-12) | (multiplier <= 1e-7 * size))


@slow
def test_unit_vectors_in_the_plane_form_a_square():
    """K = 4, d = 2, unit rows and features: 2 log(1 + e^{-s}) (section 14); the simplex bound is not attained."""
    s = 3.0
    problem = ufm.shallow([1] * 4, dim=2, constraint="sphere", classifier_constraint="sphere", temperature=1 / s)
    result = ufm.solve(problem, restarts=8)
    assert result.value == pytest.approx(2 * np.log1p(np.exp(-s)), rel=1e-12)
    assert np.log1p(3 * np.exp(-s * 4 / 3)) < result.value


def test_fewer_dimensions_than_the_relaxation_needs():
    """d < K - 1: the convex program is only a bound; restarts agree on a larger value, of full rank d."""
    counts, decay = [9.0, 9.0, 9.0, 9.0, 2.0], 0.01
    problem = ufm.shallow(counts, dim=2, weight_decay=decay, feature_decay=decay)
    low = ufm.solve(problem, restarts=8)
    again = ufm.solve(problem, restarts=8, seed=1)
    assert low.status_name == "CONVERGED"
    assert again.value == pytest.approx(low.value, rel=1e-12)
    relaxed = ufm.solve(ufm.shallow(counts, weight_decay=decay, feature_decay=decay))
    assert low.value > relaxed.value * 1.05
    assert low.params.features.shape == (2, 5)
    with pytest.raises(ValueError, match=r"^method: 'logits' cannot be used \(dim 2 is below 4"):
        ufm.solve(problem, "logits")


# ------------------------------------------------------------------ samples instead of class means


def test_sample_form_has_the_value_of_its_class_means():
    """The answer is lifted to one column per sample, and is stationary for the problem of the samples."""
    classes = [2, 0, 0, 1, 4, 0, 2, 3, 4, 0, 1, 0]
    problem = ufm.shallow(labels=ufm.labels.from_labels(classes), weight_decay=0.01, feature_decay=0.02)
    result = ufm.solve(problem)
    means = ufm.solve(ufm.shallow([5, 2, 2, 1, 2], weight_decay=0.01, feature_decay=0.02))
    assert result.value == pytest.approx(means.value, rel=1e-13)
    assert result.params.classifier.shape == (5, 5)
    np.testing.assert_array_equal(
        result.params.features, result.params.features[:, [classes.index(c) for c in classes]]
    )
    value, _, relative = measured(problem, result.params)
    assert value == pytest.approx(float(result.value), rel=1e-14)
    assert relative <= 1e-10 + 1e-13


@slow
def test_samples_collapse_by_themselves():
    classes = np.array([2, 0, 0, 1, 0, 2, 0, 1, 0])
    problem = ufm.shallow(labels=ufm.labels.from_labels(classes), weight_decay=0.01, feature_decay=0.02)
    full = ufm.solve(problem, reduce=False, gtol=1e-13)
    assert full.value == pytest.approx(ufm.solve(problem).value, rel=1e-13)
    for k in range(3):
        assert np.ptp(full.params.features[:, classes == k], axis=1).max() < 1e-8


# ------------------------------------------------------------------ the door of the solvers


def _params(k, d, n, bias=None):
    return ufm.Params((np.ones((k, d)),), np.ones((d, n)), bias)


ONE = ufm.shallow([5, 3, 2])
TWO = ufm.shallow([[5, 3, 2]] * 2)
WITH_BIAS = ufm.shallow([5, 3, 2], bias="free")
BALL = ufm.shallow([5, 3, 2], constraint="ball")
REFUSED = [
    (lambda: ufm.solve(ONE, "quick"), "method", "'quick'"),
    (lambda: ufm.solve(ONE, 3), "method", "3"),
    (lambda: ufm.solve(BALL, "lbfgs"), "method", "LBFGS"),
    (lambda: ufm.solve(BALL, "newton"), "method", "Newton"),
    (lambda: ufm.solve(BALL, "logits"), "method", "constrained"),
    (lambda: ufm.solve(ufm.shallow([5, 3, 2], loss="focal"), "logits"), "method", "not convex"),
    (lambda: ufm.solve(ONE, "logits", start=_params(3, 3, 3)), "method", "start"),
    (lambda: ufm.solve(ONE, restarts=0), "restarts", "0"),
    (lambda: ufm.solve(ONE, restarts=1.5), "restarts", "1.5"),
    (lambda: ufm.solve(ONE, restarts="many"), "restarts", "'many'"),
    (lambda: ufm.solve(ONE, seed=1.5), "seed", "1.5"),
    (lambda: ufm.solve(ONE, seed="a"), "seed", "'a'"),
    (lambda: ufm.solve(ONE, seed=2**63), "seed", str(2**63)),
    (lambda: ufm.solve(ONE, gtol=0), "gtol", "0"),
    (lambda: ufm.solve(ONE, gtol=np.nan), "gtol", "nan"),
    (lambda: ufm.solve(ONE, gtol="small"), "gtol", "'small'"),
    (lambda: ufm.solve(ONE, max_steps=-1), "max_steps", "-1"),
    (lambda: ufm.solve(ONE, max_steps=2**40), "max_steps", str(2**40)),
    (lambda: ufm.solve(ONE, max_steps="all"), "max_steps", "'all'"),
    (lambda: ufm.solve(ONE, start=3), "start", "3"),
    (lambda: ufm.solve(ONE, start=_params(3, 2, 3)), "start", "(3, 2)"),
    (lambda: ufm.solve(ONE, start=_params(3, 3, 3, np.ones(3))), "start", "bias"),
    (lambda: ufm.solve(WITH_BIAS, start=_params(3, 3, 3)), "start", "bias"),
    (lambda: ufm.solve(WITH_BIAS, start=_params(3, 3, 3, np.ones(2))), "start", "(2,)"),
    (lambda: ufm.solve(TWO, start=_params(3, 3, 3)), "start", "(2,)"),
    (lambda: ufm.solve(ONE, start=_params(3, 3, 3), restarts=2), "restarts", "start"),
    (lambda: ufm.solve(ONE, start=_params(3, 3, 3), reduce=True), "reduce", "start"),
    (lambda: ufm.solve_many(ONE), "problem", "stacked"),
    (lambda: ufm.solve_many(TWO, width=0), "width", "0"),
    (lambda: ufm.solve_many(TWO, width=2.5), "width", "2.5"),
    (lambda: ufm.solve_many(TWO, gtol=-1), "gtol", "-1"),
    (lambda: ufm.solve_many(TWO, max_steps=-1), "max_steps", "-1"),
]


@pytest.mark.parametrize(("call", "argument", "shown"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_solvers_name_the_bad_argument(call, argument, shown):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the sentence is looked at below
        call()
    sentence = str(caught.value)
    assert sentence.startswith(f"{argument}: ")
    assert shown in sentence
    assert "\n" not in sentence
