"""What must hold of every task: shapes, reproducibility, stated variances, and that a shift changes one fact only."""

import inspect
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab import tasks
from iclab.tasks import (
    Alternating,
    CovarianceShift,
    DecisionTree,
    DynamicalSystem,
    FinitePool,
    HalfSubspace,
    KeyAverage,
    LinearClassification,
    LinearRegression,
    Longer,
    NoiseMixture,
    NoisyLabels,
    Normal,
    NormalisedLabels,
    OneOf,
    OppositeOrthant,
    Orthant,
    OrthogonalQuery,
    Power,
    QueryAndKeys,
    RandomOrthant,
    ReLUNetwork,
    RepeatedQuery,
    RepresentationMixture,
    RepresentationRegression,
    ScaledInputs,
    ScaledWeights,
    SkewedInputs,
    SparseLinearRegression,
    Sphere,
    TruePrior,
    Truncated,
    Uniform,
    UnitNormal,
    WhitenedLinearRegression,
)
from iclab.tasks.examples.inputs import rotation
from iclab.tasks.features import Representation
from tests.conftest import generator

BASE = LinearRegression(6, 5, noise=0.5)
TASKS = {
    "linear": BASE,
    "linear, uniform inputs": LinearRegression(3, 4, inputs=Uniform(half_width=0.5)),
    "linear, sphere": LinearRegression(3, 4, inputs=Sphere(spectrum=(1.0, 0.5, 0.1), rotation_seed=3)),
    "whitened": WhitenedLinearRegression(3, 5, prior=2.0, inputs=Uniform(spectrum=(4.0, 1.0, 0.5), rotation_seed=1)),
    "sparse": SparseLinearRegression(8, 5, sparsity=2),
    "representation": RepresentationRegression(3, 5, 0.3, representation=Representation(width=4, depth=1)),
    "dynamical system": DynamicalSystem(3, 5, 0.3, representation=Representation(width=4), window=2),
    "classes": LinearClassification(4, 5),
    "noise levels": NoiseMixture(BASE, (0.1, 2.0)),
    "representations": RepresentationMixture(RepresentationRegression(3, 5, 0.3), count=3),
    "one of two classes of functions": OneOf((BASE, LinearClassification(6, 5))),
    "scaled weights of one of two": ScaledWeights(OneOf((BASE, DecisionTree(6, 5, noise=2.0))), 3.0),
    "one noise in place of several": NoisyLabels(NoiseMixture(BASE, (0.1, 2.0)), 1.0),
    "skewed inputs of noise levels": SkewedInputs(NoiseMixture(BASE, (0.0, 2.0))),
    "network": ReLUNetwork(4, 5, width=7),
    "tree": DecisionTree(4, 5, depth=3),
    "pool": FinitePool(BASE, size=3),
    "true prior of a pool": TruePrior(FinitePool(BASE, size=3)),
    "scaled inputs": ScaledInputs(BASE, 3.0),
    "scaled weights": ScaledWeights(BASE, 2.0),
    "scaled weights of trees": ScaledWeights(DecisionTree(4, 5), 2.0),
    "normalised labels": NormalisedLabels(BASE),
    "noisy labels": NoisyLabels(BASE, 2.0),
    "truncated": Truncated(BASE, dims=2, points=3),
    "longer": Longer(BASE, points=9),
    "skewed": SkewedInputs(BASE),
    "half subspace": HalfSubspace(BASE),
    "random orthant": RandomOrthant(BASE),
    "opposite orthant": OppositeOrthant(BASE),
    "random orthant of skewed inputs": RandomOrthant(SkewedInputs(BASE)),
    "opposite orthant of a subspace": OppositeOrthant(HalfSubspace(BASE)),
    "orthogonal query": OrthogonalQuery(BASE),
    "repeated query": RepeatedQuery(BASE),
    "query and keys": QueryAndKeys(4, 5, 0.3, targets=(("one", KeyAverage(Power(2))), ("other", Alternating()))),
    "a shift of a shift of a pool": ScaledInputs(SkewedInputs(FinitePool(BASE, size=2)), 2.0),
}


@pytest.fixture(params=TASKS.values(), ids=TASKS.keys())
def task(request):
    return request.param


def labelled(task):
    """The positions that have labels: all of them, but that keys have none."""
    return slice(task.n - 1 if isinstance(task, QueryAndKeys) else 0, task.n)


def test_every_concrete_kind_is_in_the_matrix():
    def below(cls):
        return set().union(*[{c} | below(c) for c in cls.__subclasses__()], set())

    concrete = {c for c in below(tasks.Task) if not inspect.isabstract(c)}
    reached = set()
    for one in TASKS.values():
        while isinstance(one, tasks.Derived):
            reached.add(type(one))
            one = one.base
        reached.add(type(one))
    assert {c for c in concrete if c.__module__.startswith("iclab.")} == reached


def test_prompts_have_the_shapes_they_promise(task):
    prompts = task.sample(7, generator())
    assert prompts.xs.shape == (7, task.n, task.d)
    assert prompts.ys.shape == prompts.fs.shape == (7, task.n) + (() if task.label_dim is None else (task.label_dim,))
    assert not task.labels_are_next_inputs or torch.equal(prompts.ys[:, :-1], prompts.xs[:, 1:])
    assert prompts.xs.dtype == prompts.ys.dtype == torch.float32


def test_the_same_generator_state_gives_the_same_prompts(task):
    one, same, other = (task.sample(3, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.xs, same.xs) and torch.equal(one.ys, same.ys)
    assert not torch.equal(one.xs, other.xs)


def test_some_of_the_prompts_are_prompts_with_their_own_functions(task):
    whole = task.sample(6, generator())
    some, at = whole[2:5], labelled(task)
    assert torch.equal(some.ys, whole.ys[2:5])
    torch.testing.assert_close(some.truth(some.xs[:, at]), some.fs[:, at])


def test_sampling_leaves_the_global_generator_alone(task):
    before = torch.get_rng_state()
    task.sample(3, generator())
    assert torch.equal(before, torch.get_rng_state())


def test_labels_are_the_function_plus_noise_of_the_stated_size(task):
    prompts, at = task.sample(20_000, generator(), torch.float64), labelled(task)
    fs = prompts.fs[:, at]
    torch.testing.assert_close(prompts.truth(prompts.xs[:, at]), fs)
    noise = prompts.ys[:, at] - fs
    assert noise.square().mean().sqrt().item() == pytest.approx(task.noise, rel=0.02)
    if task.noise:  # independent of the labels: correlation within 5 standard errors of 0
        assert abs(torch.corrcoef(torch.stack([noise.flatten(), fs.flatten()]))[0, 1]) < 5 / noise.numel() ** 0.5


@pytest.mark.parametrize(
    "inputs", [Normal(), UnitNormal(), Uniform(half_width=0.5), Sphere()], ids=lambda i: type(i).__name__
)
@pytest.mark.parametrize("spectrum", [(), (2.0, 1.0, 0.25)])
@pytest.mark.parametrize("seed", [None, 5])
def test_inputs_have_the_second_moment_they_state(inputs, spectrum, seed):
    law = type(inputs)(
        **({"half_width": 0.5} if isinstance(inputs, Uniform) else {}), spectrum=spectrum, rotation_seed=seed
    )
    task = LinearRegression(3, 10, inputs=law)
    xs = task.sample(40_000, generator(), torch.float64).xs.flatten(0, 1)
    # An entry of 400,000 products of variance at most 2·2² has a standard error of 0.0045; five of them are allowed.
    torch.testing.assert_close(xs.mT @ xs / len(xs), task.input_second_moment(), atol=0.0225, rtol=0)


@given(seed=st.integers(0, 2**31), d=st.integers(1, 8))
def test_rotations_are_orthogonal_and_belong_to_their_seed(seed, d):
    q = rotation(d, seed)
    torch.testing.assert_close(q @ q.mT, torch.eye(d, dtype=torch.float64))
    assert torch.linalg.det(q) > 0
    assert d == 1 or not torch.equal(q, rotation(d, seed + 1))


def test_contexts_have_the_second_moment_and_rank_that_their_task_states(task):
    if isinstance(task, DynamicalSystem):
        return  # of the first state, which is that of its input law; the others depend on the functions
    xs = task.sample(60_000, generator(), torch.float64).xs
    xs = xs[:, :-1] if task.query_only else xs
    moments = xs.mT @ xs / xs.shape[1]
    error = moments.std(0) / len(moments) ** 0.5
    assert ((moments.mean(0) - task.input_second_moment()).abs() <= 5 * error + 1e-12).all()
    assert torch.linalg.matrix_rank(xs.flatten(0, 1)[:200], rtol=1e-9) == task.rank


def assert_fourth_moment(task, stated):
    """E (xᵀSx) x xᵀ of a context is what is stated, for a form S that is not diagonal."""
    form = torch.eye(task.d, dtype=torch.float64) + 0.5
    xs = task.sample(60_000, generator(1), torch.float64).xs
    xs = xs[:, :-1] if task.query_only else xs
    terms = (xs.mT * ((xs @ form) * xs).sum(-1, keepdim=True).mT) @ xs / xs.shape[1]
    error = terms.std(0) / len(terms) ** 0.5
    assert ((terms.mean(0) - stated(form)).abs() <= 5 * error + 1e-12).all()


def test_contexts_have_the_fourth_moment_that_their_task_states(task):
    if isinstance(task, Orthant) and isinstance(task.base, CovarianceShift):
        return  # stated is that of the base, which is exact for independent coordinates alone
    if isinstance(task, DynamicalSystem):
        return  # of the first state
    assert_fourth_moment(task, task.input_fourth_moment)


@pytest.mark.parametrize(
    ("inputs", "nodes", "weights"),
    [
        (Normal(), *np.polynomial.hermite_e.hermegauss(8)),
        (Uniform(half_width=1.5), *(np.polynomial.legendre.leggauss(8) * np.array([[1.5], [1.0]]))),
    ],
    ids=["normal", "uniform"],
)
def test_fourth_moments_are_those_of_gaussian_quadrature(inputs, nodes, weights):
    """Exact for polynomials: eight nodes in each of three coordinates integrate the fourth power without error."""
    grid = torch.cartesian_prod(*3 * [torch.tensor(nodes)])
    share = torch.cartesian_prod(*3 * [torch.tensor(weights / weights.sum())]).prod(-1)
    uneven = replace(inputs, spectrum=(1.0, 0.5, 2.0), rotation_seed=3)
    xs, form = grid @ uneven.root(3).mT, torch.tensor([[1.0, 0.3, 0.0], [0.3, 2.0, -0.5], [0.0, -0.5, 0.7]]).double()
    exact = (xs.mT * share * ((xs @ form) * xs).sum(-1)) @ xs
    torch.testing.assert_close(uneven.fourth_moment(form), exact, rtol=1e-12, atol=1e-12)


def test_the_fourth_moment_tells_laws_with_one_covariance_apart():
    uniform = LinearRegression(3, 4, inputs=Uniform(half_width=3**0.5))
    normal = LinearRegression(3, 4)
    torch.testing.assert_close(uniform.input_second_moment(), normal.input_second_moment())
    with pytest.raises(AssertionError):
        assert_fourth_moment(uniform, normal.input_fourth_moment)


def test_whitened_functions_have_labels_to_which_every_direction_contributes_alike():
    task = TASKS["whitened"]
    values, basis = torch.linalg.eigh(task.input_second_moment())
    ws = task.sample(200_000, generator(), torch.float64).ws
    torch.testing.assert_close(
        (ws @ basis).square().mean(0) * values, torch.full((3,), 4.0).double(), rtol=0.02, atol=0
    )
    torch.testing.assert_close(ws.mT @ ws / len(ws), task.weight_covariance(), rtol=0.03, atol=0.05)
    with pytest.raises(ValueError, match="spectrum must be positive"):
        WhitenedLinearRegression(2, 5, inputs=Normal(spectrum=(1.0, 0.0)))


def test_label_variances_are_as_stated():
    for task in (BASE, SparseLinearRegression(6, 5, 0.5, sparsity=2, prior=2.0), TASKS["whitened"]):
        ys = task.sample(100_000, generator()).ys
        assert ys.square().mean().item() == pytest.approx(task.label_variance(), rel=0.02)
    assert NormalisedLabels(BASE).sample(100_000, generator()).ys.square().mean().item() == pytest.approx(1, rel=0.02)


def test_a_network_has_the_variance_of_garg_and_a_tree_that_of_its_leaves():
    network = ReLUNetwork(20, 5).sample(20_000, generator()).ys
    assert network.square().mean().item() == pytest.approx(20, rel=0.03)  # E f² = d for normal inputs
    assert DecisionTree(5, 5).sample(50_000, generator()).ys.square().mean().item() == pytest.approx(1, rel=0.03)


def test_a_tree_equals_the_walk_from_its_root():
    prompts = DecisionTree(3, 6, depth=3).sample(4, generator())
    for b, i in itertools.product(range(4), range(6)):
        node = 0
        while node < 7:
            node = 2 * node + (2 if prompts.xs[b, i, prompts.truth.coordinates[b, node]] > 0 else 1)
        assert prompts.fs[b, i] == prompts.truth.leaves[b, node - 7]


def chosen(task, batch=4000):
    prompts = task.sample(batch, generator(), torch.float64)
    return prompts, prompts.truth.chosen


@pytest.mark.parametrize("name", ["noise levels", "representations", "one of two classes of functions"])
def test_every_component_of_a_mixture_is_as_likely_and_labels_its_prompts_alone(name):
    task = TASKS[name]
    prompts, parts = chosen(task)
    share = torch.bincount(parts, minlength=len(task.components)) / len(parts)
    assert ((share - 1 / len(task.components)).abs() < 5 / (4 * len(parts)) ** 0.5).all()
    for k, component in enumerate(task.components):
        own = prompts.truth.parts[k](prompts.xs)[parts == k]
        assert torch.equal(prompts.fs[parts == k], own)
        noise = (prompts.ys - prompts.fs)[parts == k].square().mean().sqrt().item()
        assert noise == pytest.approx(component.noise, rel=0.05)


def test_representations_of_a_mixture_are_those_of_consecutive_seeds_and_all_are_kept():
    task = RepresentationMixture(RepresentationRegression(3, 5, representation=Representation(width=4, seed=6)), 3)
    assert [part.representation.seed for part in task.components] == [6, 7, 8]
    assert task.constants().keys() == {f"{k}.B_{layer}" for k in range(3) for layer in (1, 2)}
    for k, part in enumerate(task.components):
        assert torch.equal(task.constants()[f"{k}.B_2"], part.representation.weights(3)[1])


def test_a_change_of_noise_or_of_scale_reaches_every_component():
    task = NoiseMixture(BASE, (0.1, 2.0))
    prompts, parts = chosen(NoisyLabels(task, 1.0))
    for k in (0, 1):
        assert (prompts.ys - prompts.fs)[parts == k].std().item() == pytest.approx(1.0, rel=0.05)
    scaled, base = ScaledWeights(task, 3.0).sample(5, generator()), task.sample(5, generator())
    torch.testing.assert_close(scaled.fs, 3 * base.fs)
    torch.testing.assert_close(scaled.ys - scaled.fs, base.ys - base.fs)


def test_classes_are_the_sides_of_a_hyperplane():
    prompts = LinearClassification(3, 400).sample(20, generator(), torch.float64)
    assert set(prompts.ys.unique().tolist()) == {-1.0, 1.0}
    above = (prompts.xs @ prompts.truth.ws.unsqueeze(-1)).squeeze(-1) > 0
    assert torch.equal(prompts.ys > 0, above)


def test_sparse_weights_have_exactly_the_stated_support_and_every_support_occurs():
    ws = SparseLinearRegression(5, 2, sparsity=2).sample(4000, generator()).ws
    support = ws != 0
    assert (support.sum(-1) == 2).all()
    counts = torch.unique(support.long(), dim=0, return_counts=True)[1]
    assert len(counts) == 10 and (counts - 400).abs().max() < 5 * (400 * 0.9) ** 0.5


def test_a_pool_holds_its_members_and_no_other_and_its_base_is_the_true_prior():
    task = FinitePool(BASE, size=3, seed=4)
    drawn = torch.unique(task.sample(500, generator(), torch.float64).ws, dim=0)
    assert torch.equal(drawn, torch.unique(task.pool(), dim=0))
    assert not torch.equal(task.pool(), FinitePool(BASE, size=3, seed=5).pool())
    assert len(torch.unique(task.base.sample(500, generator()).ws, dim=0)) == 500
    assert torch.equal(TruePrior(task).sample(9, generator()).ws, task.base.sample(9, generator()).ws)


def test_shifts_that_keep_the_generator_in_step_share_their_base_draws():
    base, scaled = BASE.sample(4, generator()), ScaledInputs(BASE, 3.0).sample(4, generator())
    torch.testing.assert_close(scaled.xs, 3 * base.xs)
    torch.testing.assert_close(ScaledWeights(BASE, 3.0).sample(4, generator()).ws, 3 * base.ws)
    cut = Truncated(BASE, dims=2, points=3).sample(4, generator())
    assert torch.equal(cut.xs[..., :2], base.xs[:, :3, :2]) and not cut.xs[..., 2:].any()


def test_skewed_and_half_subspace_inputs_have_the_covariance_that_garg_states():
    xs = SkewedInputs(BASE).sample(50_000, generator(), torch.float64).xs.flatten(0, 1)
    eigenvalues = torch.linalg.eigvalsh(xs.mT @ xs / len(xs)).flip(0)
    expected = 1 / torch.arange(1, 7, dtype=torch.float64) ** 2
    torch.testing.assert_close(eigenvalues, 6 * expected / expected.sum(), rtol=0.03, atol=0)
    half = HalfSubspace(BASE).sample(1000, generator(), torch.float64).xs.flatten(0, 1)
    assert torch.linalg.matrix_rank(half, rtol=1e-9) == 3
    assert half.square().sum(-1).mean().item() == pytest.approx(6, rel=0.05)


def context_and_query(task):
    xs = task.sample(50, generator(), torch.float64).xs
    return xs[:, :-1], xs[:, -1]


def test_queries_are_where_the_shift_says():
    context, query = context_and_query(OrthogonalQuery(BASE))
    assert (context @ query.unsqueeze(-1)).abs().max() < 1e-10
    context, query = context_and_query(OrthogonalQuery(HalfSubspace(LinearRegression(8, 4))))
    assert (context @ query.unsqueeze(-1)).abs().max() < 1e-10 and query.norm(dim=-1).min() > 0.1
    context, query = context_and_query(RepeatedQuery(BASE))
    assert (context == query.unsqueeze(1)).all(-1).any(-1).all()
    context, query = context_and_query(OppositeOrthant(BASE))
    assert (context.sign() == -query.sign().unsqueeze(1)).all()
    context, query = context_and_query(RandomOrthant(BASE))
    assert (context.sign() == context[:, :1].sign()).all() and not (context[:, 0].sign() == query.sign()).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LinearRegression(0, -1, noise=-2.0), ["d must", "n must", "noise", "given 0", "given -1", "given -2"]),
        (lambda: LinearRegression(2, 2, prior=0.0), ["prior"]),
        (lambda: LinearRegression(3, 2, inputs=Normal(spectrum=(1.0, 2.0))), ["2 entries", "d = 3"]),
        (lambda: Uniform(half_width=0.0, spectrum=(-1.0,)), ["half_width", "spectrum"]),
        (lambda: Normal(spectrum=(0.0, 0.0)), ["zero everywhere"]),
        (lambda: LinearRegression(2, 2, prior=float("inf")), ["prior", "inf"]),
        (lambda: ScaledInputs(BASE, float("nan")), ["scale", "nan"]),
        (lambda: ScaledInputs(BASE, 0.0), ["scale", "not 0"]),
        (lambda: OrthogonalQuery(Truncated(BASE, dims=2, points=4)), ["n − 1 = 3", "given 2"]),
        (lambda: SparseLinearRegression(2, 2, sparsity=3), ["sparsity", "1..d = 2"]),
        (lambda: FinitePool(DecisionTree(2, 2), size=0), ["DecisionTree", "size"]),
        (lambda: Longer(BASE, points=5), ["more than the base's n = 5", "given 5"]),
        (lambda: Truncated(BASE, dims=9, points=9), ["dims", "1..6", "points", "1..5"]),
        (lambda: OrthogonalQuery(LinearRegression(2, 4)), ["n − 1 = 3", "given 2"]),
        (lambda: RepeatedQuery(LinearRegression(2, 1)), ["n of 2"]),
        (lambda: SkewedInputs(OppositeOrthant(BASE)), ["outermost", "OppositeOrthant"]),
        (lambda: Truncated(RepeatedQuery(BASE), dims=2, points=3), ["outermost", "RepeatedQuery"]),
        (lambda: OrthogonalQuery(RepeatedQuery(BASE)), ["outermost"]),
        (lambda: NoisyLabels(BASE, -1.0), ["std"]),
        (lambda: ScaledWeights(BASE, 0.0), ["scale"]),
        (lambda: HalfSubspace(LinearRegression(1, 2)), ["d of 2"]),
        (lambda: DecisionTree(2, 2, depth=0), ["depth"]),
        (lambda: ReLUNetwork(2, 2, width=0), ["width"]),
        (lambda: LinearClassification(2, 2, noise=0.5), ["no noise", "given 0.5"]),
        (lambda: NoiseMixture(BASE, (-1.0,)), ["two or more, given 1", "stds must be", "-1.0"]),
        (lambda: RepresentationMixture(RepresentationRegression(2, 2), count=1), ["count must be at least 2, given 1"]),
        (lambda: OneOf((BASE,)), ["two or more, given 1"]),
        (lambda: OneOf((BASE, LinearRegression(6, 4, inputs=Sphere()))), ["the same n", "the same inputs"]),
        (lambda: BASE.sample(0, generator()), ["batch"]),
        (lambda: DecisionTree(2, 2).sample(2, generator()).ws, ["TreeFunctions", "not linear"]),
    ],
)
def test_bad_settings_are_refused_with_everything_that_is_wrong(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)
