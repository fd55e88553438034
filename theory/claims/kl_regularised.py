"""KL-regularised reward maximisation over a finite set of responses: J(pi) = E_pi r - beta KL(pi, ref).

A problem is `ref` (n, Y), `r` (n, Y), `beta` (n,), and an arbitrary `pi` (n, Y). The optimum is the tilt
pi* = ref e^{r/beta} / Z, Z = E_ref e^{r/beta}; the checks compute it in logarithms from its definition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.rng import Rng

RESPONSES = 6


def problems(rng: Rng, n: int) -> Problem:
    """Full-support reference and policy, rewards of order one, beta in [0.1, 3]."""
    draw = dict(ref=rng.simplex(n, RESPONSES), r=rng.normal(n, RESPONSES), pi=rng.simplex(n, RESPONSES))
    return draw | dict(beta=rng.uniform(n, low=0.1, high=3.0))


def expect(pi: Tensor, x: Tensor) -> Tensor:
    """E_pi x over the last axis."""
    return (pi * x).sum(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p, q) over the last axis, with 0 log 0 = 0."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def tilt(ref: Tensor, r: Tensor, beta: Tensor | float) -> Tensor:
    """ref e^{r/beta} / Z; beta (n,) or a number."""
    beta = torch.as_tensor(beta, dtype=ref.dtype, device=ref.device)
    return torch.softmax(ref.log() + r / beta[..., None], -1)


def log_partition(ref: Tensor, r: Tensor, beta: Tensor) -> Tensor:
    """log E_ref e^{r/beta}."""
    return torch.logsumexp(ref.log() + r / beta[..., None], -1)


def objective(p: Problem, pi: Tensor) -> Tensor:
    return expect(pi, p["r"]) - p["beta"] * kl(pi, p["ref"])


def _variational(p: Problem, evidence_temperature: float = 1.0) -> ClaimReport:
    """|J(pi) - (beta log Z - beta KL(pi, pi*))|."""
    posterior = tilt(p["ref"], p["r"], evidence_temperature * p["beta"])
    evidence = p["beta"] * log_partition(p["ref"], p["r"], p["beta"])
    return ClaimReport((objective(p, p["pi"]) - evidence + p["beta"] * kl(p["pi"], posterior)).abs(), 1e-11)


VARIATIONAL = Claim(
    paper=4,
    kind="identity",
    statement="E_pi r - b KL(pi, ref) = b log Z - b KL(pi, pi*) for every pi, with pi* = ref e^{r/b} / Z",
    problems=problems,
    check=_variational,
    source="text",
    twin=Twin("the right temperature (pi* with 2b)", check=lambda p: _variational(p, 2.0)),
)
