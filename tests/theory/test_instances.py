"""Every named problem is valid, and the facts that its docstring states hold."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory import instances
from fenchel.theory.instances import INSTANCES, counterexamples, grids, instance
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import policy_iteration, policy_value
from fenchel.theory.sparse import SparseMDP


def build(name: str):
    function = instance(name)
    parameters = list(inspect.signature(function).parameters)
    return function(*([Rng(0, name)] if "rng" in parameters else []), *([3] if "n" in parameters else []))


def optimum(mdp: TabularMDP) -> float:
    return float((mdp.mu0 * policy_iteration(mdp)[0]).sum())


def uniform(mdp: TabularMDP) -> torch.Tensor:
    return mdp.mask / mdp.mask.sum(-1, keepdim=True).to(mdp.dtype)


@pytest.mark.parametrize("name", INSTANCES)
def test_valid(name):
    problem = build(name)
    if isinstance(problem, SparseMDP):
        problem = problem.to_tabular()
    if isinstance(problem, TabularMDP):
        problem.validate()
        assert problem.dtype == torch.float64
        if "n" in inspect.signature(instance(name)).parameters:
            assert problem.batch_shape == (3,)
            assert not torch.equal(problem.r[0], problem.r[1])
    assert inspect.getdoc(instance(name))


def test_table_is_complete():
    """A public function whose result is a problem stands in the table."""
    problems = {"TabularMDP", "SparseMDP", "MatrixGame", "MarkovGame", "PreferenceGame"}
    found = set()
    for module in {target.split(":")[0] for target in INSTANCES.values()}:
        module = import_module(f"fenchel.theory.instances.{module}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and function.__annotations__.get("return") in problems:
                found.add(name)
    assert found - {"grid"} == set(INSTANCES)


def test_unknown_name():
    with pytest.raises(UserError, match="Did you mean 'garnet'"):
        instance("garnett")
    assert instances.garnet is instance("garnet")


def test_garnet_has_distinct_successors():
    mdp = instances.garnet(Rng(1), 50, 7, 2, branching=3)
    assert ((mdp.P > 0).sum(-1) == 3).all()
    with pytest.raises(UserError, match="branching=8"):
        instances.garnet(Rng(1), 1, 7, 2, branching=8)


def test_ring_is_local():
    mdp = instances.ring(Rng(0), 2, num_states=9, reach=2)
    s, _, t = torch.nonzero(mdp.P[0], as_tuple=True)
    distance = (s - t).abs()
    assert torch.minimum(distance, 9 - distance).max() == 2


@pytest.mark.parametrize("slip", [0.0, 0.3])
def test_tree_value_is_backward_induction(slip):
    A, depth = 3, 2
    mdp = instances.tree(Rng(2), 4, depth, A, slip, rewards="normal")
    first = 1 + A
    leaf_mean = mdp.r[:, 1:first]
    best = leaf_mean.amax(-1)
    expected = ((1 - slip) * best + slip * best.mean(-1, keepdim=True)).amax(-1)
    assert torch.allclose(policy_iteration(mdp)[0][:, 0], expected)


def test_tree_greedy_on_uniform_is_optimal_for_binary_leaves_only():
    binary, normal = (instances.tree(Rng(3), 200, 4, 2, rewards=rewards) for rewards in ("binary", "normal"))
    for mdp, always in ((binary, True), (normal, False)):
        V = policy_value(mdp, uniform(mdp[0]).expand(mdp.r.shape))
        Q = mdp.r + torch.einsum("...sat,...t->...sa", mdp.kernel, V)
        greedy = torch.nn.functional.one_hot(Q.argmax(-1), 2).double()
        gap = (policy_iteration(mdp)[0] - policy_value(mdp, greedy))[:, 0]
        assert bool((gap < 1e-12).all()) is always


@pytest.mark.parametrize(("kind", "gap"), [("real", 0.4), ("stochastic", 0.2)])
def test_random_policy_trap(kind, gap):
    mdp = counterexamples.random_policy_trap(kind)
    V = policy_value(mdp, uniform(mdp))
    greedy = (mdp.r + mdp.kernel @ V).argmax(-1)
    value = policy_value(mdp, torch.nn.functional.one_hot(greedy, 2).double())
    assert optimum(mdp) - float(value[0]) == pytest.approx(gap)


def test_lottery():
    mdp = counterexamples.lottery()
    assert float(mdp.r[0, 1] - mdp.r[0, 0]) == pytest.approx(0.7)


def test_chains():
    assert torch.allclose(policy_iteration(instances.two_state())[0], torch.tensor([9.0, 10.0]).double())
    assert optimum(instances.combination_lock(4, 3, gamma=0.9)) == pytest.approx(0.9**3)
    assert optimum(instances.delayed_choice(5, 0.5, gamma=0.9)) == pytest.approx(0.9**5)
    assert optimum(instances.delayed_choice(7, 0.5, gamma=0.9)) == pytest.approx(0.5)
    assert float(policy_iteration(instances.chain(slip=0.0, gamma=0.9))[0][4]) == pytest.approx(100.0)


def test_grids():
    assert instances.four_rooms().num_states == 104
    assert optimum(instances.four_rooms(slip=0.0, gamma=0.9)) == pytest.approx(0.9**19)
    assert optimum(instances.cliff(gamma=0.99)) == pytest.approx(-(1 - 0.99**13) / 0.01)
    maze = instances.stitching_maze(gamma=0.9)
    states = grids.cells(grids.STITCHING_MAZE)
    assert optimum(maze) == pytest.approx(0.9**9)
    assert float(maze.mu0[states[1, 1]]) == 0.5
    assert float(maze.mu0[states[5, 1]]) == 0.5


def test_stuck_at_a_wall_pays_only_the_step():
    mdp = grids.grid(("SG",), {"S": 7.0, "G": 1.0}, step_reward=-0.5)
    assert mdp.r[0].tolist() == [-0.5, 0.5, -0.5, -0.5]


def test_flow_breaks_tilt():
    mdp = counterexamples.flow_breaks_tilt()
    reference = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    tilted = reference * mdp.r[:2].exp()
    tilted = tilted / tilted.sum() * 2
    assert float((tilted[0].sum() - tilted[1].sum()).abs()) > 0.1


def test_late_danger():
    """The discounted operator calls state 0 feasible at gamma = 0.9 and infeasible at 0.99."""
    for gamma, feasible in ((0.9, True), (0.99, False)):
        mdp = counterexamples.late_danger(gamma=gamma)
        h = mdp.r[1, :, 0]
        V = h.clone()
        for _ in range(5000):
            V = (1 - gamma) * h + gamma * torch.maximum(h, mdp.P[:, 0] @ V)
        assert bool(V[0] <= 0) is feasible


def test_baird_diverges():
    mdp, x = counterexamples.baird(), counterexamples.baird_features()
    target = mdp.P[:, 1]
    weights = torch.full((7,), 1 / 7, dtype=torch.float64)
    A = x.mT @ torch.diag(weights) @ (0.99 * target @ x - x)
    assert float(torch.linalg.eigvals(A).real.max()) > 0.01


def test_doubling_diverges():
    mdp, x = counterexamples.doubling(), torch.tensor([1.0, 2.0]).double()
    target = mdp.kernel[:, 0] @ x
    assert float((x @ target) / (x @ x)) == pytest.approx(6 * 0.9 / 5)


def test_multi_objective():
    """The deepest treasure is 19 moves away; gold and gem together take 12 moves and the reward comes with the last."""
    sea = instances.deep_sea_treasure(gamma=0.999)
    value = 124 * 0.999**18 - 1e-3 * (1 - 0.999**19) / 0.001
    assert optimum(sea.scalarize(torch.tensor([1.0, 1e-3]).double())) == pytest.approx(value)
    home = instances.resource_gathering(attack=0.0, gamma=0.9)
    assert optimum(home.scalarize(torch.ones(3).double())) == pytest.approx(2 * 0.9**11)
    beside_gold, at_gold = 4 * 1, 4 * 2
    assert home.P[beside_gold + 2, 3].argmax() == at_gold + 3  # the gem stays in the bag
    assert float(instances.resource_gathering().r[0].min()) == pytest.approx(-0.1)


def test_two_routes_and_hazard():
    rooms = instances.hazard_rooms(slip=0.0, gamma=0.9)
    assert optimum(rooms.channel(0)) == pytest.approx(0.9**19)
    assert float(rooms.r[1].sum()) > 0
