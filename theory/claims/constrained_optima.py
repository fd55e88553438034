"""Closed forms for constrained optima: the Gaussian trust region (CFPI), and a tilt of occupancies that is none."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import worst
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng


def occupancy(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """(n, S, A) discounted state-action frequencies, by the flow equations; they sum to 1 for one discount factor."""
    eye = torch.eye(mdp.num_states).to(mdp.P)
    start = (1 - mdp.discount[:, 0, 0])[:, None] * mdp.mu0
    visits = torch.linalg.solve(eye - mdp.policy_kernel(policy).mT, start)
    return visits[..., None] * policy


def flow_error(mdp: TabularMDP, d: Tensor) -> Tensor:
    """(n,) L1 violation of sum_a d(s', a) = (1 - gamma) mu0(s') + sum d gamma P."""
    start = (1 - mdp.discount[:, 0, 0])[:, None] * mdp.mu0
    return (d.sum(-1) - start - torch.einsum("nsa,nsat->nt", d, mdp.kernel)).abs().sum(-1)


def _mdps(rng: Rng, n: int) -> Problem:
    P, r = rng.simplex(n, 4, 2, 4), rng.normal(n, 4, 2)
    discount = torch.full((n, 4, 2), 0.9).to(r)
    return dict(mdp=TabularMDP(P, r, rng.simplex(n, 4), discount), policy=rng.simplex(n, 4, 2), beta=1 + rng.uniform(n))


def _two_states() -> Problem:
    """State 0: action 0 stays, action 1 leaves for the absorbing state 1, which pays 1."""
    P = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]], dtype=torch.float64)
    r = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    mdp = TabularMDP(P, r, start, torch.full((1, 2, 2), 0.5, dtype=torch.float64))
    return dict(mdp=mdp, policy=torch.full_like(r, 0.5), beta=torch.ones(1, dtype=torch.float64))


def _occupancy_tilt(p: Problem) -> ClaimReport:
    reference = occupancy(p["mdp"], p["policy"])
    tilted = reference * torch.exp(p["mdp"].r / p["beta"][:, None, None])
    return ClaimReport(flow_error(p["mdp"], tilted / tilted.sum((-1, -2), keepdim=True)), 1e-9)


OCCUPANCY_TILT = Claim(
    paper=263,
    kind="theorem",
    statement="the optimum of E_d r - b KL(d, d_ref) over discounted occupancies d is d_ref e^{r/b} / Z, with one Z "
    "for all states (checked: that it is an occupancy)",
    problems=_mdps,
    check=_occupancy_tilt,
    source="derived",
    expected=False,
    counterexample=_two_states(),
)


def _gaussian(rng: Rng, n: int) -> Problem:
    root = rng.normal(n, 4, 4)
    covariance = root @ root.mT + 0.1 * torch.eye(4).to(root)
    draw = dict(mean=rng.normal(n, 4), covariance=covariance, gradient=rng.normal(n, 4), moves=rng.normal(n, 128, 4))
    return draw | dict(delta=rng.uniform(n, low=0.05, high=2.0))


def _gaussian_step(p: Problem, whitened: bool = True) -> ClaimReport:
    """mu + sqrt(2 d) S g / sqrt(g' S g) is inside the ellipsoid and beats rivals on its surface."""
    S, g, radius = p["covariance"], p["gradient"], torch.sqrt(2 * p["delta"])
    inverse = torch.linalg.inv(S)

    def length(x: Tensor) -> Tensor:
        return torch.sqrt(torch.einsum("n...i,nij,n...j->n...", x, inverse, x))

    move = torch.einsum("nij,nj->ni", S, g)
    direction = move / torch.sqrt((move * g).sum(-1, keepdim=True)) if whitened else g / length(g)[:, None]
    step = radius[:, None] * direction
    rivals = torch.cat([p["moves"], step[:, None] + 1e-2 * p["moves"]], 1)
    rivals = radius[:, None, None] * rivals / length(rivals)[..., None]
    gain = torch.einsum("nki,ni->nk", rivals, g).amax(-1) - (step * g).sum(-1)
    return ClaimReport(worst(gain, length(step) - radius) / (1 + radius), 1e-9)


GAUSSIAN_STEP = Claim(
    paper=267,
    kind="theorem",
    statement="the largest linearised Q with (a - mu)' S^-1 (a - mu) <= 2 d is at a = mu + sqrt(2 d) S g / sqrt(g' S "
    "g)",
    problems=_gaussian,
    check=_gaussian_step,
    source="derived",
    twin=Twin("the covariance (a step along the gradient)", check=lambda p: _gaussian_step(p, False)),
)


def _mixture(rng: Rng, n: int) -> Problem:
    draw = dict(weights=rng.simplex(n, 3), means=2 * rng.normal(n, 3, 2), at=2 * rng.normal(n, 2))
    return draw | dict(scales=rng.uniform(n, 3, 2, low=0.3, high=2.0))


def _mixture_bounds(p: Problem, log_weights: bool = True) -> ClaimReport:
    """log of a Gaussian mixture's density, its largest component and its Jensen bound."""
    z = (p["at"][:, None] - p["means"]) / p["scales"]
    density = -(z.square() / 2 + p["scales"].log()).sum(-1)
    joint = p["weights"].log() + density if log_weights else density
    exact = (p["weights"] * density.exp()).sum(-1).log()
    return ClaimReport(worst(joint.amax(-1) - exact, (p["weights"] * density).sum(-1) - exact), 1e-10)


MIXTURE_BOUNDS = Claim(
    paper=267,
    kind="theorem",
    statement="a mixture's log-density is at least that of its best weighted component, and at least the mean "
    "log-density of the components: each gives a single-Gaussian step",
    problems=_mixture,
    check=_mixture_bounds,
    twin=Twin("the component's weight", check=lambda p: _mixture_bounds(p, False)),
)
