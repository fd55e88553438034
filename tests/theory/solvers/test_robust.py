"""Robust values against cvxpy's inner problems, nature's order of play, and known limits."""

from dataclasses import replace

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.referees import planning as referee
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.ambiguity import distance, worst_row
from fenchel.theory.solvers.certificates import check

SETS = ["l1", "linf", "kl", "chi2"]


def problem(seed, B=2, S=3, A=2, gamma=0.8):
    rng = Rng(seed)
    return TabularMDP(rng.simplex(B, S, A, S), rng.uniform(B, S, A), rng.simplex(B, S), gamma)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("radius", [0.0, 0.05, 0.4, 3.0])
def test_worst_rows_meet_the_convex_program(name, radius):
    rng = Rng(1)
    p0, z = rng.simplex(4, 5), rng.normal(4, 5)
    p0[1, 2], z[2, 0] = 0.0, z[2, 1]
    p0 /= p0.sum(-1, keepdim=True)
    p = worst_row(name, p0, z, torch.full((4,), radius, dtype=p0.dtype))
    assert (distance(name, p, p0) <= radius + 1e-12).all()
    assert torch.allclose(p.sum(-1), torch.ones(4, dtype=p0.dtype))
    for i in range(4):
        value = referee.worst_mean(name, p0[i].numpy(), z[i].numpy(), radius)
        # at radius 0 the program has no interior and is only met to 1e-4
        assert abs(value - float((p[i] * z[i]).sum())) < (1e-4 if radius == 0 else 1e-6)


@pytest.mark.parametrize("name", SETS)
def test_sa_rectangular_fixed_point(name):
    mdp = problem(2)
    s = solve(mdp, "robust", ambiguity=name, radius=0.2)
    assert s.certificate.holds
    assert check(mdp, "robust", s, ambiguity=name, radius=0.2).holds
    assert (s.upper - s.lower < 1e-7).all()
    slow = solve(mdp, "robust", "value_iteration", 1e-2, ambiguity=name, radius=0.2)
    assert torch.allclose(slow.V, s.V, atol=1e-2)
    one = solve(mdp[1], "robust", ambiguity=name, radius=0.2)
    assert torch.allclose(one.V, s.V[1], atol=1e-9)
    z = 0.8 * s.V[0].numpy()
    for state in range(3):
        stage = [
            float(mdp.r[0, state, a]) + referee.worst_mean(name, mdp.P[0, state, a].numpy(), z, 0.2) for a in range(2)
        ]
        assert abs(max(stage) - float(s.V[0, state])) < 1e-6


@pytest.mark.parametrize("name", SETS)
def test_s_rectangular_fixed_point(name):
    mdp = problem(3, B=1)
    s = solve(mdp, "robust", ambiguity=name, radius=0.3, rectangular="s", tol=1e-7)
    assert s.certificate.holds
    z = (0.8 * s.V[0]).expand(2, 3).numpy()
    for state in range(3):
        stage = referee.robust_stage(name, mdp.P[0, state].numpy(), mdp.r[0, state].numpy(), z, 0.3)
        assert abs(stage - float(s.V[0, state])) < 1e-6
    # a joint radius constrains nature more than the same radius for every action
    assert (s.V >= solve(mdp, "robust", ambiguity=name, radius=0.3).V - 1e-9).all()


def test_s_rectangular_policies_are_randomised():
    mdp = problem(4, B=1)
    P, r = (t[:, :, :1].expand_as(t) for t in (mdp.P, mdp.r))  # equal actions: playing both halves nature's budget
    mdp = TabularMDP(P, r, mdp.mu0, 0.8)
    s, pure = (solve(mdp, "robust", ambiguity="l1", radius=0.3, rectangular=kind, tol=1e-7) for kind in ("s", "sa"))
    assert s.certificate.holds
    assert torch.allclose(s.policy, torch.full_like(s.policy, 0.5), atol=1e-3)
    assert (s.V > pure.V + 1e-3).all()
    assert torch.allclose(s.V, solve(mdp, "robust", ambiguity="l1", radius=0.15).V, atol=1e-7)


@pytest.mark.parametrize("rectangular", ["sa", "s"])
def test_limits_of_the_radius(rectangular):
    mdp = problem(5, B=1)
    options = {"ambiguity": "l1", "rectangular": rectangular}
    nominal = solve(mdp, "discounted").V
    assert torch.allclose(solve(mdp, "robust", radius=0.0, **options).V, nominal, atol=1e-8)
    worst = solve(mdp, "robust", radius=10.0, **options)
    assert worst.certificate.holds
    # nature picks the worst state every time: v = max_a r(s, a) + gamma min v
    least = mdp.r.amax(-1).amin() / 0.2
    assert torch.allclose(worst.V, mdp.r.amax(-1) + 0.8 * least, atol=1e-7)


def test_reward_shift_and_monotonicity_in_the_radius():
    mdp = problem(6)
    values = [solve(mdp, "robust", ambiguity="kl", radius=k).V for k in (0.0, 0.1, 0.5)]
    assert (values[0] >= values[1]).all()
    assert (values[1] >= values[2]).all()
    shifted = solve(TabularMDP(mdp.P, mdp.r + 2, mdp.mu0, 0.8), "robust", ambiguity="kl", radius=0.1)
    assert torch.allclose(shifted.V, values[1] + 10, atol=1e-7)


def test_interval_equals_linf():
    mdp = problem(7)
    bounds = ((mdp.P - 0.1).clamp(min=0), (mdp.P + 0.1).clamp(max=1))
    box = solve(mdp, "robust", ambiguity="interval", bounds=bounds)
    assert box.certificate.holds
    assert torch.allclose(box.V, solve(mdp, "robust", ambiguity="linf", radius=0.1).V, atol=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_wrong_answers_fail_the_check(name):
    mdp, options = problem(8), {"ambiguity": name, "radius": 0.3}
    s = solve(mdp, "robust", **options)
    assert not check(mdp, "robust", replace(s, V=s.V + 0.01), **options).holds
    assert not check(mdp, "robust", replace(s, V=s.V - 0.01), **options).holds
    assert not check(mdp, "robust", replace(s, policy=s.policy.flip(-1)), **options).holds
    assert not check(mdp, "robust", s, ambiguity=name, radius=0.2).holds


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ambiguity": "l2", "radius": 0.1}, "ambiguity=l2 is unknown; valid are chi2"),
        ({"ambiguity": "l1"}, "radius must be at least 0"),
        ({"ambiguity": "l1", "radius": -1.0}, "radius must be at least 0"),
        ({"ambiguity": "interval"}, "needs bounds"),
        ({"ambiguity": "kl", "radius": 0.1, "rectangular": "a"}, "rectangular=a is unknown"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(UserError) as error:
        solve(problem(9), "robust", **options)
    assert words in str(error.value)
