"""Matrix games, cooperative teams, hedging and submodular maximisation, on small enumerable instances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.softmax_dynamics import autograd
from fenchel.theory.rng import Rng


def matrix(rng: Rng, n: int) -> Problem:
    return dict(m=rng.normal(n, 4, 3), hot=rng.uniform(n, low=0.3, high=1.0), cold=rng.uniform(n, low=0.3, high=1.0))


def quantal(p: Problem, steps: int = 1200) -> tuple[Tensor, Tensor]:
    """The logit equilibrium x ~ e^{My/hot}, y ~ e^{-M'x/cold} by damped fixed-point iteration."""
    x, y = torch.full_like(p["m"][:, :, 0], 0.25), torch.full_like(p["m"][:, 0], 1 / 3)
    for _ in range(steps):
        to_x = torch.softmax(torch.einsum("nij,nj->ni", p["m"], y) / p["hot"][:, None], -1)
        to_y = torch.softmax(-torch.einsum("nij,ni->nj", p["m"], x) / p["cold"][:, None], -1)
        x, y = x + 0.05 * (to_x - x), y + 0.05 * (to_y - y)
    return x, y


def _quantal_gap(p: Problem, scale: float = 1.0) -> ClaimReport:
    x, y = quantal(p)
    best = torch.einsum("nij,nj->ni", p["m"], y).amax(-1) - torch.einsum("nij,ni->nj", p["m"], x).amin(-1)
    return ClaimReport(best - scale * (p["hot"] * math.log(4) + p["cold"] * math.log(3)), 1e-9)


QUANTAL_GAP = Claim(
    paper=152,
    kind="theorem",
    statement="at a quantal response equilibrium of an m x n game the duality gap is at most beta log m + alpha log n",
    problems=matrix,
    check=_quantal_gap,
    twin=Twin("the factors log m and log n (a tenth of them)", check=lambda p: _quantal_gap(p, 0.1)),
    n=64,
    source="derived",
)


def team(rng: Rng, n: int) -> Problem:
    """Two agents choose in turn in one state: payoffs (n, A, B), two joint policies p and q, the second conditional."""
    draw = {f"{who}1": rng.simplex(n, 3) for who in "pq"} | {f"{who}2": rng.simplex(n, 3, 3) for who in "pq"}
    return draw | dict(r=rng.normal(n, 3, 3))


def _team_difference(p: Problem, conditional: bool = True) -> ClaimReport:
    """J(q) - J(p) = <Q^1_p, q1 - p1> + E_{a1 ~ q1} <Q^{12}(a1, .), q2 - p2>."""
    before = torch.einsum("ni,nij,nij->n", p["p1"], p["p2"], p["r"])
    after = torch.einsum("ni,nij,nij->n", p["q1"], p["q2"], p["r"])
    first = torch.einsum("nij,nij,ni->n", p["p2"], p["r"], p["q1"] - p["p1"])
    over = p["q1"] if conditional else p["p1"]
    second = torch.einsum("ni,nij,nij->n", over, p["r"], p["q2"] - p["p2"])
    return ClaimReport((after - before - first - second).abs(), 1e-12)


TEAM_DIFFERENCE = Claim(
    paper=236,
    kind="theorem",
    statement="multi-agent performance difference: J(p') - J(p) = sum_m E_{a_<m ~ p'} <Q_p^{1:m}(a_<m, .), p'_m - p_m>",
    problems=team,
    check=_team_difference,
    twin=Twin("predecessors drawn from the new policy", check=lambda p: _team_difference(p, False)),
    source="derived",
)


def network(rng: Rng, n: int) -> Problem:
    """Three agents; agent 2 sees agent 1's action, agent 3 decides alone."""
    return dict(a=rng.normal(n, 2), b=rng.normal(n, 2, 2), c=rng.normal(n, 2), r=rng.normal(n, 2, 2, 2))


def _network_gradient(p: Problem, averaged: bool = True) -> ClaimReport:
    """d J / d theta_2(a1, a2) = pi(a1) pi_2(a2|a1) A_2(a1, a2), A_2 from Q averaged over the non-parents."""
    first, second, third = (torch.softmax(p[k], -1) for k in "abc")

    def value(b: Tensor) -> Tensor:
        return torch.einsum("ni,nij,nk,nijk->n", first, torch.softmax(b, -1), third, p["r"])

    q = torch.einsum("nk,nijk->nij", third, p["r"]) if averaged else p["r"].mean(-1)
    advantage = q - (second * q).sum(-1, keepdim=True)
    formula = first[:, :, None] * second * advantage
    return ClaimReport((autograd(value, p["b"]) - formula).abs().amax((-2, -1)), 1e-12)


NETWORK_GRADIENT = Claim(
    paper=283,
    kind="identity",
    statement="Bayesian-network policies: dJ/dtheta_i = d(s) pi(a_Pa|s) pi_i(a_i|s, a_Pa) A_i, Q averaged over "
    "non-parents",
    problems=network,
    check=_network_gradient,
    twin=Twin("averaging by the policy (uniform instead)", check=lambda p: _network_gradient(p, False)),
    source="derived",
)


def payoffs(rng: Rng, n: int) -> Problem:
    return dict(y=(rng.uniform(n, 200, 5) < rng.uniform(n, 1, 5)).to(torch.float64))


def _hedge(p: Problem, scale: float = 1.0) -> ClaimReport:
    rounds, arms = p["y"].shape[1:]
    eta = math.sqrt(8 * math.log(arms) / rounds)
    past = p["y"].cumsum(1) - p["y"]
    regret = p["y"].sum(1).amax(-1) - (torch.softmax(eta * past, -1) * p["y"]).sum((1, 2))
    return ClaimReport(regret - scale * math.sqrt(rounds * math.log(arms) / 2), 1e-12)


HEDGE = Claim(
    paper=316,
    kind="theorem",
    statement="multiplicative weights on payoffs in [0, 1] have regret at most sqrt(T log K / 2) on every sequence",
    problems=payoffs,
    check=_hedge,
    twin=Twin("payoffs in [0, 1] (scaled by 30)", problems=lambda rng, n: {"y": 30 * payoffs(rng, n)["y"]}),
    source="derived",
)


def tasks(rng: Rng, n: int) -> Problem:
    """Two tasks of a hierarchical Gaussian bandit with three-dimensional parameters."""

    def covariance(*shape: int) -> Tensor:
        x = rng.normal(*shape, 3, 3)
        return x @ x.mT + 0.3 * torch.eye(3).to(x)

    return dict(q=covariance(n), s0=covariance(n), g=covariance(n, 2), b=rng.normal(n, 2, 3))


def _hierarchical(p: Problem, ignore_task: bool = False) -> ClaimReport:
    """The two-stage formula of task 0's posterior against the joint Gaussian over (mu, theta_1, theta_2)."""
    inv = torch.linalg.inv
    q, s0, g, b = inv(p["q"]), inv(p["s0"]), p["g"], p["b"]
    zero = torch.zeros_like(q)
    joint = torch.cat(
        [
            torch.cat([q + 2 * s0, -s0, -s0], -1),
            torch.cat([-s0, s0 + g[:, 0], zero], -1),
            torch.cat([-s0, zero, s0 + g[:, 1]], -1),
        ],
        -2,
    )
    cov = inv(joint)
    mean = (cov @ torch.cat([torch.zeros_like(b[:, 0]), b[:, 0], b[:, 1]], -1)[..., None])[:, 3:6, 0]
    spread = inv(p["s0"][:, None] + inv(g))
    hyper = inv(q + spread.sum(1))
    pull = (spread @ inv(g) @ b[..., None]).sum(1)
    centre = hyper @ pull
    own = inv(s0 + g[:, 0])
    theta = (own @ ((0 if ignore_task else s0 @ centre) + b[:, 0, :, None]))[..., 0]
    uncertainty = own + own @ s0 @ hyper @ s0 @ own
    error = (theta - mean).abs().amax(-1)
    return ClaimReport(torch.maximum(error, (uncertainty - cov[:, 3:6, 3:6]).abs().amax((-2, -1))), 1e-8)


HIERARCHICAL = Claim(
    paper=266,
    kind="identity",
    statement="hierarchical off-policy learning: the two-stage posterior of a task equals conditioning the joint "
    "Gaussian",
    problems=tasks,
    check=_hierarchical,
    twin=Twin("the other tasks' hyper-posterior mean", check=lambda p: _hierarchical(p, True)),
    source="derived",
)


def energies(rng: Rng, n: int) -> Problem:
    """A point, a spread, an inverse temperature, and a quartic energy."""
    return dict(
        x=rng.normal(n),
        s=rng.uniform(n, low=0.2, high=1.0),
        alpha=rng.uniform(n, low=0.3, high=2.0),
        c=rng.normal(n, 3),
    )


def _consensus(p: Problem, scale: float = 1.0) -> ClaimReport:
    """Consensus point under N(x, s^2) against x - alpha s^2 times the gradient of the smoothed energy (quadrature)."""
    u = torch.linspace(-9, 9, 3001, dtype=torch.float64, device=p["x"].device)

    def nodes(x: Tensor) -> tuple[Tensor, Tensor]:
        """The quadrature points and the logarithms of their Gibbs weights."""
        y = x[:, None] + p["s"][:, None] * u
        energy = 0.1 * y**4 + p["c"][:, :1] * y**2 + p["c"][:, 1:2] * y + p["c"][:, 2:] * y.cos()
        return y, -p["alpha"][:, None] * energy - u**2 / 2

    def free(x: Tensor) -> Tensor:
        return -torch.logsumexp(nodes(x)[1], -1) / p["alpha"]

    def point(x: Tensor) -> Tensor:
        y, log_weight = nodes(x)
        return (torch.softmax(log_weight, -1) * y).sum(-1)

    right = p["x"] - scale * p["alpha"] * p["s"] ** 2 * autograd(free, p["x"])
    return ClaimReport((point(p["x"]) - right).abs(), 1e-6)


CONSENSUS = Claim(
    paper=289,
    kind="identity",
    statement="consensus hopping is a gradient step: x_alpha(N(x, s^2)) = x - alpha s^2 grad E_{alpha,s}(x), E the "
    "free energy",
    problems=energies,
    check=_consensus,
    twin=Twin("the factor alpha s^2 (doubled)", check=lambda p: _consensus(p, 2.0)),
    source="derived",
    n=32,
)
