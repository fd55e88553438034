"""Multi-objective environments against mo-gymnasium step by step, their MDPs, their fronts, their data."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fenchel.envs import building, make, mo_point
from fenchel.envs.multi_objective import PROBLEMS
from fenchel.errors import UserError
from fenchel.theory import fronts
from fenchel.theory.claims import reference_fronts
from fenchel.theory.instances.multi_objective import sea_cells
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value

PEER = pytest.mark.skipif(
    importlib.util.find_spec("mo_gymnasium") is None, reason="NOT COMPARED with mo-gymnasium: pip install 'fenchel[mo]'"
)
STEPS = 3000


class Coin:
    """Stands for the generator of the peer's environment: the next number is given."""

    next = 1.0

    def random(self) -> float:
        return self.next


def cell(id: str, state: int) -> list[int]:
    """The peer's observation of a state."""
    if id == "resource-gathering":
        return [*divmod(state // 4, 5), state & 1, state >> 1 & 1]
    if id == "fruit-tree":
        row = (state + 1).bit_length() - 1
        return [row, state + 1 - 2**row]
    return list(sea_cells()[state])


@PEER
@pytest.mark.parametrize(("id", "depth"), [(id, None) for id in PROBLEMS] + [("fruit-tree", 5), ("fruit-tree", 7)])
def test_every_step_is_that_of_mo_gymnasium(id, depth):
    """3,000 random steps: observation, reward in float32, and end; where the peer draws, it is handed our outcome."""
    import mo_gymnasium

    options = {} if depth is None else {"depth": depth}
    task, peer = make(id, **options), mo_gymnasium.make(f"{id}-v0", **options).unwrapped
    env = task.make_vec(1)
    generator, limit = torch.Generator().manual_seed(0), mo_gymnasium.make(f"{id}-v0").spec.max_episode_steps
    assert limit in (None, task.max_steps)
    assert peer.reward_space.shape == (task.spec.objectives,)
    ended = True
    for t in range(STEPS):
        if ended:
            env.reset(torch.tensor([t]))
            assert peer.reset(seed=t)[0].tolist() == cell(id, int(env.state))
            peer.np_random = Coin()
        action = torch.randint(0, task.spec.action.n, (1,), generator=generator)
        step = env.step(action)
        peer.np_random.next = 0.05 if float(step.reward[0, 0]) < 0 else 0.5
        obs, reward, ended, _, _ = peer.step(int(action))
        assert torch.equal(torch.as_tensor(reward).float(), step.reward[0])
        assert ended == bool(step.terminal)
        assert not ended or id.startswith("resource") or obs.tolist() == cell(id, int(env.state))
        assert ended or obs.tolist() == cell(id, int(env.state))
        assert torch.equal(step.obs[0].nonzero()[0], env.state)


@pytest.mark.parametrize("id", PROBLEMS)
def test_simulated_vector_returns_are_those_of_the_mdp(id):
    """4,000 episodes of a random policy, discounted, within five standard errors of mu0 . V."""
    task = make(id, gamma=0.9)
    policy = torch.rand(task.mdp.r.shape[1:], generator=torch.Generator().manual_seed(1)).double().softmax(-1)
    n, env = 4000, task.make_vec(4000)
    env.reset(torch.arange(n))
    alive, total, draws = (
        torch.ones(n, dtype=torch.bool),
        torch.zeros(n, task.spec.objectives).double(),
        torch.Generator(),
    )
    for t in range(task.max_steps):
        action = torch.multinomial(policy[env.state], 1, generator=draws.manual_seed(t))[:, 0]
        step = env.step(action)
        total += 0.9**t * torch.where(alive[:, None], step.reward.double(), 0.0)
        alive &= ~step.terminal
    exact = policy_value(task.mdp, policy[None].expand(len(task.mdp.r), -1, -1)) @ task.mdp.mu0
    error = 5 * total.std(0) / n**0.5 + 1e-3
    assert ((total.mean(0) - exact).abs() < error).all()


def test_attacks_kill_a_tenth():
    task, n = make("resource-gathering"), 20_000
    env = task.make_vec(n)
    env.reset(torch.arange(n))
    for _ in range(3):
        step = env.step(torch.zeros(n, dtype=torch.int64))
    dead = step.terminal
    assert torch.equal(step.reward[dead], torch.tensor([-1.0, 0.0, 0.0]).expand(int(dead.sum()), 3))
    assert not step.reward[~dead].any()
    assert abs(float(dead.float().mean()) - 0.1) < 5 * (0.09 / n) ** 0.5
    few = task.make_vec(5)
    few.reset(torch.arange(5))
    for _ in range(3):
        assert torch.equal(few.step(torch.zeros(5, dtype=torch.int64)).reward, step.reward[:5] * (few.t[0] == 3))


# hypervolume at discount .99, points of the front, of which `supported`
KNOWN = {
    "deep-sea-treasure": (854.8504, 10, 10),
    "deep-sea-treasure-concave": (3688.3771, 10, 2),
    "resource-gathering": (3.5194, 3, 3),
    "fruit-tree": (9302.3782, 64, 64),
}


@pytest.mark.parametrize("id", PROBLEMS)
def test_exact_fronts(id):
    facts = make(id).metadata
    front, (volume, points, extreme) = facts["front"](), KNOWN[id]
    assert len(front) == len(fronts.nondominated(front)) == points
    assert len(fronts.supported(front)) == extreme
    assert fronts.hypervolume(front, facts["reference_point"]) == pytest.approx(volume, abs=5e-5)
    fronts.check_reference(front, facts["reference_point"])
    assert len(facts["objective_names"]) == facts["objectives"] == front.shape[1]


def test_resource_gathering_has_no_pareto_point_beside_its_coverage_set():
    """Policies that are deterministic and remember their history, 19 steps: set-valued dynamic programming."""
    task = make("resource-gathering")
    every = solve(task.mdp, "pareto", horizon=19).extra["vectors"]
    front = task.metadata["front"]()
    assert len(every) == len(front)
    assert (torch.cdist(front, every).amin(1) < 1e-9).all()


def test_options_and_refusals():
    assert make("fruit-tree", depth=5).mdp.num_states == 63
    shifted = make("deep-sea-treasure", reference_point=[-1, -30])
    assert shifted.metadata["reference_point"] == (-1.0, -30.0)
    for options, message in (
        ({"gamma": 1.0}, r"^task.gamma=1 is out of range; valid is a number between 0 and 1, ends excluded\.$"),
        ({"reference_point": [1, -50]}, r"^task.reference_point=\[1,-50\] is not dominated by the whole front; *"),
        ({"reference_point": [0.0]}, r"^task.reference_point has 1 entries"),
    ):
        with pytest.raises(UserError, match=message):
            make("deep-sea-treasure", **options)
    with pytest.raises(UserError, match=r"^task.depth=4 is not valid; valid are 5, 6, 7\.$"):
        make("fruit-tree", depth=4)


# -- continuous ------------------------------------------------------------------------------------------------------


def rollout(task, policy, n: int = 2000) -> torch.Tensor:
    """(n, K) discounted returns of policy(obs, env)."""
    env = task.make_vec(n)
    obs, total = env.reset(torch.arange(n)), torch.zeros(n, task.spec.objectives).double()
    for t in range(task.max_steps):
        step = env.step(policy(obs, env))
        obs, total = step.obs, total + task.metadata["discount"] ** t * step.reward.double()
    assert step.timeout.all()
    assert not step.terminal.any()
    return total


def test_point_front_is_what_its_optima_collect_and_nothing_beats_it():
    """Optima from a grid of starts, and from random ones within five errors, collect the curve; other actions less."""
    task = make("mo-point")
    front = task.metadata["front"]()
    assert len(fronts.supported(front)) == len(front) == 201
    weights = fronts.lattice(2, 4).flip(0)
    line = (torch.arange(60) + 0.5) / 30 - 1
    grid, env = torch.cartesian_prod(line, line), task.make_vec(3600)
    for w, exact in zip(weights, front[::50], strict=True):
        env.reset(torch.arange(3600))
        env.position, total = grid, torch.zeros(3600, 2).double()
        for t in range(task.max_steps):
            total += 0.99**t * env.step(mo_point.optimal_action(env.position, w.float())).reward.double()
        assert ((total.mean(0) - exact).abs() < 0.01).all()
    drawn = rollout(task, lambda p, env: mo_point.optimal_action(p, weights[1].float()))
    assert ((drawn.mean(0) - front[50]).abs() < 5 * drawn.std(0) / len(drawn) ** 0.5).all()
    start = torch.tensor([[0.3, -0.9]]).double()
    for w in weights:  # one start: 500 random perturbations of the optimal actions, projected to the box
        noise = Rng(3, str(w)).normal(500, task.max_steps, 2) * Rng(4, str(w)).uniform(500, 1, 1)
        noise[0] = 0
        p, total = start.expand(500, -1), torch.zeros(500).double()
        for t in range(task.max_steps):
            p = p + 0.1 * (mo_point.optimal_action(p, w) + noise[:, t]).clamp(-1, 1)
            total += 0.99**t * -(w * (p[:, None] - torch.tensor(mo_point.GOALS)).square().sum(-1)).sum(-1)
        assert total.argmax() == 0


def test_point_front_against_the_convex_program():
    """min E cost over open-loop actions from one start, cvxpy: the value of the closed loop's optimum."""
    cp = pytest.importorskip("cvxpy")
    w, start, T = (0.3, 0.7), [0.9, -0.8], mo_point.MAX_STEPS
    a, p = cp.Variable((T, 2)), [cp.Constant(start)]
    cost = 0
    for t in range(T):
        p.append(p[-1] + 0.1 * a[t])
        cost += sum(wi * 0.99**t * cp.sum_squares(p[-1] - list(g)) for wi, g in zip(w, mo_point.GOALS, strict=True))
    best = cp.Problem(cp.Minimize(cost), [cp.abs(a) <= 1]).solve(solver="CLARABEL")
    x, total = torch.tensor([start]).double(), 0.0
    for t in range(T):
        x = x + 0.1 * mo_point.optimal_action(x, torch.tensor(w).double())
        total += sum(
            wi * 0.99**t * ((x[0] - torch.tensor(g)) ** 2).sum() for wi, g in zip(w, mo_point.GOALS, strict=True)
        )
    assert float(total) == pytest.approx(best, rel=1e-6)


def test_building_follows_its_equations():
    """One step against an adaptive integrator of the network written zone by zone."""
    from scipy.integrate import solve_ivp

    env, n = building.Building(3), 3
    env.reset(torch.arange(n))
    env.t += 50  # half past twelve: sun and people
    walls = {(i, j): 6.299 * 90 for i in range(9) for j in range(9) if i // 3 == j // 3 and abs(i - j) == 1}
    slabs = {(i, j): 300 / (1 / 3.839 + 1 / 4.488) for i in range(9) for j in range(9) if abs(i - j) == 3}
    action, before = 2 * torch.rand(n, 9, generator=torch.Generator().manual_seed(0)) - 1, env.temperature.clone()
    outdoor = env.outdoor + 6 * math.cos(2 * math.pi / 24 * (12.5 - 15))
    sun = 800 * math.sin(math.pi / 12 * 6.5)
    step = env.step(action)
    for k in range(n):
        T0, a, Te = before[k].double().numpy(), action[k].double().numpy(), float(outdoor[k])
        mean, m = T0.mean(), 120
        heat = 6.461927 + 0.946892 * m + 0.0000255737 * m**2 + 7.139322 * mean - 0.0627909 * mean * m
        heat += 0.0000589172 * mean * m**2 - 0.19855 * mean**2 + 0.000940018 * mean**2 * m
        heat -= 0.00000149532 * mean**2 * m**2

        def slope(_, T, a=a, Te=Te, heat=heat):
            flow = np.zeros(9)
            for (i, j), conductance in (walls | slabs).items():
                flow[i] += conductance * (T[j] - T[i])
            for i in range(9):
                facade = 60 + 90 * (i % 3 != 1)
                loss = 0.4 * facade * 2.615 + 0.6 * facade * 0.514 + 300 * 0.228 * (i >= 6)
                flow[i] += loss * (Te - T[i]) + (0.319 * 150 * (14 - T[i]) if i < 3 else 0)
                flow[i] += 0.4 * facade * 0.252 * 0.01 * sun + 8000 * a[i] + 10 * heat
            return flow / (1000 * 1.225 * 900)

        exact = solve_ivp(slope, (0, 900), T0, rtol=1e-9, atol=1e-9).y[:, -1]
        assert np.abs(env.temperature[k].numpy() - exact).max() < 2e-4
        floors = env.temperature[k].double().numpy().reshape(3, 3)
        power = np.abs(a).reshape(3, 3).mean(1)
        expected = [*(1 - np.abs(floors - 22).mean(1) / 5), *(1 - power), *(1 - np.abs(power))]
        assert np.allclose(step.reward[k].numpy(), expected, atol=1e-4)
    again = env.step(action).reward
    assert torch.allclose(again[:, 6:], torch.ones(3, 3))  # the same power once more: no ramping
    assert step.obs.shape == (3, env.spec.obs_dim)


def test_building_needs_trade_offs():
    """Standing still saves energy and loses comfort; a thermostat does the opposite and beats the reference point."""
    task = make("building-9d")
    idle = rollout(task, lambda obs, env: torch.zeros(env.n, 9)).mean(0)
    kept = rollout(task, lambda obs, env: (-2.5 * obs[:, :9]).clamp(-1, 1)).mean(0)
    assert (kept[:3] > 30).all() and (idle[:3] < 0).all()  # noqa: PT018
    assert (idle[3:6] > kept[3:6] + 40).all()
    assert fronts.hypervolume(kept[None], task.metadata["reference_point"]) > 0
    assert len(task.metadata["objective_names"]) == 9


@pytest.mark.parametrize("id", ["mo-point", "building-9d"])
def test_refusals_of_continuous_tasks(id):
    with pytest.raises(UserError, match=r"^task.reference_point=\[.*\] is not dominated by the whole front; *"):
        make(id, reference_point=[1e6] * make(id).spec.objectives)
    with pytest.raises(UserError, match=r"^task.gamma=2 is out of range"):
        make(id, gamma=2.0)
    assert make(id, gamma=1).metadata["discount"] == 1


# -- what mo-gymnasium ships -----------------------------------------------------------------------------------------


@PEER
def test_shipped_reference_fronts():
    """Deep sea treasure's and the fruit tree's are right at .99, the first also lists dominated points at .9; resource
    gathering's is the list of the claim's twin: dominated by a point of the exact set, with less volume and utility."""
    import mo_gymnasium

    def shipped(id: str, gamma: float) -> torch.Tensor:
        points = mo_gymnasium.make(f"{id}-v0").unwrapped.pareto_front(gamma)
        return torch.as_tensor(np.array(points), dtype=torch.float64)

    for id in ("deep-sea-treasure", "deep-sea-treasure-concave", "fruit-tree"):
        assert reference_fronts.apart(shipped(id, 0.99), make(id).metadata["front"]()) < 1e-9
    assert [fronts.cardinality(shipped(id, 0.9)) for id in list(PROBLEMS)[:2]] == [3, 9]
    facts, wrong = make("resource-gathering").metadata, shipped("resource-gathering", 0.99)
    exact, weights = facts["front"](), fronts.lattice(3, 20)
    assert reference_fronts.apart(wrong, reference_fronts.released_gathering(0.99)) < 1e-12
    assert fronts.hypervolume(wrong, facts["reference_point"]) == pytest.approx(3.3451, abs=5e-5)
    assert 0.08 < fronts.maximum_utility_loss(wrong, exact, weights) < 0.09
    assert fronts.cardinality(torch.cat([wrong, exact])) == len(exact) == len(wrong)


@pytest.mark.parametrize("id", [f"{id}-mixed" for id in PROBLEMS])
def test_mixed_data_hold_vector_rewards(id, monkeypatch, tmp_path):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    task = make(id, transitions=2000)
    data = task.dataset()
    assert data.reward.shape == (2000, task.spec.objectives)
    assert not data.findings
    states, actions = data.obs.argmax(1), data.action
    if not id.startswith("resource"):  # deterministic: every row pays what the model says
        assert torch.allclose(data.reward, task.mdp.r[:, states, actions].T.float())
    assert data.episode_returns().shape == (len(data.episode_starts), task.spec.objectives)


def test_the_example_of_the_page_runs():
    page = Path(__file__).resolve().parents[2] / "docs" / "multi-objective.md"
    block = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(compile(block, "multi-objective.md", "exec"), {"__name__": "page"})
