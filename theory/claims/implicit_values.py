"""What the released value losses converge to, and what a temperature, a clip or a calibration changes.

One-state problems as in `dual_rl`: actions drawn from `b` (n, A) with values `q` (n, A).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.dual_rl import ACTIONS, Loss, minimiser, one_state
from fenchel.theory.claims.tools import bisect, expect, worst
from fenchel.theory.objectives import dual
from fenchel.theory.objectives.value import cql_penalty, gumbel, td
from fenchel.theory.rng import Rng


def spread(rng: Rng, n: int) -> Problem:
    """Ranges of Q from below 1 to about 100."""
    p = one_state(rng, n)
    return p | dict(q=p["q"] * torch.exp(rng.uniform(n, 1, low=-2.0, high=3.0)))


def _released_chi2(p: Problem, largest: bool = False) -> ClaimReport:
    """V against max Q, or against the optimality condition of max(y + y^2/4, 0), y = Q - V: E[y + 2; y > 0 or y < -4]
    is >= 0 just below V and <= 0 just above, which differ if an action stands at V or V - 4."""
    V = minimiser(p, partial(dual.dual_v, divergence="chi2", lam=1 - 1e-7, variant="official"), 4.0)[:, None]
    y, top, eps = p["q"] - V, p["q"].amax(-1), 1e-6
    push = p["b"] * (y + 2)
    before = (push * ((y > -eps) | (y < -4 - eps))).sum(-1)
    after = (push * ((y > eps) | (y < -4 + eps))).sum(-1)
    balance = torch.maximum(-before, after)
    narrow = top - p["q"].amin(-1) <= 4
    if largest:
        narrow = torch.ones_like(narrow)
    return ClaimReport(torch.where(narrow, (V[:, 0] - top).abs(), worst(balance, V[:, 0] - top)), 1e-5)


RELEASED_CHI2 = Claim(
    paper=2,
    kind="theorem",
    statement="the released f-DVL chi2 loss, lambda -> 1: V = max Q while Q spans at most 4; beyond, V < max Q "
    "balances E[Q - V + 2; Q > V or Q < V - 4] = 0, so that V = E Q + 2 if no Q lies in [V - 4, V]",
    problems=spread,
    check=_released_chi2,
    twin=Twin("a span of at most 4", check=lambda p: _released_chi2(p, True)),
    source="derived",
    n=128,
)


def _slope(p: Problem, loss: Loss, V: Tensor) -> Tensor:
    """d/dV E_b loss(V, q), (n,)."""
    with torch.enable_grad():
        V = V.detach().requires_grad_()
        return torch.autograd.grad((p["b"] * loss(V[:, None].expand_as(p["q"]), p["q"])).sum(), V)[0]


def _released_xql(p: Problem, temperature: float = 0.7, clip: float = 3.0, drops: bool = True) -> ClaimReport:
    """A zero of the slope from below to above, found by bisection, and the slope at very low V."""
    loss = partial(gumbel, temperature=temperature, clip=clip, variant="official")
    lowest, reach = p["q"].amin(-1), clip * temperature
    flat = _slope(p, loss, lowest - reach - 1)
    V = bisect(lambda V: _slope(p, loss, V), lowest - reach + 1e-3, p["q"].amax(-1) + 1)
    kept = (p["q"] < V[:, None] + reach) if drops else torch.ones_like(p["q"], dtype=torch.bool)
    law = torch.where(kept, p["b"].log(), -math.inf)
    target = temperature * torch.logsumexp(law.log_softmax(-1) + p["q"] / temperature, -1)
    exact = temperature * torch.logsumexp(p["b"].log() + p["q"] / temperature, -1)
    return ClaimReport(worst(flat.abs(), (V - target).abs(), V - exact), 1e-8)


RELEASED_XQL = Claim(
    paper=2,
    kind="theorem",
    statement="XQL with its exponent cut at c stops at V = T log E[e^{Q/T} | Q < V + c T], at most the log-mean-exp, "
    "and nothing moves it from V < min Q - c T",
    problems=spread,
    check=_released_xql,
    twin=Twin("the actions above V + c T that are left out", check=lambda p: _released_xql(p, drops=False)),
    source="derived",
    n=128,
)


def _tangent(p: Problem, temperature: float = 0.7, clip: float = 4.2) -> ClaimReport:
    """E min(e^z, e^c) = 1 at our minimiser, which is exact as soon as no action is rarer than e^-c."""
    V = minimiser(p, partial(gumbel, temperature=temperature, clip=clip), clip * temperature + 1)
    z = (p["q"] - V[:, None]) / temperature
    exact = temperature * torch.logsumexp(p["b"].log() + p["q"] / temperature, -1)
    return ClaimReport(worst((expect(p["b"], z.clamp(max=clip).exp()) - 1).abs(), (V - exact).abs()), 1e-8)


TANGENT = Claim(
    paper=2,
    kind="theorem",
    statement="with the exponential's tangent above z = c the minimiser solves E min(e^z, e^c) = 1, and is exactly T "
    "log E e^{Q/T} as soon as no action is rarer than e^-c",
    problems=spread,  # probabilities are at least 0.1 / 6 > e^-4.2
    check=_tangent,
    twin=Twin("actions of probability at least e^-c (c = 1)", check=lambda p: _tangent(p, clip=1.0)),
    source="derived",
    n=128,
)


def _temperature(p: Problem, price: float = 1.0) -> ClaimReport:
    """Omega_T, twice the minimum of dual-V at lam = 1/2, (n, 5): T from 0.03 to 300."""
    T = torch.tensor([0.03, 0.3, 3.0, 30.0, 300.0]).to(p["q"])
    rows = {name: p[name].repeat_interleave(len(T), 0) for name in ("b", "q")}
    top, mean = p["q"].amax(-1, keepdim=True), expect(p["b"], p["q"])[:, None]
    rarity = 1 / p["b"].gather(-1, p["q"].argmax(-1, keepdim=True))
    span, variance = top - p["q"].amin(-1, keepdim=True), expect(p["b"], (p["q"] - mean).square())[:, None]
    results = []
    for name in ("kl", "chi2"):
        loss = partial(dual.dual_v, divergence=name, temperature=T.repeat(len(p["q"]))[:, None])
        V = minimiser(rows, loss, 601.0)[:, None].expand_as(rows["q"])
        omega = 2 * expect(rows["b"], loss(V, rows["q"])).unflatten(0, (-1, len(T)))
        distance = rarity.log() if name == "kl" else rarity - 1  # D(best action, b)
        above = span.square() / (8 * T) if name == "kl" else variance / (4 * T)
        bounds = [omega - top, top - price * T * distance - omega, mean - omega, omega - mean - above]
        results += [(bound / (1 + span)).amax(-1) for bound in [*bounds, omega.diff()]]
    return ClaimReport(worst(*results), 1e-9)


TEMPERATURE = Claim(
    paper=2,
    kind="theorem",
    statement="dual-V's regularised maximum falls with T from max Q to E Q: it is within T log(1/b*) (kl), T (1/b* - "
    "1) (chi2) of max Q, b* the best action's probability, and within range^2/8T, Var/4T of E Q",
    problems=one_state,
    check=_temperature,
    twin=Twin("the price T D(best action, b)", check=lambda p: _temperature(p, 0.0)),
    source="derived",
    n=64,
)


def calibration(rng: Rng, n: int) -> Problem:
    """Critics at `Q` with backups q, a reference value `floor`, and a penalty's weight."""
    p = one_state(rng, n)
    return p | dict(Q=2 * rng.normal(n, ACTIONS), floor=rng.normal(n, 1), weight=rng.uniform(n, 1, low=0.1, high=5.0))


def _calibrated(p: Problem, calibrate: bool = True) -> ClaimReport:
    """The gradient of weight * E_b penalty + E_b (Q - y)^2 where Q < V and Q < y + weight / 2."""
    Q, weight = p["Q"].clone().requires_grad_(), p["weight"]
    sampled = torch.maximum(Q, p["floor"]) if calibrate else Q
    penalty = weight * cql_penalty(sampled[:, None].expand(-1, ACTIONS, -1), Q)
    (slope,) = torch.autograd.grad((p["b"] * (penalty + td(Q, p["q"]))).sum(), Q)
    low = p["Q"] < torch.minimum(p["floor"], p["q"] + weight / 2)
    up = p["b"] * (weight + 2 * (p["q"] - p["Q"]))  # what the data's own pull and the error leave
    return ClaimReport(torch.where(low, worst(slope, (slope + up).abs()), -1.0).amax(-1), 1e-12)


CALIBRATED = Claim(
    paper=102,
    kind="theorem",
    statement="Cal-QL, the start of WSRL: with max(Q, V_mu) in the penalty an action with Q < min(V_mu, y + alpha/2), "
    "y its backup, is pushed up, so that no stationary Q lies below that minimum",
    problems=calibration,
    check=_calibrated,
    twin=Twin("the calibration max(Q, V_mu)", check=lambda p: _calibrated(p, False)),
    source="derived",
)
