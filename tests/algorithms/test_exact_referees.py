"""Every learner with an exact answer ends there on a small table; options without one, and other data, have none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tables import batch, learn

from fenchel.algorithms import ALGORITHMS, get_algorithm
from fenchel.algorithms.referees import REFEREES, examine, returns
from fenchel.algorithms.studies.exact import CASES, table_row
from fenchel.algorithms.studies.exact_control import CONTROL, NETWORK, control_row, regulator
from fenchel.envs import make
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Discrete, Spec
from fenchel.theory.mdp import TabularMDP

STATES, ACTIONS, GAMMA = 4, 2, 0.6
ROWS = 48
EPISODE = 6


def columns():
    """s, a, r, s', terminal of 8 episodes of 6 steps; every second one ends by a terminal, in a state never left."""
    rng = np.random.default_rng(4)
    s = rng.integers(3, size=ROWS)
    a = rng.integers(ACTIONS, size=ROWS)
    following = np.roll(s, -1)
    last = np.arange(ROWS) % EPISODE == EPISODE - 1
    terminal = last & (np.arange(ROWS) // EPISODE % 2 == 0)
    following[terminal] = 3
    return s, a, np.round(np.cos(2 * s + 3 * a), 3), following, terminal, last & ~terminal


def dataset():
    s, a, r, following, terminal, timeout = columns()
    eye = torch.eye(STATES)
    return OfflineDataset.from_arrays(eye[s], a, r, terminal, timeout, eye[following], check=False)


def rows():
    s, a, r, following, terminal, _ = columns()
    found = batch(s, a, r, following, GAMMA * ~terminal, STATES)
    starts = torch.eye(STATES, dtype=torch.float64)[s[::EPISODE]]
    return found | {"start_obs": starts.repeat_interleave(EPISODE, 0).unsqueeze(0)}


OPTIONS = [
    ("iql", {"expectile": 0.8, "temperature": 2.0, "max_weight": 2.0}),
    ("iql", {"expectile": 0.8, "extraction": "w"}),
    ("ivl", {"expectile": 0.8, "temperature": 2.0}),
    ("f_dvl", {"divergence": "chi2", "lam": 0.7, "temperature": 0.5, "inverse_temperature": 2.0}),
    ("f_dvl", {"divergence": "kl", "temperature": 0.5, "extraction": "w"}),
    ("f_dvl", {"divergence": "soft_chi2", "temperature": 0.5, "extraction": "w", "max_weight": 1.5}),
    ("odice", {"gradient": "semi", "temperature": 0.5, "divergence": "kl"}),
    ("odice", {"gradient": "true", "temperature": 0.5}),
    ("odice", {"gradient": "orthogonal", "temperature": 0.5, "batch_size": 10**6}),
    ("optidice", {"temperature": 0.5, "extraction": "weighted_bc"}),
    ("optidice", {"temperature": 0.2, "divergence": "chi2", "extraction": "information_projection"}),
    ("awac", {"inverse_temperature": 2.0}),
    ("cql", {"alpha": 0.5}),
]


@pytest.mark.parametrize(("key", "options"), OPTIONS)
def test_a_learner_ends_at_its_exact_answer(key, options):
    learner = learn(key, rows(), steps=600, actions=ACTIONS, gamma=GAMMA, **options)
    found = examine(learner, dataset())
    (exact,) = found.exact
    seen = found.data.visited
    assert np.abs(found.V[0] - exact.V)[seen].max() <= 0.02 * np.ptp(exact.V[seen])
    assert np.abs(found.policy[0] - exact.policy).max() < 0.02
    if found.weight is not None:
        assert np.abs(found.weight[0] - exact.weight)[seen].max() < 0.05 * exact.weight[seen].max()


def test_every_referee_is_of_a_learner():
    assert set(REFEREES) <= {get_algorithm(key).__name__ for key in ALGORITHMS}
    assert set(REFEREES) == {get_algorithm(key).__name__ for key, _ in OPTIONS}


def build(key, seeds=(0,), data=None, **options):
    return get_algorithm(key)(Spec(STATES, Discrete(ACTIONS)), {"hidden": (), "gamma": GAMMA, **options}, seeds)


def test_replicas_with_options_of_their_own_have_answers_of_their_own():
    found = examine(build("iql", (0, 1), expectile=[0.5, 0.9]), dataset())
    single = examine(build("iql", expectile=0.9), dataset())
    np.testing.assert_array_equal(found.exact[1].V, single.exact[0].V)
    assert (found.exact[0].V[:3] < found.exact[1].V[:3]).all()


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("bc", {}),
        ("iql", {"gamma": 0.999}),
        ("iql", {"value_loss": "hl_gauss", "value_range": (-5.0, 5.0)}),
        ("f_dvl", {"variant": "official"}),
        ("f_dvl", {"delta": 0.01}),
        ("odice", {"variant": "official"}),
        ("odice", {"gradient": "orthogonal", "hidden": (4,)}),
        ("optidice", {"residual_loss": "minimax"}),
    ],
)
def test_other_options_have_no_answer(key, options):
    assert examine(build(key, **options), dataset()) is None


def test_rows_that_go_on_to_a_state_never_left_have_no_answer():
    data = dataset()
    data.terminal[:] = False
    assert examine(build("iql"), data) is None


def test_returns_are_those_of_the_series():
    rng = np.random.default_rng(0)
    P, r, mu = rng.dirichlet(np.ones(3), (3, 2)), rng.random((3, 2)), rng.dirichlet(np.ones(3))
    mdp = TabularMDP(*(torch.from_numpy(x) for x in (P, r, mu)), 0.9)
    policies, state, total = rng.dirichlet(np.ones(2), (5, 3)), np.tile(mu, (5, 1)), np.zeros(5)
    for t in range(400):
        total += 0.9**t * (state[:, :, None] * policies * r).sum((1, 2))
        state = np.einsum("bs,bsa,sat->bt", state, policies, P)
    np.testing.assert_allclose(returns(mdp, policies), total, rtol=1e-10)


def test_a_row_of_the_study_says_how_far_a_learner_is():
    """A row has one number per replica in the columns of its policy, and smaller ones after more steps."""
    short, long = (table_row(CASES[0], "stitchmaze-mixed", [0, 1], steps) for steps in (5, 500))
    assert short.keys() == long.keys()
    for name in ("V mean %", "gap AWR %"):
        assert len(long[name]) == 2
        assert np.abs(long[name]).mean() < np.abs(short[name]).mean()
    assert short["gap w* %"] is None
    assert {case.policy for case in CASES} == {"w*", "AWR", "max Q"}


def test_a_critic_and_its_actor_come_near_the_regulators_closed_form():
    short, long = (control_row(CONTROL[0], [0, 1], steps) for steps in (20, 600))
    assert short.keys() == long.keys()
    for name in ("V mean %", "w mean %", "gap max Q %"):
        assert max(np.abs(long[name])) < max(np.abs(short[name])) / 3


@pytest.mark.parametrize("case", [CONTROL[0], CONTROL[2], CONTROL[3]])
def test_an_actor_ends_at_the_pulled_gain_given_its_critic(case):
    """The critic that the actor sees is the closed form's own."""
    task = make("lqr-mixed")
    data, problem = task.dataset(), regulator(case.options["gamma"])
    exact = case.answer(problem, data.obs.double().numpy(), case.options)
    A, B, Q, R, W = (torch.from_numpy(M).float() for M in (problem.A, problem.B, problem.Q, problem.R, exact.W))

    def of(obs, action):
        following = obs @ A.T + action @ B.T
        costs = ((obs, Q), (action, R), (following, problem.gamma * W))
        return (exact.constant - sum(((x @ M) * x).sum(-1) for x, M in costs)).unsqueeze(1)

    learner = get_algorithm(case.algo)(task.spec, NETWORK | case.options | {"lr": 3e-3}, [0])
    learner.critic.__dict__["frozen"] = SimpleNamespace(of=of)
    learner.fit(data, 600, normalize_obs=False)
    states = data.obs[:500]
    off = learner.act(states[None])[0, :, 0].numpy() - (states.numpy() @ exact.K.T)[:, 0].clip(-1, 1)
    assert np.abs(off).mean() < 0.012
