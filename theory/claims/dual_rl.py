"""Dual RL: strong duality of regularised occupancies, and what the value losses of its learners converge to.

A one-state problem is actions drawn from `b` (n, A) with values `q` (n, A); minimisers over V come from bisection on
the derivative of our loss, and are compared with quantiles, log-mean-exps and maxima that do not call it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import bisect, expect, regret, worst
from fenchel.theory.instances.generated import garnet
from fenchel.theory.objectives import dual
from fenchel.theory.objectives.value import expectile, gumbel
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve

ACTIONS = 6
Loss = Callable[[Tensor, Tensor], Tensor]  # (V (n, 1), q (n, A)) -> (n, A)


def one_state(rng: Rng, n: int) -> Problem:
    b = 0.9 * rng.simplex(n, ACTIONS) + 0.1 / ACTIONS
    return dict(b=b, q=2 * rng.normal(n, ACTIONS), rivals=rng.simplex(n, 8, ACTIONS))


def minimiser(p: Problem, loss: Loss, reach: float = 60.0) -> Tensor:
    """argmin over V of E_b loss(V, q), (n,), by bisection on the derivative (the losses are convex)."""

    def slope(V: Tensor) -> Tensor:
        with torch.enable_grad():
            V = V.detach().requires_grad_()
            value = (p["b"] * loss(V[:, None].expand_as(p["q"]), p["q"])).sum()
            return torch.autograd.grad(value, V)[0]

    return bisect(slope, p["q"].amin(-1) - reach, p["q"].amax(-1) + reach)


def _log_mean_exp(
    p: Problem, temperature: float = 1.3, clip: float = 20.0, variant: Literal["corrected", "official"] = "corrected"
) -> ClaimReport:
    target = temperature * torch.logsumexp(p["b"].log() + p["q"] / temperature, -1)
    xql = minimiser(p, partial(gumbel, temperature=temperature, clip=clip, variant=variant), 1.0)
    kl = minimiser(p, partial(dual.dual_v, divergence="kl", lam=0.5, temperature=temperature), 1.0)
    return ClaimReport(worst((xql - target).abs(), (kl - target).abs()), 1e-8)


LOG_MEAN_EXP = Claim(
    paper=2,
    kind="theorem",
    statement="XQL is dual-V with a KL: both losses are minimal at V = T log E_b e^{Q/T}",
    problems=one_state,
    check=_log_mean_exp,
    twin=Twin("an unclipped exponent (cut at 0.2)", check=lambda p: _log_mean_exp(p, clip=0.2, variant="official")),
    source="derived",
    n=64,
)


def _quantile(p: Problem, level_is_lam: bool = False) -> ClaimReport:
    """P(q > V) <= (1 - lam) / lam <= P(q >= V) at the minimiser of the TV loss."""
    misses = []
    for lam in (0.55, 0.7, 0.9, 0.99):
        V = minimiser(p, partial(dual.dual_v, divergence="tv", lam=lam))
        above = (p["b"] * (p["q"] > V[:, None] + 1e-6)).sum(-1)
        at_least = (p["b"] * (p["q"] > V[:, None] - 1e-6)).sum(-1)
        tail = 1 - lam if level_is_lam else (1 - lam) / lam
        misses.append(torch.maximum(above - tail, tail - at_least))
    return ClaimReport(worst(*misses), 1e-9)


QUANTILE = Claim(
    paper=2,
    kind="theorem",
    statement="f-DVL with total variation: V is an exact quantile of Q, of level 2 - 1/lambda (lambda > 1/2)",
    problems=one_state,
    check=_quantile,
    twin=Twin("the level 2 - 1/lambda (lambda instead)", check=lambda p: _quantile(p, True)),
    source="derived",
    n=64,
)


def _implicit_maximum(p: Problem, divergence: str = "chi2", variant: dual.Variant = "corrected") -> ClaimReport:
    """V_lam grows with lam, never beyond max Q, and is within 0.1 of it at lam = 1 - 1e-5."""
    path = []
    for lam in (0.5, 0.7, 0.9, 0.99, 1 - 1e-5):
        path.append(minimiser(p, partial(dual.dual_v, divergence=divergence, lam=lam, variant=variant)))
    top = p["q"].amax(-1)
    falls = [a - b for a, b in itertools.pairwise(path)]
    return ClaimReport(worst(*falls, path[-1] - top, top - path[-1] - 0.1), 1e-6)


IMPLICIT_MAXIMUM = Claim(
    paper=2,
    kind="theorem",
    statement="dual-V is an implicit maximiser: V_lambda increases in lambda, to max Q over the data's support",
    problems=one_state,
    check=_implicit_maximum,
    twin=Twin(
        "f*_+ centred at the data's ratio (the literal loss)", check=lambda p: _implicit_maximum(p, variant="paper")
    ),
    source="derived",
    n=64,
)


def wide(rng: Rng, n: int) -> Problem:
    """Values spread over well more than 4: one poor action far below the others, and a spread top."""
    p = one_state(rng, n)
    return p | dict(b=0.5 * p["b"] + 0.5 / ACTIONS, q=40 * p["q"])


def _drift(p: Problem) -> ClaimReport:
    """The released chi2 loss at lam -> 1: V = mean Q + 2, more than 1 below max Q."""
    V = minimiser(p, partial(dual.dual_v, divergence="chi2", lam=1 - 1e-6, variant="official"), 4.0)
    return ClaimReport(1.0 - (p["q"].amax(-1) - V), 0.0)


OFFICIAL_DRIFT = Claim(
    paper=2,
    kind="counterexample",
    statement="the released chi2 loss max(y + y^2/4, 0) rises again below y = -4: with a wide spread of Q its V "
    "stays far "
    "below max Q however close lambda is to 1",
    problems=wide,
    check=_drift,
    source="derived",
    n=64,
)


def _constant_bias(p: Problem, lam: float = 0.9) -> ClaimReport:
    """On a constant Q the literal loss moves V by 2 (2 lam - 1)/lam at every backup (chi2, temperature 1)."""
    constant = p | dict(q=p["q"][:, :1].expand(-1, ACTIONS))
    V = minimiser(constant, partial(dual.dual_v, divergence="chi2", lam=lam, variant="paper"))
    return ClaimReport(1.0 - (V - p["q"][:, 0]).abs(), 0.0)


CONSTANT_BIAS = Claim(
    paper=2,
    kind="counterexample",
    statement="(1 - lambda) V + lambda f*_+(Q - V), taken literally with lambda = 0.9 and chi2, moves V away from a "
    "constant Q by 1.78 at every backup",
    problems=one_state,
    check=_constant_bias,
    source="derived",
    n=64,
)


def _extraction(p: Problem, temperature: float = 1.5, exponential: bool = False) -> ClaimReport:
    """pi = b w maximises E_pi q - T D_f(pi || b) over the simplex, w from the dual's minimiser."""
    results = []
    for name, f in (("kl", lambda w: torch.special.xlogy(w, w) - w + 1), ("chi2", lambda w: (w - 1).square())):
        V = minimiser(p, partial(dual.dual_v, divergence=name, temperature=temperature))[:, None]
        w = dual.dual_v_weight(V, p["q"], divergence=name, temperature=temperature)
        pi = torch.softmax(p["b"].log() + p["q"], -1) if exponential else p["b"] * w

        def value(pi: Tensor, f=f) -> Tensor:
            b = p["b"][:, None]
            return expect(pi, p["q"][:, None]) - temperature * (b * f(pi / b)).sum(-1)

        results += [(pi.sum(-1) - 1).abs(), regret(value, pi, p["rivals"])]
    return ClaimReport(worst(*results), 1e-7)


EXTRACTION = Claim(
    paper=2,
    kind="theorem",
    statement="pi = beta w*, w* = max(0, f'^{-1})((Q - V)/T) at the dual's minimiser, is the optimum of E_pi Q - T "
    "D_f(pi, beta)",
    problems=one_state,
    check=_extraction,
    twin=Twin("w* (AWR's e^{Q - V} instead)", check=lambda p: _extraction(p, exponential=True)),
    source="derived",
    n=64,
)


def _expectile(p: Problem, level: float = 0.9, as_quantile: bool = False) -> ClaimReport:
    """level E(q - V)_+ = (1 - level) E(V - q)_+, and V -> max as the level -> 1."""
    V = minimiser(p, partial(expectile, expectile=level), 1.0)[:, None]
    up, down = p["q"] - V, V - p["q"]
    if as_quantile:
        up, down = (up > 0).to(up), (down > 0).to(down)
    balance = level * expect(p["b"], up.clamp(min=0)) - (1 - level) * expect(p["b"], down.clamp(min=0))
    extreme = minimiser(p, partial(expectile, expectile=1 - 1e-9), 1.0)
    return ClaimReport(worst(balance.abs(), (p["q"].amax(-1) - extreme).abs() - 1e-3), 1e-8)


EXPECTILE = Claim(
    paper=136,
    kind="theorem",
    statement="the expectile of Q balances tau E(Q - V)_+ = (1 - tau) E(V - Q)_+ and tends to max Q as tau -> 1",
    problems=one_state,
    check=_expectile,
    twin=Twin("the sizes of the deviations (a quantile)", check=lambda p: _expectile(p, as_quantile=True)),
    source="derived",
    n=64,
)


def regularised(rng: Rng, n: int) -> Problem:
    mdp = garnet(rng, n, 5, 3, 3, 0.9)
    return dict(mdp=mdp, V=rng.normal(n, 5), behaviour=rng.simplex(n, 5, 3))


def _strong_duality(p: Problem, nonneg: bool = True, alpha: float = 0.2) -> ClaimReport:
    """Our dual loss at the solver's V against <d, r> - alpha D_f(d, ref), flow-feasibility of d, and weak duality at
    arbitrary V."""
    mdp, results = p["mdp"], []
    for name, f in (("kl", lambda w: torch.special.xlogy(w, w) - w + 1), ("chi2", lambda w: (w - 1).square())):
        answer = solve(mdp, "occupancy_dual", divergence=name, alpha=alpha, behaviour=p["behaviour"], tol=1e-10)
        d, ref = answer.occupancy, answer.extra["reference"]
        primal = (d * mdp.r).sum((-2, -1)) - alpha * (ref * f(d / ref)).sum((-2, -1))
        flow = d.sum(-1) - torch.einsum("nsat,nsa->nt", mdp.kernel, d) - mdp.mu0

        def value(V: Tensor, name=name, ref=ref) -> Tensor:
            residual = mdp.r + torch.einsum("nsat,nt->nsa", mdp.kernel, V) - V[..., None]
            loss = dual.residual_dual(residual, divergence=name, temperature=alpha, nonneg=nonneg)
            return (mdp.mu0 * V).sum(-1) + (ref * loss).sum((-2, -1))

        scale = 1 + primal.abs()
        results += [(value(answer.V) - primal).abs() / scale, flow.abs().amax(-1), (primal - value(p["V"])) / scale]
    return ClaimReport(worst(*results), 1e-8)


STRONG_DUALITY = Claim(
    paper=2,
    kind="theorem",
    statement="dual-V: min_V mu0 V + alpha E_ref f*_+((r + gamma P V - V)/alpha) = max over flow-feasible d >= 0 of "
    "<d, r> - alpha D_f(d, ref)",
    problems=regularised,
    check=_strong_duality,
    twin=Twin("w >= 0 in the conjugate", check=lambda p: _strong_duality(p, nonneg=False)),
    source="derived",
    n=32,
)


def _orthogonal(p: Problem, project: bool = True) -> ClaimReport:
    """d/dt of the forward loss along -(g_f + g_b projected) equals that along -g_f; a table V, chi2."""
    mdp, V0 = p["mdp"], p["V"]

    def loss(forward: bool, V: Tensor) -> Tensor:
        here, there = (V, V0) if forward else (V0, V)
        residual = mdp.r + torch.einsum("nsat,nt->nsa", mdp.kernel, there) - here[..., None]
        return dual.residual_dual(residual, divergence="chi2").sum((-2, -1))

    gradients = []
    for forward in (True, False):
        V = V0.clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(forward, V).sum(), V)[0])
    g_f, g_b = gradients
    rest = dual.orthogonal([g_b], [g_f])[0] if project else g_b
    scale = 1 + g_f.square().sum(-1) + (g_f * g_b).sum(-1).abs()
    return ClaimReport((g_f * rest).sum(-1).abs() / scale, 1e-10)


ORTHOGONAL = Claim(
    paper=72,
    kind="theorem",
    statement="ODICE: the projected backward gradient leaves the first-order decrease of the forward loss unchanged",
    problems=regularised,
    check=_orthogonal,
    twin=Twin("the projection", check=lambda p: _orthogonal(p, False)),
    source="derived",
    n=64,
)
