"""Static CVaR against the enumeration of histories, entropic risk and exact laws against moments and limits."""

from dataclasses import replace

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.referees import planning as referee
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.certificates import check
from fenchel.theory.solvers.risk import cvar


def problem(seed, S=2, A=2, gamma=0.9, start=0):
    rng = Rng(seed)
    mu0 = torch.eye(S, dtype=torch.float64)[start]
    return TabularMDP(rng.simplex(S, A, S), rng.normal(S, A), mu0, gamma)


@pytest.mark.parametrize("level", [0.1, 0.35, 0.8, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cvar_over_all_history_dependent_policies(seed, level):
    mdp = problem(seed)
    s = solve(mdp, "cvar", level=level, horizon=3)
    assert s.certificate.holds
    assert check(mdp, "cvar", s, level=level, horizon=3).holds
    best = referee.history_cvar(mdp.P.numpy(), mdp.r.numpy(), 0, 0.9, level, 3)
    assert abs(best - float(s.V)) < 1e-9
    assert abs(cvar(s.extra["atoms"], s.extra["probabilities"], level) - s.V) < 1e-9


def test_cvar_at_level_one_is_the_mean_and_grows_with_the_level():
    mdp = problem(4, S=3)
    V = mdp.r.new_zeros(3)
    for _ in range(4):
        V = (mdp.r + 0.9 * mdp.P @ V).amax(-1)
    values = [float(solve(mdp, "cvar", level=x, horizon=4).V) for x in (0.05, 0.3, 1.0)]
    assert abs(values[2] - float(V[0])) < 1e-9
    assert values[0] < values[1] < values[2]


def test_cvar_needs_the_return_so_far():
    """A gamble, then a hedge that pays only after losing: no Markov policy reaches the optimum."""
    P = torch.zeros(3, 2, 3, dtype=torch.float64)
    P[0, :, 1] = P[0, :, 2] = 0.5
    P[1:, :, 0] = 1
    r = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
    s = solve(TabularMDP(P, r, torch.eye(3, dtype=P.dtype)[0], 1.0), "cvar", level=0.5, horizon=2)
    assert abs(float(s.V) - 0.5) < 1e-12


def test_shift_and_scale_of_rewards():
    mdp = problem(5)
    s = solve(mdp, "cvar", level=0.3, horizon=3)
    moved = TabularMDP(mdp.P, 2 * mdp.r + 1, mdp.mu0, 0.9)
    t = solve(moved, "cvar", level=0.3, horizon=3)
    assert abs(float(t.V) - (2 * float(s.V) + 1 + 0.9 + 0.81)) < 1e-9


def test_episodes_that_end():
    """State 0 ends with its reward; a discount of 0 stops the sum."""
    mdp = problem(6)
    discount = torch.tensor([[0.0, 0.9], [0.9, 0.9]], dtype=torch.float64)
    ended = TabularMDP(mdp.P, torch.tensor([[5.0, 0.0], [0.0, 0.0]], dtype=mdp.dtype), mdp.mu0, discount)
    assert abs(float(solve(ended, "cvar", level=0.2, horizon=3).V) - 5) < 1e-12
    assert abs(float(solve(ended, "entropic", risk=1.0, horizon=3).V[0, 0]) - 5) < 1e-12


@pytest.mark.parametrize("risk", [2.0, 0.1, -1.0])
def test_entropic_is_the_certainty_equivalent_of_its_own_law(risk):
    mdp = problem(7, S=3)
    s = solve(mdp, "entropic", risk=risk, horizon=4)
    assert s.certificate.holds
    law = solve(mdp, "return_law", policy=s.policy, horizon=4).extra
    value = -torch.logsumexp(law["probabilities"].log() - risk * law["atoms"], 0) / risk
    assert abs(float(value - s.V[0, 0])) < 1e-10
    for seed in range(20):
        other = torch.nn.functional.one_hot(Rng(seed).integers(2, 4, 3), 2).double()
        law = solve(mdp, "return_law", policy=other, horizon=4).extra
        assert -torch.logsumexp(law["probabilities"].log() - risk * law["atoms"], 0) / risk <= value + 1e-10


def test_entropic_tends_to_the_mean_for_small_risk():
    mdp = problem(8, S=3)
    V = mdp.r.new_zeros(3)
    for _ in range(4):
        V = (mdp.r + 0.9 * mdp.P @ V).amax(-1)
    assert torch.allclose(solve(mdp, "entropic", risk=1e-6, horizon=4).V[0], V, atol=1e-4)


def test_return_law_of_a_coin():
    P, r = torch.full((2, 1, 2), 0.5, dtype=torch.float64), torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    mdp = TabularMDP(P, r, torch.full((2,), 0.5, dtype=P.dtype), 1.0)
    s = solve(mdp, "return_law", policy=torch.ones(2, 1, dtype=P.dtype), horizon=3)
    assert s.certificate.holds
    order = s.extra["atoms"].argsort()
    assert torch.allclose(s.extra["atoms"][order], torch.arange(4, dtype=P.dtype))
    assert torch.allclose(s.extra["probabilities"][order], torch.tensor([1.0, 3, 3, 1], dtype=P.dtype) / 8)


def test_wrong_answers_fail_the_check():
    mdp, options = problem(9), {"level": 0.3, "horizon": 3}
    s = solve(mdp, "cvar", **options)
    assert not check(mdp, "cvar", replace(s, V=s.V + 0.01), **options).holds
    mean = solve(mdp, "cvar", level=1.0, horizon=3)  # optimal for the mean, not for the tail
    tail = replace(mean, V=cvar(mean.extra["atoms"], mean.extra["probabilities"], 0.3))
    assert float(tail.V) > float(s.V) - 1e-9 or not check(mdp, "cvar", tail, **options).holds
    e = solve(mdp, "entropic", risk=1.0, horizon=3)
    assert not check(mdp, "entropic", replace(e, V=e.V + 0.01), risk=1.0, horizon=3).holds


@pytest.mark.parametrize(
    ("criterion", "options", "words"),
    [
        ("cvar", {"level": 0.0, "horizon": 2}, "level=0.0 is not valid"),
        ("cvar", {"level": 0.5, "horizon": 0}, "horizon=0 is not valid"),
        ("cvar", {"level": 0.5, "horizon": 3, "limit": 2}, "exceed limit=2"),
        ("entropic", {"risk": 0.0, "horizon": 2}, "risk=0 is the mean"),
    ],
)
def test_refusals(criterion, options, words):
    with pytest.raises(UserError) as error:
        solve(problem(1), criterion, **options)
    assert words in str(error.value)
