"""Tasks with costs: what is paid where, what their data hold, what the audit refuses, how evaluation scores them."""

from __future__ import annotations

import pytest
import torch
from gymnasium.utils.env_checker import check_env

from fenchel.algorithms.evaluation import evaluate, summarise
from fenchel.envs import make, point_goal, point_obstacle
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.face import GymFace
from fenchel.envs.tabular import TabularEnv, empirical_mdp, states_of
from fenchel.envs.tabular_costs import PROBLEMS, value
from fenchel.errors import UserError
from fenchel.theory import instances
from fenchel.theory.mdp import replace_reward
from fenchel.theory.solvers import solve

TABULAR = [f"{name}-mixed" for name in PROBLEMS]
POINTS = ["point-goal-mixed", "point-obstacle-mixed"]
SIZES = {"point-goal-mixed": 6000, "point-obstacle-mixed": 6000}


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FENCHEL_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.mark.parametrize("id", TABULAR + POINTS)
def test_data_have_costs_in_the_declared_unit(id):
    task = make(id, transitions=SIZES.get(id, 20_000))
    data = task.dataset()
    budget = task.metadata["cost"]
    assert task.spec.extras == {"cost": ()}
    assert data.meta["budget_kind"] == budget["unit"]
    assert data.findings == []
    assert data.extras["cost"].shape == (len(data),)
    assert float(data.extras["cost"].min()) >= 0 < float(data.extras["cost"].max()) <= 1
    assert list(budget["limits"]) == sorted(budget["limits"])
    assert task.reference[0] < task.reference[1]


@pytest.mark.parametrize("id", TABULAR)
def test_limits_bind_where_they_are_said_to(id):
    task = make(id)
    prices = [
        float(solve(task.mdp, "cmdp", budgets=[limit], unit="discounted").multipliers[0])
        for limit in task.metadata["cost"]["limits"]
    ]
    assert prices[0] >= prices[1] > 1e-3
    assert prices[2] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("id", TABULAR)
def test_the_data_lead_to_the_optimum_of_the_true_program(id):
    """The program of the data's own transitions, its policy run in the true MDP: within 1% of both numbers."""
    task = make(id)
    data, mdp = task.dataset(), task.mdp
    found = empirical_mdp(data, task.metadata["discount"], mdp.num_actions)
    model = getattr(found, "mdp", found)
    model = replace_reward(model, torch.stack([model.r, mdp.r[1]]))
    for limit in task.metadata["cost"]["limits"]:
        true = solve(mdp, "cmdp", budgets=[limit], unit="discounted")
        policy = solve(model, "cmdp", budgets=[limit], unit="discounted").policy
        assert value(mdp, 0, policy) == pytest.approx(float(true.lower), rel=0.01)
        assert value(mdp, 1, policy) <= 1.01 * limit


def test_a_tabular_step_pays_the_channels_of_its_pair():
    mdp, n = instances.conveyors(), 31
    env = TabularEnv(mdp, n, cost=True)
    env.reset(torch.arange(n))
    env.state = torch.arange(n)
    step = env.step(torch.full((n,), 1))
    assert torch.equal(step.reward, mdp.r[0, :, 1].float())
    assert torch.equal(step.info["cost"], mdp.r[1, :, 1].float())
    with pytest.raises(UserError, match="takes r \\(2, S, A\\), reward and cost"):
        TabularEnv(mdp.channel(0), 1, cost=True)


def test_conveyors_lose_before_they_cost():
    """Six states are lost: three hazards in a row, one alone, and the two conveyors that lead into the row."""
    mdp = instances.conveyors()
    found = solve(mdp, "safe_set", safe=mdp.r[1].amax(-1) == 0)
    assert int((mdp.r[1].amax(-1) > 0).sum()) == 4
    assert int((~found.extra["states"]).sum()) == 6
    assert sorted(found.extra["rank"][~found.extra["states"]].tolist()) == [1, 1, 1, 1, 2, 3]


def data_with(cost=None, **meta) -> OfflineDataset:
    n = 6
    obs = torch.arange(n, dtype=torch.float32)[:, None]
    end = torch.arange(n) == n - 1
    extras = {} if cost is None else {"cost": cost}
    return OfflineDataset.from_arrays(
        obs, torch.zeros(n, 1), obs[:, 0], end, ~end & False, obs + 1, extras=extras, meta=meta
    )


BAD = [
    (torch.tensor([0.0, 1, 0, -1, 0, 0]), {}, "1 costs are negative (rows 3, ...)"),
    (torch.tensor([0.0, 1, 0, float("nan"), 0, 0]), {}, "1 rows of cost are not finite (rows 3, ...)"),
    (None, {"budget_kind": "episode"}, "a budget is declared, and there is no column cost"),
    (torch.zeros(6), {"budget_kind": "steps"}, "budget_kind=steps is no unit of budgets; valid are discounted, "),
    (torch.zeros(6, 2), {}, "column cost must have shape (rows,), and it has (6, 2)"),
]


@pytest.mark.parametrize(("cost", "meta", "words"), BAD)
def test_the_audit_refuses_costs_that_are_none(cost, meta, words):
    with pytest.raises(UserError) as error:
        data_with(cost, **meta)
    assert words in str(error.value)


def test_costs_that_are_right_pass():
    assert data_with(torch.ones(6), budget_kind="average").findings == []


# --- points -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["point-goal", "point-obstacle", "conveyors"])
def test_the_face_passes_gymnasiums_checker(id):
    face = GymFace(make(id))
    check_env(face, skip_render_check=True)
    face.reset(seed=0)
    assert face.step(face.action_space.sample())[-1]["cost"] in (0.0, 1.0)


@pytest.mark.parametrize("module", [point_goal, point_obstacle])
def test_controllers_are_reckless_cautious_and_random(module):
    paid, gained = {}, {}
    for kind in point_goal.KINDS:
        env, policy = module.make_vec(200), module.Controllers(200, kind=kind)
        obs, alive = env.reset(torch.arange(200)), torch.ones(200)
        paid[kind], gained[kind] = torch.zeros(200), torch.zeros(200)
        for _ in range(env.max_steps):
            step = env.step(policy(obs))
            obs = step.obs
            paid[kind] += alive * step.info["cost"]
            gained[kind] += alive * step.reward
            alive = alive * ~step.terminal
    assert float(paid["cautious"].mean()) < 0.3 < 5 < float(paid["reckless"].mean())
    assert float(gained["random"].mean()) < 0.5 < 4 < float(gained["cautious"].mean())
    assert float(gained["cautious"].mean()) <= float(gained["reckless"].mean()) + 0.05


def test_point_goal_by_hand():
    env = point_goal.PointGoal(2)
    env.reset(torch.tensor([0, 1]))
    env.xy, env.v = torch.tensor([[0.0, -0.1], [-1.9, 0.0]]), torch.tensor([[0.0, 0.0], [-0.2, 0.1]])
    env.goal = torch.tensor([[0.2, -0.1], [0.0, 0.0]])
    step = env.step(torch.tensor([[1.0, 0.0], [-3.0, 0.0]]))
    assert step.info["cost"].tolist() == [1.0, 0.0]  # inside the disc around (-0.2, -0.1); free
    assert step.info["goals"].tolist() == [1.0, 0.0]
    assert float(step.reward[0]) == pytest.approx(0.05 + 1.0, abs=1e-6)
    assert step.obs[1, :4].tolist() == pytest.approx([-2.0, 0.075, 0.0, 0.075])  # 0.75 * -0.2 - 0.05: into the wall
    assert not torch.equal(env.goal[0], torch.tensor([0.2, -0.1]))
    assert torch.equal(env.goal[1], torch.zeros(2))


def test_copies_do_not_depend_on_their_number():
    for module in (point_goal, point_obstacle):
        few, many = module.make_vec(3), module.make_vec(40)
        few.reset(torch.arange(3)), many.reset(torch.arange(40))
        action = torch.linspace(-1, 1, 40 * few.spec.action.dim).reshape(40, -1)
        for _ in range(30):
            a, b = few.step(action[:3]), many.step(action)
        assert torch.equal(a.obs, b.obs[:3])


def escapes(xy, heading, trials: int = 60, steps: int = 40):
    """Whether random piecewise constant turning, full or partial, ever misses the obstacle."""
    g, found = torch.Generator().manual_seed(0), torch.zeros_like(heading, dtype=torch.bool)
    for trial in range(trials):
        there, angle, clean = xy, heading, torch.ones_like(found)
        action = torch.zeros_like(heading)
        for t in range(steps):
            drawn = 2 * torch.rand(len(xy), generator=g) - 1
            drawn = torch.sign(drawn) if trial % 2 else drawn
            action = torch.where((torch.rand(len(xy), generator=g) < 0.1) | (t == 0), drawn, action)
            there, angle = point_obstacle.move(there, angle, action)
            clean &= ~point_obstacle.hit(there)
        found |= clean
    return found


def test_the_feasible_set_of_the_obstacle_is_exact():
    """No random search escapes from outside it, and from inside some action stays inside without paying."""
    g = torch.Generator().manual_seed(1)
    xy, heading = 2.6 * torch.rand(6000, 2, generator=g) - 1.3, 6.28 * torch.rand(6000, generator=g)
    inside, free = point_obstacle.feasible(xy, heading), ~point_obstacle.hit(xy)
    lost = free & ~inside
    assert 0.02 < float(lost[free].float().mean()) < 0.2
    assert not escapes(xy[lost], heading[lost]).any()
    assert escapes(xy[inside], heading[inside]).float().mean() > 0.5  # the search does find ways where there are some
    stays = torch.zeros_like(inside)
    for action in (-1.0, 0.0, 1.0):
        there, angle = point_obstacle.move(xy, heading, torch.full_like(heading, action))
        stays |= point_obstacle.feasible(there, angle) & ~point_obstacle.hit(there)
    assert float(stays[inside].float().mean()) == 1.0
    assert not stays[lost].any()


# --- evaluation -------------------------------------------------------------------------------------------------


class Still:
    """Stands in for a learner of two replicas that always takes action 0; replica 1 is broken."""

    R, device, seeds, GOALS = 2, torch.device("cpu"), (0, 1), False

    def __init__(self, spec):
        self.spec = spec

    def act(self, obs, deterministic, counter):
        action = torch.zeros(*obs.shape[:2], 2)
        action[1] = float("nan")
        return action


def test_evaluation_writes_cost_limit_and_dsrls_scores():
    task = make("point-goal")
    scores = summarise(task, evaluate(Still(task.spec), task, 4, 0), [2.0, 0.0])
    assert scores["limit"] == [2.0, 0.0]
    assert scores["cost"][0] == 0.0 == scores["normalized_cost"][0]
    assert scores["cost"][1] != scores["cost"][1]  # a broken replica is not safe
    low, high = task.reference
    assert scores["normalized_score"][0] == pytest.approx(100 * (scores["return_mean"][0] - low) / (high - low))
    assert summarise(task, evaluate(Still(task.spec), task, 4, 0))["limit"] == [8.0, 8.0]


class Uniform(Still):
    """Follows a fixed law in a tabular task."""

    R, seeds = 1, (0,)

    def act(self, obs, deterministic, counter):
        g = torch.Generator().manual_seed(counter)
        return torch.randint(0, self.spec.action.n, obs.shape[:2], generator=g)


def test_evaluation_discounts_the_cost_where_the_budget_is_discounted():
    """The mean over 4,000 episodes is the exact discounted cost of uniform actions, within five standard errors."""
    task = make("cmdp-garnet")
    results = evaluate(Uniform(task.spec), task, 4000, 1)
    cost = results["cost"][0]
    exact = value(task.mdp, 1, torch.full(task.mdp.P.shape[:2], 0.25, dtype=torch.float64))
    error = 5 * float(cost.std()) / len(cost) ** 0.5 + 20 * task.metadata["discount"] ** task.max_steps
    assert float(cost.mean()) == pytest.approx(exact, abs=error)


def test_rows_of_a_data_set_carry_the_cost_of_their_own_pair():
    task = make("conveyors-mixed")
    data = task.dataset()
    assert torch.equal(data.extras["cost"], task.mdp.r[1, states_of(data.obs), data.action].float())
