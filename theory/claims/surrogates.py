"""Surrogate objectives around the old policy: clips, drifts, KL estimators, bounds and pairs."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.group_estimators import gap, gradient, scores
from fenchel.theory.claims.softmax_dynamics import autograd
from fenchel.theory.objectives import kl
from fenchel.theory.objectives.policy_gradient import ppo_clip
from fenchel.theory.rng import Rng

ACTIONS = 5


def pairs(rng: Rng, n: int) -> Problem:
    """Logits of a policy, a reference with full support, rewards."""
    return dict(z=rng.normal(n, ACTIONS), ref=rng.simplex(n, ACTIONS), r=rng.normal(n, ACTIONS))


def kl_gradient(z: Tensor, ref: Tensor, forward: bool) -> Tensor:
    """grad KL(pi, ref), or grad KL(ref, pi) if `forward`, by autograd on the definition."""

    def value(x: Tensor) -> Tensor:
        logp = torch.log_softmax(x, -1)
        return (ref * (ref.log() - logp)).sum(-1) if forward else (logp.exp() * (logp - ref.log())).sum(-1)

    return autograd(value, z)


def estimator_gradient(p: Problem, estimator) -> Tensor:
    """E_{y~pi} grad k(y), the samples held fixed."""
    pi = torch.softmax(p["z"], -1)
    return autograd(lambda z: (pi * estimator(torch.log_softmax(z, -1) - p["ref"].log())).sum(-1), p["z"])


def _forward(p: Problem, estimator=kl.k3) -> ClaimReport:
    return ClaimReport(gap(estimator_gradient(p, estimator), kl_gradient(p["z"], p["ref"], forward=True)), 1e-11)


K3_FORWARD = Claim(
    paper=189,
    kind="identity",
    statement="k3 used as a loss has the mean gradient of KL(ref, pi), the forward KL, though its value estimates "
    "KL(pi, ref)",
    problems=pairs,
    check=_forward,
    twin=Twin("k3 (k2 instead)", check=lambda p: _forward(p, kl.k2)),
    source="derived",
)


def _reverse(p: Problem, estimator=kl.k2) -> ClaimReport:
    return ClaimReport(gap(estimator_gradient(p, estimator), kl_gradient(p["z"], p["ref"], forward=False)), 1e-11)


K2_REVERSE = Claim(
    paper=9,
    kind="identity",
    statement="k2 = (log pi/ref)^2 / 2 used as a loss has the mean gradient of KL(pi, ref); k1's is zero",
    problems=pairs,
    check=_reverse,
    twin=Twin("k2 (k1 instead)", check=lambda p: _reverse(p, kl.k1)),
    source="derived",
)


def ratios(rng: Rng, n: int) -> Problem:
    return dict(x=rng.uniform(n, low=-1.0, high=1.0), a=rng.normal(n))


def _clip(p: Problem, low: float = 0.2, high: float = 0.2) -> ClaimReport:
    """Value at most r A, equal at r = 1, zero gradient exactly where the clip binds; loss = -surrogate."""
    surrogate = -ppo_clip(p["x"], p["a"], clip=0.2)
    slope = autograd(lambda x: -ppo_clip(x, p["a"], clip=0.2), p["x"])
    ratio = p["x"].exp()
    bound = surrogate - ratio * p["a"]
    stopped = ((p["a"] > 0) & (ratio > 1 + high)) | ((p["a"] < 0) & (ratio < 1 - low))
    agrees = torch.where(stopped, slope.abs(), (slope - ratio * p["a"]).abs())
    return ClaimReport(torch.maximum(bound, agrees), 1e-12)


CLIP = Claim(
    paper=232,
    kind="theorem",
    statement="PPO's clipped surrogate is at most r A, and its gradient is r A grad log pi or, exactly where A > 0 and "
    "r > 1 + eps or A < 0 and r < 1 - eps, zero",
    problems=ratios,
    check=_clip,
    twin=Twin("the sign of A in where it stops", check=lambda p: _clip(p, low=math.inf)),
    source="derived",
)


def _drift(p: Problem, linear: bool = False) -> ClaimReport:
    """DPO's drift (alpha 2, beta 0.6): f >= 0, f(1) = 0, f'(1) = 0, by autograd at the ratio 1."""

    def drift(x: Tensor) -> Tensor:
        up, down = (x.exp() - 1) * p["a"], x * p["a"]
        pull = 0.0 if linear else 1.0
        positive = torch.relu(up - pull * 2 * torch.tanh(up / 2))
        negative = torch.relu(down - pull * 0.6 * torch.tanh(down / 0.6))
        return torch.where(p["a"] >= 0, positive, negative)

    at_one = torch.zeros_like(p["x"])
    slope = (drift(at_one + 1e-6) - drift(at_one - 1e-6)).abs() / 2e-6
    return ClaimReport(torch.stack([-drift(p["x"]), drift(at_one).abs(), slope]).amax(0), 1e-7)


DRIFT = Claim(
    paper=239,
    kind="theorem",
    statement="discovered policy optimisation's drift f satisfies mirror learning's axioms f >= 0, f = 0 and f' = 0 "
    "at r = 1",
    problems=ratios,
    check=_drift,
    twin=Twin("the tanh terms", check=lambda p: _drift(p, True)),
    source="derived",
)


def _old_drift(p: Problem, squared: bool = False) -> ClaimReport:
    """E_old[(rho - 1) grad log pi] against grad KL(old, pi); `ref` plays the old policy."""
    pi = torch.softmax(p["z"], -1)
    rho = pi / p["ref"]
    weight = rho * (rho - 1) if squared else rho - 1
    mean = ((p["ref"] * weight)[..., None] * scores(pi)).sum(-2)
    return ClaimReport(gap(mean, kl_gradient(p["z"], p["ref"], forward=True)), 1e-11)


OLD_DRIFT = Claim(
    paper=322,
    kind="identity",
    statement="CPGD's policy drift: E_old[(rho - 1) grad log pi] = grad KL(old, pi), rho = pi/old",
    problems=pairs,
    check=_old_drift,
    twin=Twin("the plain weight rho - 1", check=lambda p: _old_drift(p, True)),
    source="derived",
)


def elbos(rng: Rng, n: int) -> Problem:
    return dict(delta=rng.normal(n, 4), a=rng.normal(n))


def _boundary(p: Problem, swap: bool = False) -> ClaimReport:
    """A >= 0: A mean(1 + delta); A < 0: A mean(e^delta): below A e^{mean delta}, equal with its gradient at delta =
    0."""
    positive = p["a"] < 0 if swap else p["a"] >= 0

    def bound(d: Tensor) -> Tensor:
        return torch.where(positive, p["a"] * (1 + d).mean(-1), p["a"] * d.exp().mean(-1))

    def objective(d: Tensor) -> Tensor:
        return p["a"] * d.mean(-1).exp()

    zero = torch.zeros_like(p["delta"])
    tight = gap(autograd(bound, zero), autograd(objective, zero)) + (bound(zero) - objective(zero)).abs()
    return ClaimReport(torch.maximum(bound(p["delta"]) - objective(p["delta"]), tight), 1e-12)


BOUNDARY = Claim(
    paper=7,
    kind="theorem",
    statement="BGPO: the sample-wise linear (A >= 0) or exponential (A < 0) bound is below A e^{mean delta} and "
    "tight, with "
    "its gradient, on-policy",
    problems=elbos,
    check=_boundary,
    twin=Twin("the case split on the sign of A", check=lambda p: _boundary(p, True)),
    source="derived",
)


def _pairwise(p: Problem, half: float = 0.5) -> ClaimReport:
    """E_{y1,y2}[(r1 - r2) grad log(pi(y1)/pi(y2)) / 2] and its invariance to a constant added to r."""
    pi = torch.softmax(p["z"], -1)
    first, second = torch.tensor(list(itertools.product(range(ACTIONS), repeat=2))).T
    g = scores(pi)

    def mean(r: Tensor) -> Tensor:
        weight = pi[:, first] * pi[:, second] * (r[:, first] - r[:, second]) * half
        return (weight[..., None] * (g[:, first] - g[:, second])).sum(-2)

    shifted = gap(mean(p["r"]), mean(p["r"] + 7.0))
    return ClaimReport(torch.maximum(gap(mean(p["r"]), gradient(pi, p["r"])), shifted), 1e-11)


PAIRWISE = Claim(
    paper=233,
    kind="theorem",
    statement="P3O: E[(r1 - r2) grad log(pi(y1)/pi(y2)) / 2] = grad J, and r + c(x) gives the same update sample by "
    "sample",
    problems=pairs,
    check=_pairwise,
    twin=Twin("the factor 1/2", check=lambda p: _pairwise(p, 1.0)),
    source="derived",
)


def sets(rng: Rng, n: int) -> Problem:
    """A reward for every ordered pair of answers, not symmetric, and any baseline."""
    return dict(z=rng.normal(n, ACTIONS), f=rng.normal(n, ACTIONS, ACTIONS), b=rng.normal(n))


def _set_gradient(p: Problem, shared: bool = True) -> ClaimReport:
    """E[(f - b) sum_i grad log pi(y_i)] over all pairs, against autograd of E f."""
    pi = torch.softmax(p["z"], -1)
    joint = pi[:, :, None] * pi[:, None]
    g = scores(pi)
    total = g[:, :, None] + (g[:, None] if shared else 0)
    mean = ((joint * (p["f"] - p["b"][:, None, None]))[..., None] * total).sum((1, 2))

    def value(z: Tensor) -> Tensor:
        q = torch.softmax(z, -1)
        return torch.einsum("ni,nij,nj->n", q, p["f"], q)

    return ClaimReport(gap(mean, autograd(value, p["z"])), 1e-11)


SET_GRADIENT = Claim(
    paper=66,
    kind="theorem",
    statement="set RL: the gradient of E f(y_1..n) is E[(f - b) sum_i grad log pi(y_i)], one advantage for all members",
    problems=sets,
    check=_set_gradient,
    twin=Twin("credit to every member", check=lambda p: _set_gradient(p, False)),
    source="derived",
)


def small_steps(rng: Rng, n: int) -> Problem:
    """Two token policies close to their behaviour: pi_t = mu_t tilted by eps times a direction."""
    return dict(mu=rng.simplex(n, 2, ACTIONS), d=rng.normal(n, 2, ACTIONS), r=rng.normal(n, ACTIONS, ACTIONS))


def _token_surrogate(p: Problem, sequence_power: float = 4.0) -> ClaimReport:
    """Relative to the sequence objective, the token objective's error: halving eps divides it by four."""

    def error(eps: float) -> Tensor:
        pi = torch.softmax(p["mu"].log() + eps * p["d"], -1)
        delta = pi / p["mu"] - 1
        joint = p["mu"][:, 0, :, None] * p["mu"][:, 1, None]
        left, right = delta[:, 0, :, None], delta[:, 1, None]
        sequence = (joint * p["r"] * ((1 + left) * (1 + right))).sum((1, 2))
        token = (joint * p["r"] * (1 + left + right)).sum((1, 2))
        return (sequence - token).abs()

    step = 1e-4
    return ClaimReport((error(2 * step) - sequence_power * error(step)).abs() / step**2, 0.05)


TOKEN_SURROGATE = Claim(
    paper=151,
    kind="theorem",
    statement="the token-level surrogate agrees with the sequence objective to first order in the ratio: error "
    "O(delta^2)",
    problems=small_steps,
    check=_token_surrogate,
    twin=Twin("second order (first order claimed)", check=lambda p: _token_surrogate(p, 2.0)),
    source="derived",
)
