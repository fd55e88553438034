"""DICE: occupancies from value functions. OptiDICE, DemoDICE and SMODICE on exact populations.

`ref` (n, S, A) is any measure with full support, e = r + gamma P V - V, and d = ref w*(e / a) what a V makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.occupancies import (
    F,
    divergence,
    flow_error,
    newton,
    problems,
    residual,
    start,
    total,
)
from fenchel.theory.claims.tools import expect, worst
from fenchel.theory.mdp import replace_reward
from fenchel.theory.objectives import dual
from fenchel.theory.rng import Rng

WEIGHT = 0.5


def above(p: Problem) -> Tensor:
    """A V with e < 0 at every pair, where every dual loss is finite."""
    return torch.full_like(p["V"], 10.5) * p["mdp"].r.abs().amax((-2, -1))[:, None]


def program(p: Problem, V: Tensor, name: str, initial: float = 1.0, **options) -> Tensor:
    """(1 - gamma) E V(s0) + E_ref of our dual loss, (n,)."""
    loss = dual.residual_dual(residual(p["mdp"], V), divergence=name, temperature=WEIGHT, **options)
    return initial * expect(start(p["mdp"]), V) + total(p["ref"] * loss)


def _flow(p: Problem, names: Sequence[str] = tuple(F), initial: float = 1.0) -> ClaimReport:
    """d = ref times the slope of our loss in e, at our loss's minimum."""
    mdp, results = p["mdp"], []
    for name in names:
        V = newton(partial(program, p, name=name, initial=initial), above(p))
        e = residual(mdp, V).requires_grad_()
        loss = dual.residual_dual(e, divergence=name, temperature=WEIGHT)
        w = torch.autograd.grad(loss.sum(), e)[0]
        closed = F[name][2](e.detach() / WEIGHT)
        results += [flow_error(mdp, p["ref"] * w), (w - closed).abs().amax((-2, -1)) / (1 + closed.amax((-2, -1)))]
    return ClaimReport(worst(*results), 1e-8)


FLOW = Claim(
    paper=2,
    kind="theorem",
    statement="at the minimum d = ref w*(e / a), w* = max(0, (f')^{-1}), is an occupancy for every divergence: sum_a "
    "d(s, a) = (1 - gamma) mu0(s) + gamma sum P d",
    problems=problems,
    check=_flow,
    twin=Twin("the initial term (1 - gamma) E V(s0)", check=lambda p: _flow(p, ("kl",), 0.0)),
    source="derived",
    n=32,
)


def _optidice(p: Problem, shifted: bool = True) -> ClaimReport:
    """Value and weights at the minimum over V and m, along the line of minimisers, and at other V and m."""
    mdp, results = p["mdp"], []
    for name in ("kl", "chi2", "soft_chi2"):

        def value(V: Tensor, m: Tensor, name=name) -> Tensor:
            e, m = residual(mdp, V), m[:, None, None]
            loss = dual.normalised_dual(e, m, divergence=name, temperature=WEIGHT)
            return expect(start(mdp), V) + total(p["ref"] * (loss if shifted else loss - m))

        V = newton(partial(program, p, name=name), above(p))
        w = F[name][2](residual(mdp, V) / WEIGHT)
        d = p["ref"] * w
        primal = total(d * mdp.r) - WEIGHT * divergence(name, d.clamp(min=0), p["ref"])
        along = [value(V - m[:, None] / (1 - mdp.discount[:, 0, :1]), m) for m in (0 * p["m"], p["m"])]
        results += [(total(d) - 1).abs(), *((x - primal).abs() for x in along), primal - value(p["V"], p["m"])]
    return ClaimReport(worst(*results), 1e-8)


OPTIDICE = Claim(
    paper=2,
    kind="theorem",
    statement="OptiDICE: min over V, m of (1 - gamma) E V(s0) + a E_ref f*_+((e - m)/a) + m is max E_d r - a D_f(d || "
    "ref), at d = ref max(0, (f')^{-1})((e - m)/a), E_ref w = 1; with exact flow any m attains it",
    problems=lambda rng, n: problems(rng, n) | dict(m=rng.normal(n)),
    check=_optidice,
    twin=Twin("the term m", check=lambda p: _optidice(p, False)),
    source="derived",
    n=32,
)


def _donsker_varadhan(p: Problem, same: bool = True) -> ClaimReport:
    """Our log-mean-exp of weighted pairs, at any V plus a constant, against the kl program's value."""
    mdp, a = p["mdp"], WEIGHT
    V = newton(lambda V: program(p, V, "kl"), above(p))
    d = p["ref"] * (residual(mdp, V) / a).exp()
    primal = total(d * mdp.r) - a * divergence("kl", d, p["ref"])

    def value(V: Tensor) -> Tensor:
        e, ref = residual(mdp, V).flatten(1), p["ref"].flatten(1)
        weighted = e + a * (ref * ref.shape[-1]).log()  # donsker_varadhan weighs its rows equally
        return expect(start(mdp), V) + dual.donsker_varadhan(weighted, temperature=a if same else 1.0)[:, 0]

    e = residual(mdp, p["V"])
    m = a * torch.logsumexp((p["ref"].log() + e / a).flatten(1), -1)
    fixed = expect(start(mdp), p["V"]) + total(
        p["ref"] * dual.normalised_dual(e, m[:, None, None], divergence="kl", temperature=a)
    )
    shifts = [(value(V + shift) - primal).abs() for shift in (0.0, 3.0)]
    return ClaimReport(worst(*shifts, (fixed - value(p["V"])).abs(), primal - value(p["V"])), 1e-8)


DONSKER_VARADHAN = Claim(
    paper=2,
    kind="theorem",
    statement="DemoDICE's (1 - gamma) E V(s0) + a log E_ref e^{e/a} is, at every V, OptiDICE's kl dual minimised over "
    "m; constants added to V do not change it; its minimum is max E_d r - a KL(d || ref)",
    problems=problems,
    check=_donsker_varadhan,
    twin=Twin("the weight a inside (1 instead)", check=lambda p: _donsker_varadhan(p, False)),
    source="derived",
    n=64,
)


def poor_actions(rng: Rng, n: int) -> Problem:
    """Action 0 costs 10 everywhere."""
    p = problems(rng, n)
    r = p["mdp"].r.clone()
    r[..., 0] = -10.0
    return p | dict(mdp=replace_reward(p["mdp"], r))


def _signed(p: Problem) -> ClaimReport:
    """The released chi2 loss e^2/2 + e at its minimum (a linear system): a flow with negative entries, worth more than
    any occupancy; what the policy's weights max(e + 1, 0) keep of it is no flow."""
    mdp = p["mdp"]
    V = newton(lambda V: program(p, V, "chi2", nonneg=False), p["V"])  # a = 1/2 is the released scale
    w = 1 + residual(mdp, V)
    d = p["ref"] * w
    positive = newton(lambda V: program(p, V, "chi2"), above(p))
    excess = program(p, V, "chi2", nonneg=False) - program(p, positive, "chi2")
    kept = flow_error(mdp, p["ref"] * w.clamp(min=0))
    violations = torch.stack([-d.amin((-2, -1)), excess, kept]).amin(0)
    return ClaimReport(torch.where(flow_error(mdp, d) < 1e-8, 1e-2 - violations, torch.inf), 0.0)


SIGNED = Claim(
    paper=2,
    kind="counterexample",
    statement="SMODICE's released chi2 loss lacks w >= 0: with a poor action its optimum is a signed flow, d(s, a) < "
    "-0.01 somewhere, worth more than every occupancy, and the policy's weights max(e + 1, 0) fit no flow",
    problems=poor_actions,
    check=_signed,
    source="derived",
    n=32,
)
