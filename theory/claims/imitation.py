"""Imitation without ReCOIL's mixture: DemoDICE, SMODICE, LobsDICE and IQ-Learn on exact populations.

Problems as in `recoil`: an `expert`'s measure and an `offline` one over pairs (n, S, A).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.occupancies import (
    F,
    divergence,
    flow_error,
    newton,
    occupancy,
    residual,
    start,
    total,
)
from fenchel.theory.claims.recoil import demonstrations, visited
from fenchel.theory.claims.tools import entropy, expect, kl, worst
from fenchel.theory.instances.generated import dense
from fenchel.theory.objectives import dual
from fenchel.theory.rng import Rng


def kl_dual(p: Problem, V: Tensor, reward: Tensor, weight: Tensor | float) -> Tensor:
    """Our kl dual against the offline measure, (n,)."""
    loss = dual.residual_dual(residual(p["mdp"], V, reward), divergence="kl", temperature=weight)
    return expect(start(p["mdp"]), V) + total(p["offline"] * loss)


def _demodice(p: Problem, weight: float = 1.0) -> ClaimReport:
    """-KL(d, expert) - a KL(d, offline) at the minimum of our kl dual and at the occupancy of a policy; a = b."""
    mdp, a, ratio = p["mdp"], p["b"][:, None, None], (p["expert"] / p["offline"]).log()

    def value(V: Tensor) -> Tensor:
        return kl_dual(p, V, ratio, weight + a)

    def imitates(d: Tensor) -> Tensor:
        return -divergence("kl", d, p["expert"]) - p["b"] * divergence("kl", d, p["offline"])

    V = newton(value, torch.full_like(p["V"], 60.0))
    d = p["offline"] * (residual(mdp, V, ratio) / (weight + a)).exp()
    rival = imitates(occupancy(mdp, p["policy"])) - value(V)
    return ClaimReport(worst(flow_error(mdp, d), (imitates(d) - value(V)).abs(), rival), 1e-8)


DEMODICE = Claim(
    paper=2,
    kind="theorem",
    statement="DemoDICE: -KL(d, expert) - a KL(d, offline) = E_d log(expert/offline) - (1 + a) KL(d, offline); its "
    "largest value is the kl dual's minimum with that reward and weight 1 + a",
    problems=demonstrations,
    check=_demodice,
    twin=Twin("the 1 of the weight 1 + a (a + 2 instead)", check=lambda p: _demodice(p, 2.0)),
    source="derived",
    n=64,
)


def _smodice(p: Problem, conditional: bool = True) -> ClaimReport:
    """-KL of state marginals at the dual's optimum and at a policy's occupancy, against the dual's value."""
    mdp, expert = p["mdp"], p["expert"].sum(-1)
    own = p["offline"].sum(-1)
    ratio = (expert / own).log()[..., None].expand_as(mdp.r)

    V = newton(lambda V: kl_dual(p, V, ratio, 1.0), torch.full_like(p["V"], 60.0))
    value = kl_dual(p, V, ratio, 1.0)
    best = p["offline"] * residual(mdp, V, ratio).exp()
    results = [flow_error(mdp, best)]
    for d in (best, occupancy(mdp, p["policy"])):
        states = d.sum(-1)
        actions = total(d * (d / states[..., None] / (p["offline"] / own[..., None])).log())
        bound = total(d * ratio) - divergence("kl", d, p["offline"])
        results += [(-kl(states, expert) - bound - conditional * actions).abs(), bound - value]
    attained = total(best * ratio) - divergence("kl", best, p["offline"])
    return ClaimReport(worst(*results, (value - attained).abs()), 1e-8)


SMODICE = Claim(
    paper=2,
    kind="theorem",
    statement="SMODICE's dual is a lower bound: -KL(d(s), expert(s)) = E_d log(expert(s)/offline(s)) - KL(d, offline) "
    "+ E_d KL(pi, offline's policy)",
    problems=demonstrations,
    check=_smodice,
    twin=Twin("the term E_d KL(pi, offline's policy)", check=lambda p: _smodice(p, False)),
    source="derived",
    n=64,
)


def pairs_of_states(rng: Rng, n: int) -> Problem:
    """Three states, all of which follow each other; the expert's measure is over (s, s')."""
    mdp = dense(rng, n, 3, 2)
    offline = (0.8 * rng.simplex(n, 6) + 0.2 / 6).unflatten(-1, (3, 2))
    expert = (0.8 * rng.simplex(n, 9) + 0.2 / 9).unflatten(-1, (3, 3))
    policy = 0.8 * rng.simplex(n, 3, 2) + 0.1
    return dict(mdp=mdp, offline=offline, expert=expert, policy=policy, a=rng.uniform(n, low=0.3, high=2.0))


def weighted(e: Tensor, law: Tensor, weight: Tensor) -> Tensor:
    """Our a log E_law exp(e / a): `donsker_varadhan` weighs its rows equally. (n, k), (n, k), (n, 1) -> (n,)."""
    return dual.donsker_varadhan(e + weight * (law * law.shape[-1]).log(), temperature=weight)[:, 0]


def _lobsdice(p: Problem, scale: float = 1.0) -> ClaimReport:
    """Our two log-mean-exps at their minimum over V and y(s, s'), both free of constants and so pinned to 0 at one
    entry, and the primal value of what they imply."""
    mdp, a = p["mdp"], p["a"]

    def residuals(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero = torch.zeros_like(x[:, :1])
        V, y = torch.cat([zero, x[:, :2]], 1), torch.cat([zero, x[:, 2:]], 1)
        reward = -torch.einsum("nsat,nst->nsa", mdp.P, y.unflatten(-1, (3, 3)))
        return V, y, residual(mdp, V, reward).flatten(1)

    def value(x: Tensor) -> Tensor:
        V, y, e = residuals(x)
        pairs = weighted(y, p["expert"].flatten(1), torch.ones_like(a)[:, None])
        return expect(start(mdp), V) + pairs + weighted(e, p["offline"].flatten(1), scale * a[:, None])

    def imitates(d: Tensor) -> Tensor:
        pairs = torch.einsum("nsa,nsat->nst", d, mdp.P)
        return -kl(pairs.flatten(1), p["expert"].flatten(1)) - a * divergence("kl", d, p["offline"])

    x = newton(value, torch.zeros(len(a), 10).to(a))
    law = p["offline"].flatten(1).log() + residuals(x)[2] / (scale * a[:, None])
    d = torch.softmax(law, -1).view_as(p["offline"])
    rival = imitates(occupancy(mdp, p["policy"])) - value(x)
    return ClaimReport(worst(flow_error(mdp, d), (imitates(d) - value(x)).abs(), rival), 1e-7)


LOBSDICE = Claim(
    paper=2,
    kind="theorem",
    statement="LobsDICE: max over occupancies of -KL(d(s, s'), expert(s, s')) - a KL(d, offline) = min over V, y(s, "
    "s') of (1 - gamma) E V(s0) + log E_expert e^y + a log E_offline e^{(gamma P V - V - E y)/a}",
    problems=pairs_of_states,
    check=_lobsdice,
    twin=Twin("the weight a of the second term (2a)", check=lambda p: _lobsdice(p, 2.0)),
    source="derived",
    n=16,
)


def _iq_learn(p: Problem, temperature: float = 0.3, soft: float = 1.0) -> ClaimReport:
    """Q at the minimum of our dual-Q without reward for the soft policy, V = T log sum e^{Q/T}: the flow it implies is
    that policy's, and the expert's up to what the entropy buys."""
    mdp, expert, results = p["mdp"], p["expert"], []
    for name in ("chi2", "kl"):

        def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            Q = x.view_as(p["Q"])
            V = temperature * torch.logsumexp(Q / temperature, -1)
            return Q, V, torch.einsum("nsat,nt->nsa", mdp.kernel, V) - Q

        def value(x: Tensor, name=name) -> Tensor:
            _, V, e = parts(x)
            return expect(start(mdp), V) + total(expert * dual.residual_dual(e, divergence=name))

        x = newton(value, 0 * p["Q"].flatten(1))
        Q, _, e = parts(x)
        d = expert * F[name][2](e)
        policy = torch.softmax(soft * Q / temperature, -1)
        gained = temperature * (expect(d.sum(-1), entropy(policy)) - expect(expert.sum(-1), entropy(p["policy"])))
        distance = divergence(name, d, expert)
        results += [(d - occupancy(mdp, policy)).abs().amax((-2, -1)), distance - gained]
        results.append((value(x) - temperature * expect(d.sum(-1), entropy(policy)) + distance).abs())
    return ClaimReport(worst(*results), 1e-8)


IQ_LEARN = Claim(
    paper=2,
    kind="theorem",
    statement="IQ-Learn, dual-Q with r = 0 and V = T log sum e^{Q/T}: expert w* is the occupancy of softmax(Q/T), the "
    "optimum of -D_f(d || expert) + T H(pi), so that D_f(d || expert) <= T (H(pi) - H(expert)): exact as T -> 0",
    problems=visited,
    check=_iq_learn,
    twin=Twin("the temperature of the policy (half of it)", check=lambda p: _iq_learn(p, soft=2.0)),
    source="derived",
    n=32,
)
