"""ODICE: what the true, the semi- and the orthogonal gradient hold a value function to.

    minimise (1 - lam) E_D V(s) + lam E_D f*(y),  y = r + gamma V(s') - V(s),  over transitions D(s, a, s') = ref P

by g_lin + g_f + g_b (true), g_lin + g_f (semi), g_lin + g_f + eta g_b^perp (orthogonal); g_f is the gradient through
V(s), g_b through V(s'), perp its part orthogonal to g_f. With d = D w*(y), out(s) the sum of d over transitions from s,
into(s') gamma times that over transitions into s', and k = (1 - lam) / lam, a table's updates are lam times

    true  k D(s) + into - out      semi  k D(s) - out      orthogonal  k D(s) + eta (into - c out) - out,

c = <into, out> / |out|^2 >= 0. Their zeros are found here from these forms, and judged by our losses' gradients.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.occupancies import F, problems, root
from fenchel.theory.claims.tools import expect, worst
from fenchel.theory.objectives import dual
from fenchel.theory.rng import Rng

LAM, ETA = 0.6, 0.7
SHARE = (1 - LAM) / LAM
NAMES = ("kl", "chi2", "soft_chi2")
Kind = Literal["true", "semi", "orthogonal"]


def transitions(rng: Rng, n: int) -> Problem:
    p = problems(rng, n)
    return dict(mdp=p["mdp"], ref=p["ref"], V=p["V"], data=p["ref"].sum(-1))


def update(p: Problem, V: Tensor, name: str, kind: Kind) -> Tensor:
    """The direction (n, S) that our losses move a table V against."""
    mdp, V = p["mdp"], V.detach().requires_grad_()
    D = p["ref"][..., None] * mdp.P
    now, then = V[:, :, None, None].expand_as(D), V[:, None, None, :].expand_as(D)
    reward, discount = mdp.r[..., None].expand_as(D), mdp.discount[..., None].expand_as(D)

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad((D * loss).sum(), V, retain_graph=True)[0]

    forward = dual.forward_residual(now, then, reward, discount)
    if kind != "orthogonal":
        y = reward + discount * then - now if kind == "true" else forward
        return gradient(dual.odice_value(now, y, lam=LAM, divergence=name))
    backward = dual.backward_residual(now, then, reward, discount)
    g_f, g_b = (gradient(LAM * dual.residual_dual(y, divergence=name)) for y in (forward, backward))
    return gradient((1 - LAM) * now) + g_f + ETA * dual.orthogonal([g_b], [g_f])[0]


def flows(p: Problem, V: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """out and into, (n, S)."""
    mdp = p["mdp"]
    y = mdp.r[..., None] + mdp.discount[..., None] * V[:, None, None, :] - V[:, :, None, None]
    d = p["ref"][..., None] * mdp.P * F[name][2](y)
    return d.sum((-2, -1)), (mdp.discount[..., None] * d).sum((1, 2))


def cosine_weight(out: Tensor, into: Tensor) -> Tensor:
    """c = <into, out> / |out|^2, (n, 1)."""
    return (expect(into, out) / out.square().sum(-1))[:, None]


def own_update(p: Problem, V: Tensor, name: str, kind: Kind) -> Tensor:
    out, into = flows(p, V, name)
    if kind == "orthogonal":
        into = ETA * (into - cosine_weight(out, into) * out)
    return SHARE * p["data"] - out + (0 if kind == "semi" else into)


def zero(p: Problem, name: str, kind: Kind) -> Tensor:
    """V where an update is zero: first the semi-gradient's, from so low a V that every weight is positive (out - k D is
    convex and falls with V, so that Newton's steps rise to its zero), then `kind`'s."""
    mdp = p["mdp"]
    low = -(1 + mdp.r.abs().amax((-2, -1))) / (1 - mdp.discount.amax((-2, -1)))
    V = root(lambda V: own_update(p, V, name, "semi"), low[:, None].expand_as(p["V"]))
    return V if kind == "semi" else root(lambda V: own_update(p, V, name, kind), V)


def _fixed_point(p: Problem, kind: Kind, asked: Kind) -> ClaimReport:
    """Our update at the zero of `kind` and its form elsewhere; the flow that `asked` says the zero satisfies."""
    results = []
    for name in NAMES:
        V = zero(p, name, kind)
        out, into = flows(p, V, name)
        elsewhere = update(p, p["V"], name, kind) / LAM - own_update(p, p["V"], name, kind)
        results += [update(p, V, name, kind).abs().amax(-1), elsewhere.abs().amax(-1)]
        if asked == "semi":
            law = SHARE * p["data"]
        elif asked == "true":
            law = SHARE * p["data"] + into
        else:
            law = (SHARE * p["data"] + ETA * into) / (1 + ETA * cosine_weight(out, into))
            results.append((out.square().sum(-1) - SHARE * expect(p["data"], out)).abs())
        results.append((out - law).abs().amax(-1))
    return ClaimReport(worst(*results), 1e-7)


TRUE_GRADIENT = Claim(
    paper=72,
    kind="theorem",
    statement="DICE's true gradient is zero where d = D w* is a Bellman flow from the data's states: sum_a d(s, a) = "
    "D(s) (1 - lam)/lam + gamma sum P d",
    problems=transitions,
    check=lambda p: _fixed_point(p, "true", "true"),
    twin=Twin("the backward gradient", check=lambda p: _fixed_point(p, "semi", "true")),
    source="derived",
    n=16,
)

SEMI_GRADIENT = Claim(
    paper=72,
    kind="theorem",
    statement="the semi-gradient is zero where E[w* | s] = (1 - lam)/lam at every state: the weights change actions, "
    "and leave the data's states as they are",
    problems=transitions,
    check=lambda p: _fixed_point(p, "semi", "semi"),
    twin=Twin("a frozen V(s') (the true gradient)", check=lambda p: _fixed_point(p, "true", "semi")),
    source="derived",
    n=16,
)

STATE_LEVEL = Claim(
    paper=72,
    kind="theorem",
    statement="ODICE's orthogonal gradient is zero where d is a Bellman flow of a shorter horizon: sum_a d(s, a) = "
    "(D(s) (1 - lam)/lam + eta gamma sum P d) / (1 + eta c), c = <into, out>/|out|^2 >= 0",
    problems=transitions,
    check=lambda p: _fixed_point(p, "orthogonal", "orthogonal"),
    twin=Twin("the factor 1/(1 + eta c)", check=lambda p: _fixed_point(p, "orthogonal", "true")),
    source="derived",
    n=16,
)
