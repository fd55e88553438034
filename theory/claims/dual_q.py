"""Dual-Q, the dual of one policy's occupancy: its optimum, its limits, and which critics it is.

    min_Q (1 - gamma) E_{mu0, pi} Q + E_ref a f*(y / a),   y = r + gamma E Q(s', pi) - Q
    = E_{d_pi} r - a D_f(d_pi || ref)                      (`ref` is a measure over pairs, a the weight of D_f)

The flow equations of one policy have one solution, so the primal's value is a closed form; the minimiser is
Q = (I - gamma P_pi)^{-1} (r - a f'(d_pi / ref)).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.occupancies import (
    F,
    action_values,
    divergence,
    newton,
    occupancy,
    problems,
    residual,
    residual_q,
    start,
    total,
)
from fenchel.theory.claims.tools import expect, worst
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.objectives import dual
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_iteration

WEIGHT = 0.5


def dual_q(p: Problem, Q: Tensor, name: str, policy: Tensor | None = None, **options) -> Tensor:
    """Our dual-Q objective, (n,)."""
    mdp, pi = p["mdp"], p["policy"] if policy is None else policy
    loss = dual.residual_dual(residual_q(mdp, Q, pi), divergence=name, temperature=WEIGHT, **options)
    return expect(start(mdp), (pi * Q).sum(-1)) + total(p["ref"] * loss)


def optimum(p: Problem, name: str, policy: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The primal's value and the minimising Q of a policy."""
    mdp, pi = p["mdp"], p["policy"] if policy is None else policy
    d = occupancy(mdp, pi)
    value = total(d * mdp.r) - WEIGHT * divergence(name, d, p["ref"])
    return value, action_values(mdp, pi, mdp.r - WEIGHT * F[name][1](d / p["ref"]))


def _strong_duality(p: Problem, own_actions: bool = True) -> ClaimReport:
    results = []
    for name in F:
        value, Q = optimum(p, name)
        follow = None if own_actions else p["behaviour"]
        exact = dual_q(p, Q, name, follow)
        results += [(exact - value).abs(), value - dual_q(p, Q + p["Q"], name, follow)]
    signed = dual_q(p, optimum(p, "chi2")[1], "chi2", nonneg=False)
    return ClaimReport(worst(*results, (signed - optimum(p, "chi2")[0]).abs()), 1e-9)


STRONG_DUALITY = Claim(
    paper=2,
    kind="theorem",
    statement="dual-Q: min_Q (1 - gamma) E_{mu0, pi} Q + a E_ref f*((r + gamma E Q(s', pi) - Q)/a) = E_{d_pi} r - a "
    "D_f(d_pi || ref), for seven divergences, with or without w >= 0",
    problems=problems,
    check=_strong_duality,
    twin=Twin("pi's own actions (the behaviour's)", check=lambda p: _strong_duality(p, False)),
    source="derived",
    n=64,
)


def _max_min(p: Problem, initial: float = 1.0) -> ClaimReport:
    """Our dual-V at its minimum, our dual-Q at the policy it implies, and at other policies."""
    mdp, results = p["mdp"], []
    for name in ("kl", "chi2", "hellinger"):

        def dual_v(V: Tensor, name=name) -> Tensor:
            loss = dual.residual_dual(residual(mdp, V), divergence=name, temperature=WEIGHT)
            return initial * expect(start(mdp), V) + total(p["ref"] * loss)

        V = newton(dual_v, torch.full_like(p["V"], 20.0) * mdp.r.abs().amax())
        best = p["ref"] * F[name][2](residual(mdp, V) / WEIGHT)
        pi = best / best.sum(-1, keepdim=True)
        policies = (pi, 0.9 * pi + 0.1 * p["policy"], p["policy"], p["behaviour"])
        values = []
        for policy in policies:
            d = occupancy(mdp, policy).clamp(min=1e-300)
            Q = action_values(mdp, policy, mdp.r - WEIGHT * F[name][1](d / p["ref"]))
            values.append(dual_q(p, Q, name, policy))
        results += [(dual_v(V) - values[0]).abs(), *(other - values[0] for other in values[1:])]
    return ClaimReport(worst(*results), 1e-8)


MAX_MIN = Claim(
    paper=2,
    kind="theorem",
    statement="min over V of dual-V = max over pi of min over Q of dual-Q, attained by pi proportional to ref w*(r + "
    "gamma P V - V)",
    problems=problems,
    check=_max_min,
    twin=Twin("the weight 1 - gamma of the start (2 (1 - gamma))", check=lambda p: _max_min(p, 2.0)),
    source="derived",
    n=32,
)


def visited(rng: Rng, n: int) -> Problem:
    """The reference is the behaviour's occupancy."""
    p = problems(rng, n)
    return p | dict(ref=occupancy(p["mdp"], p["behaviour"]))


def _limits(p: Problem, penalty: float = 1.0) -> ClaimReport:
    """J_a is our dual at the solver's V; a runs from 100 to 0.01."""
    mdp, ref = p["mdp"], p["ref"]
    V, greedy, _ = policy_iteration(mdp)
    best = expect(start(mdp), V)
    d = occupancy(mdp, torch.nn.functional.one_hot(greedy, mdp.num_actions).to(V))
    unnormalised = ref / (1 - mdp.discount[:, :1, :1])
    results = []
    for name in ("kl", "chi2"):
        path = []
        for a in (100.0, 1.0, 0.1, 0.01):
            answer = solve(mdp, "occupancy_dual", divergence=name, alpha=a, reference=unnormalised, tol=1e-10)
            loss = dual.residual_dual(residual(mdp, answer.V), divergence=name, temperature=a)
            path.append(expect(start(mdp), answer.V) + total(ref * loss))
            found = answer.occupancy * (1 - mdp.discount[:, :1, :1])
            results.append((total(found * mdp.r) - a * divergence(name, found, ref) - path[-1]).abs())
            results += [path[-1] - best, best - penalty * a * divergence(name, d, ref) - path[-1]]
        results += [first - second for first, second in itertools.pairwise(path)]
        data, spread = total(ref * mdp.r), mdp.r.amax((-2, -1)) - mdp.r.amin((-2, -1))
        results += [data - path[0], path[0] - data - spread.square() / (8 * 100.0 if name == "kl" else 16 * 100.0)]
    return ClaimReport(worst(*results), 1e-7)


LIMITS = Claim(
    paper=2,
    kind="theorem",
    statement="the regularised optimum J_a grows as a falls: J* - a D_f(d* || ref) <= J_a <= J*, and from the data's "
    "own return at a = infinity: J_a - E_ref r <= range(r)^2/(8a) for kl, /(16a) for chi2",
    problems=visited,
    check=_limits,
    twin=Twin("the price a D_f(d* || ref)", check=lambda p: _limits(p, 0.0)),
    source="derived",
    n=8,
)


def squared_error(p: Problem, Q: Tensor) -> Tensor:
    return total(p["ref"] * residual_q(p["mdp"], Q, p["policy"]).square())


def gap(p: Problem, Q: Tensor) -> Tensor:
    """E_{s ~ ref} [Q(s, pi) - Q(s, a)]."""
    return total(p["ref"] * ((p["policy"] * Q).sum(-1, keepdim=True) - Q))


def cql_price(p: Problem) -> Tensor:
    """2 a (pi / beta - 1): what CQL with mu = pi takes off the backup of pi. (Kumar 2020, eq. 2, weight 2 a.)"""
    return 2 * WEIGHT * (p["policy"] * p["ref"].sum(-1, keepdim=True) / p["ref"] - 1)


def _atac(p: Problem) -> ClaimReport:
    """The identity at arbitrary Q, the minimiser of the whole objective, and CQL's Q as a semi-gradient's zero."""
    mdp, Q = p["mdp"], p["Q"]
    critic = total(p["ref"] * mdp.r) + gap(p, Q) + squared_error(p, Q) / (4 * WEIGHT)
    identity = (dual_q(p, Q, "chi2", nonneg=False) - critic).abs()
    found = newton(lambda x: dual_q(p, x.view_as(Q), "chi2", nonneg=False), Q.flatten(1)).view_as(Q)
    excess = residual_q(mdp, found, p["policy"]) - 2 * WEIGHT * (occupancy(mdp, p["policy"]) / p["ref"] - 1)
    Q = action_values(mdp, p["policy"], mdp.r - cql_price(p)).requires_grad_()
    y = residual_q(mdp, Q.detach(), p["policy"]) + Q.detach() - Q
    loss = dual.residual_dual(y, divergence="chi2", temperature=WEIGHT, nonneg=False)
    objective = total(p["ref"].sum(-1, keepdim=True) * p["policy"] * Q) + total(p["ref"] * loss)
    zero = torch.autograd.grad(objective.sum(), Q)[0]
    return ClaimReport(worst(identity, excess.abs().amax((-2, -1)), zero.abs().amax((-2, -1))), 1e-7)


ATAC = Claim(
    paper=2,
    kind="theorem",
    statement="on an occupancy `ref` dual-Q with chi2 is ATAC's critic, E_ref [Q(s, pi) - Q(s, a)] + E_ref (r + gamma "
    "Q' - Q)^2 / 4a + E_ref r, minimal where r + gamma Q' - Q = 2a (d_pi / ref - 1); CQL's 2a (pi / beta - 1) is its "
    "semi-gradient's zero with the data's states as initial ones",
    problems=visited,
    check=_atac,
    twin=Twin("a reference that is an occupancy", problems=problems),
    source="derived",
    n=64,
)


def _cql(p: Problem) -> ClaimReport:
    """CQL's equation for the evaluation of pi (mu = pi) at the minimiser of our dual-Q, found by Newton's method."""
    Q = newton(lambda x: dual_q(p, x.view_as(p["Q"]), "chi2", nonneg=False), p["Q"].flatten(1)).view_as(p["Q"])
    error = residual_q(p["mdp"], Q, p["policy"]) - cql_price(p)
    return ClaimReport(error.abs().amax((-2, -1)), 1e-7)


def _leaving() -> Problem:
    """State 0: action 0 stays, action 1 leaves for the absorbing state 1. Uniform behaviour; pi leaves at once."""
    P = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]], dtype=torch.float64)
    zero = torch.zeros(1, 2, 2, dtype=torch.float64)
    mdp = TabularMDP(P, zero, torch.tensor([[1.0, 0.0]], dtype=torch.float64), 0.5)
    uniform = torch.full_like(zero, 0.5)
    policy = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)
    return dict(mdp=mdp, behaviour=uniform, policy=policy, Q=zero, V=zero[..., 0], ref=occupancy(mdp, uniform))


CQL = Claim(
    paper=2,
    kind="theorem",
    statement="CQL is a special case of dual-Q: with chi2 the Q of dual-Q for a policy pi is CQL's, Q = r + gamma P "
    "Q(., pi) - 2a (pi / beta - 1)",
    problems=visited,
    check=_cql,
    source="derived",
    expected=False,
    counterexample=_leaving(),
    n=64,
)
