"""Small models with a closed form: what an estimator, a step or a bound must equal on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import entropy, expect, worst
from fenchel.theory.objectives.value import two_hot
from fenchel.theory.rng import Rng


def gaussians(rng: Rng, n: int) -> Problem:
    x = rng.normal(n, 3, 3)
    return dict(
        cov=x @ x.mT + 0.2 * torch.eye(3).to(x), g=rng.normal(n, 3), other=rng.normal(n, 16, 3), d=rng.uniform(n)
    )


def _closed_form(p: Problem, shaped: bool = True) -> ClaimReport:
    """Feasibility of the step and no feasible rival with a larger linear value (mean 0)."""
    direction = torch.einsum("nij,nj->ni", p["cov"], p["g"]) if shaped else p["g"]
    inverse = torch.linalg.inv(p["cov"])

    def distance(a: Tensor) -> Tensor:
        return torch.einsum("n...i,nij,n...j->n...", a, inverse, a) / 2

    step = direction * (p["d"] / distance(direction)).sqrt()[:, None]
    rivals = p["other"] * (p["d"][:, None] / distance(p["other"])).sqrt()[..., None]
    near = step[:, None] + 0.05 * rivals
    near = near * (p["d"][:, None] / distance(near)).sqrt()[..., None]
    gain = torch.einsum("nki,ni->nk", torch.cat([rivals, near], 1), p["g"]).amax(-1) - (step * p["g"]).sum(-1)
    return ClaimReport(gain, 1e-10)


CLOSED_FORM = Claim(
    paper=267,
    kind="theorem",
    statement="CFPI: mu + sqrt(2 delta / g'Sg) S g maximises the linearised Q over the Gaussian's KL ball of size "
    "delta",
    problems=gaussians,
    check=_closed_form,
    twin=Twin("the covariance S in the direction", check=lambda p: _closed_form(p, False)),
    source="derived",
)


def supported(rng: Rng, n: int) -> Problem:
    return dict(y=rng.uniform(n, 4, low=-9.9, high=9.9))


def _two_hot(p: Problem, rounded: bool = False) -> ClaimReport:
    """The mean of the two-hot encoding of y over 21 atoms in [-10, 10]; at most two atoms carry mass."""
    support = torch.linspace(-10, 10, 21, dtype=p["y"].dtype, device=p["y"].device)
    weights = two_hot(p["y"].round() if rounded else p["y"], support)
    mean = ((weights * support).sum(-1) - p["y"]).abs().amax(-1)
    return ClaimReport(worst(mean, ((weights > 0).sum(-1).amax(-1) - 2).to(mean)), 1e-9)


TWO_HOT = Claim(
    paper=124,
    kind="theorem",
    statement="the two-hot encoding of a number inside the support has exactly that mean, on at most two atoms",
    problems=supported,
    check=_two_hot,
    twin=Twin("the shares between neighbours (the nearest atom)", check=lambda p: _two_hot(p, True)),
    source="derived",
)


def channels(rng: Rng, n: int) -> Problem:
    """A source of four actions, transitions to five states, and any decoder q(a | z')."""
    return dict(pi=rng.simplex(n, 4), T=rng.simplex(n, 4, 5), q=rng.simplex(n, 5, 4))


def _empowerment(p: Problem, unnormalised: bool = False) -> ClaimReport:
    """E[log q(a|z') - log pi(a)] <= I(a; z'), with equality at the posterior."""
    joint = p["pi"][..., None] * p["T"]
    marginal = joint.sum(1)
    information = entropy(marginal) - expect(p["pi"], entropy(p["T"]))
    decoder = (3 * p["q"] if unnormalised else p["q"]).mT
    bound = (joint * (decoder.log() - p["pi"].log()[..., None])).sum((1, 2))
    posterior = joint / marginal[:, None]
    tight = (joint * (posterior.log() - p["pi"].log()[..., None])).sum((1, 2))
    return ClaimReport(worst(bound - information, (tight - information).abs()), 1e-12)


EMPOWERMENT = Claim(
    paper=145,
    kind="theorem",
    statement="InfoPower: E[log q(a|z,z') - log pi(a|z)] <= I(a; z'|z) with equality iff q is the posterior",
    problems=channels,
    check=_empowerment,
    twin=Twin("a normalised decoder q", check=lambda p: _empowerment(p, True)),
    source="derived",
)


def causal(rng: Rng, n: int) -> Problem:
    """Z -> X, Z -> Y, X -> Y, all binary."""
    return dict(z=rng.simplex(n, 2), x=rng.simplex(n, 2, 2), y=rng.simplex(n, 2, 2, 2))


def _intervention(p: Problem, adjusted: bool = True) -> ClaimReport:
    """P(Y | do(X = 1)) by the mutilated graph's joint law and by adjustment from the observed joint law alone."""
    joint = p["z"][:, :, None, None] * p["x"][:, :, :, None] * p["y"]  # (n, Z, X, Y)
    mutilated = torch.einsum("nz,nzy->ny", p["z"], p["y"][:, :, 1])
    given = joint[:, :, 1] / joint[:, :, 1].sum(-1, keepdim=True)
    weight = joint.sum((2, 3)) if adjusted else joint[:, :, 1].sum(-1) / joint[:, :, 1].sum((1, 2))[:, None]
    return ClaimReport((torch.einsum("nz,nzy->ny", weight, given) - mutilated).abs().amax(-1), 1e-12)


INTERVENTION = Claim(
    paper=149,
    kind="theorem",
    statement="the truncated factorisation P(Y|do(X)) equals back-door adjustment sum_z P(z) P(Y|X, z)",
    problems=causal,
    check=_intervention,
    twin=Twin("adjustment by P(z) (conditioning instead)", check=lambda p: _intervention(p, False)),
    source="derived",
)


def crowds(rng: Rng, n: int) -> Problem:
    return dict(m=rng.uniform(n, low=0.05, high=0.95), c=rng.uniform(n))


def _mean_field(p: Problem, rate: float = 0.5) -> ClaimReport:
    """E|k/N - m| for k ~ Bin(N, m), exactly, against 1 / (2 sqrt N); the reward -|mu - c| is 1-Lipschitz."""
    gaps = []
    for size in (4, 16, 64, 256):
        k = torch.arange(size + 1, dtype=p["m"].dtype)
        choose = math.lgamma(size + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
        law = (choose + k * p["m"].log()[:, None] + (size - k) * (1 - p["m"]).log()[:, None]).exp()
        finite = (law * -(k / size - p["c"][:, None]).abs()).sum(-1)
        gaps.append((finite + (p["m"] - p["c"]).abs()).abs() - 0.5 / size**rate)
    return ClaimReport(worst(*gaps), 1e-9)


MEAN_FIELD = Claim(
    paper=292,
    kind="theorem",
    statement="mean-field control: |J_N - J| <= L / (2 sqrt N) for N exchangeable agents and an L-Lipschitz reward",
    problems=crowds,
    check=_mean_field,
    twin=Twin(
        "the square root (rate 1/N)",
        problems=lambda rng, n: dict(m=(m := crowds(rng, n)["m"]), c=m),
        check=lambda p: _mean_field(p, 1.0),
    ),
    source="derived",
)


def delayed(rng: Rng, n: int) -> Problem:
    """The policy that played, the current one, and Q in [0, H], H = 3."""
    return dict(played=rng.simplex(n, 5), now=rng.simplex(n, 5), q=3 * rng.uniform(n, 5))


def _delay(p: Problem, plain: bool = False) -> ClaimReport:
    """The missing mass is at most H TV(now, played), the weight now ratio^2 / played at most 1."""
    ratio = torch.ones_like(p["q"]) if plain else p["played"] / torch.maximum(p["played"], p["now"])
    missing = (p["now"] * (1 - ratio) * p["q"]).sum(-1)
    distance = (p["now"] - p["played"]).abs().sum(-1) / 2
    second = (p["now"] * ratio.square() / p["played"]).amax(-1)
    return ClaimReport(worst(missing - 3 * distance, -missing, second - 1), 1e-12)


DELAY = Claim(
    paper=312,
    kind="theorem",
    statement="the delay-adapted ratio pi_j / max(pi_j, pi_k) biases by at most H TV(pi_k, pi_j) and keeps pi_k r^2 "
    "/ pi_j <= 1",
    problems=delayed,
    check=_delay,
    twin=Twin("the adapted ratio (1 instead)", check=lambda p: _delay(p, True)),
    source="derived",
)


def martingales(rng: Rng, n: int) -> Problem:
    """Numbers of steps of the discretised Brownian example X = W on [0, 1], h(x) = x, J_theta = x (1 + theta (1 - "
    "t))."""
    return dict(steps=torch.tensor([10, 30, 100, 300]))


def _martingale(p: Problem, squared_error: bool = False) -> ClaimReport:
    """Minimisers over theta on a fine grid: the martingale loss at 0; the mean-square TD error is sent to -3/2."""
    theta = torch.linspace(-3, 3, 601, dtype=torch.float64)
    found = []
    for steps in p["steps"].tolist():
        t = torch.arange(steps, dtype=torch.float64) / steps
        if squared_error:
            rise = (1 + theta[:, None] * (1 - t - 1 / steps)).square() / steps + t * theta[:, None].square() / steps**2
            loss = rise.sum(-1)
        else:
            loss = ((1 - t) + (theta[:, None] * (1 - t)).square() * t).mean(-1)
        found.append(theta[loss.argmin()].abs())
    return ClaimReport(torch.stack(found), 1e-2)


MARTINGALE = Claim(
    paper=71,
    kind="theorem",
    statement="continuous time: the martingale loss is minimal at the true value, the mean-square TD error is not",
    problems=martingales,
    check=_martingale,
    twin=Twin("the martingale loss (the mean-square TD error)", check=lambda p: _martingale(p, True)),
    source="derived",
)


def stores(rng: Rng, n: int) -> Problem:
    """Backlogged store: Poisson demand over lead time plus one period, penalty p and holding h."""
    return dict(
        rate=rng.uniform(n, low=2.0, high=20.0),
        p=rng.uniform(n, low=1.0, high=20.0),
        h=rng.uniform(n, low=0.5, high=2.0),
    )


def _base_stock(p: Problem, swapped: bool = False) -> ClaimReport:
    """The critical fractile's order-up-to level against the cost of every level by summation."""
    d = torch.arange(120, dtype=p["rate"].dtype)
    law = (d * p["rate"].log()[:, None] - p["rate"][:, None] - torch.lgamma(d + 1)).exp()
    gap = d[:, None] - d  # demand - level
    cost = p["p"][:, None, None] * gap.clamp(min=0) + p["h"][:, None, None] * (-gap).clamp(min=0)
    mean = (law[..., None] * cost).sum(1)
    ratio = (p["h"] if swapped else p["p"]) / (p["p"] + p["h"])
    level = (law.cumsum(-1) < ratio[:, None]).sum(-1)
    return ClaimReport(mean.gather(1, level[:, None])[:, 0] - mean.amin(-1), 1e-9)


BASE_STOCK = Claim(
    paper=60,
    kind="theorem",
    statement="one backlogged store: the base stock at the critical fractile F^{-1}(p / (p + h)) has the least cost",
    problems=stores,
    check=_base_stock,
    twin=Twin("the fractile p/(p + h) (h/(p + h))", check=lambda p: _base_stock(p, True)),
    source="derived",
    n=64,
)


def agents(rng: Rng, n: int) -> Problem:
    """Three agents with quadratic lower problems y'H y/2 - y'(x b): upper losses c_i'y."""
    x = rng.normal(n, 3, 2, 2)
    return dict(H=x @ x.mT + 0.3 * torch.eye(2).to(x), b=rng.normal(n, 3, 2), c=rng.normal(n, 3, 2), x=rng.normal(n))


def _bilevel(p: Problem, local: bool = False) -> ClaimReport:
    """Hypergradient with the averaged Hessian against finite differences of Phi(x) = mean_i c_i' y*(x)."""

    def upper(x: Tensor) -> Tensor:
        y = torch.linalg.solve(p["H"].sum(1), (p["b"] * x[:, None, None]).sum(1)[..., None])[..., 0]
        return (p["c"].mean(1) * y).sum(-1)

    if local:
        each = torch.linalg.solve(p["H"], p["b"][..., None])[..., 0]
        formula = (p["c"] * each).sum(-1).mean(-1)
    else:
        z = torch.linalg.solve(p["H"].sum(1), p["c"].sum(1)[..., None])[..., 0]
        formula = (p["b"].mean(1) * z).sum(-1)
    numeric = (upper(p["x"] + 1e-4) - upper(p["x"] - 1e-4)) / 2e-4
    return ClaimReport((formula - numeric).abs() / (1 + numeric.abs()), 1e-8)


BILEVEL = Claim(
    paper=329,
    kind="theorem",
    statement="decentralised bilevel: grad Phi needs z* = (sum_i H_i)^{-1} sum_i grad f_i; averaging local "
    "hypergradients is wrong",
    problems=agents,
    check=_bilevel,
    twin=Twin("the summed Hessian (local hypergradients averaged)", check=lambda p: _bilevel(p, True)),
    source="derived",
)
