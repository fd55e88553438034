"""Value functions as classifiers: what the projections onto bins keep, and what the cross-entropy's gradient is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import expect, worst
from fenchel.theory.objectives.value import categorical, categorical_projection, hl_gauss, two_hot
from fenchel.theory.rng import Rng

BINS, LOW, HIGH = 51, -10.0, 10.0
WIDTH = (HIGH - LOW) / BINS


def edges(like: Tensor) -> Tensor:
    return torch.linspace(LOW, HIGH, BINS + 1, dtype=like.dtype, device=like.device)


def atoms(like: Tensor, count: int = 21) -> Tensor:
    return torch.linspace(LOW, HIGH, count, dtype=like.dtype, device=like.device)


def interior(rng: Rng, n: int) -> Problem:
    """Numbers y at least 7.5 standard deviations, 0.3 to 1 bins each, from the ends."""
    sigma = rng.uniform(n, 1, low=0.3, high=1.0) * WIDTH
    room = HIGH - 7.5 * sigma
    return dict(sigma=sigma, y=rng.uniform(n, 5, low=-1.0, high=1.0) * room)


def near_the_ends(rng: Rng, n: int) -> Problem:
    p = interior(rng, n)
    return p | dict(y=(HIGH - p["sigma"]) * p["y"].sign())


def _histogram_bias(p: Problem) -> ClaimReport:
    """The histogram's mean against the Fourier series of rounding a Gaussian to bin centres (0 is one of them)."""
    y, sigma = p["y"], p["sigma"]
    weights = hl_gauss(y, edges(y), sigma=sigma)
    centres = (edges(y)[1:] + edges(y)[:-1]) / 2
    k = torch.arange(1, 30, dtype=y.dtype, device=y.device)
    wave = (
        torch.sin(2 * math.pi * k * y[..., None] / WIDTH) * (-2 * (math.pi * k * sigma[..., None] / WIDTH) ** 2).exp()
    )
    bias = (WIDTH * (-1) ** k / (math.pi * k) * wave).sum(-1)
    mean = (weights * centres).sum(-1)
    return ClaimReport(worst((mean - y - bias).abs().amax(-1), (weights.sum(-1) - 1).abs().amax(-1)), 1e-10)


HISTOGRAM_BIAS = Claim(
    paper=124,
    kind="theorem",
    statement="HL-Gauss away from the ends: mean - y = sum_k (-1)^k (h / pi k) e^{-2 (pi k sigma / h)^2} sin(2 pi k y "
    "/ h), h the bin width, y from a bin's centre: at most 4.8e-6 h for sigma = 0.75 h",
    problems=interior,
    check=_histogram_bias,
    twin=Twin("a distance of 7.5 sigma to the ends (1)", problems=near_the_ends),
    source="derived",
)


def _end_bias(p: Problem, scale: float = 1.0) -> ClaimReport:
    """y at the upper end: the histogram's mean against that of a half-normal, up to the rounding to centres."""
    y, sigma = torch.full_like(p["sigma"], HIGH), p["sigma"]
    weights = hl_gauss(y, edges(y), sigma=sigma)
    mean = (weights * (edges(y)[1:] + edges(y)[:-1]) / 2).sum(-1)
    half = HIGH - scale * sigma * math.sqrt(2 / math.pi)
    return ClaimReport(((mean - half).abs() - WIDTH / 3).amax(-1), 0.0)


END_BIAS = Claim(
    paper=124,
    kind="theorem",
    statement="HL-Gauss at an end of the support is off by sigma sqrt(2/pi), to within a third of a bin: the support "
    "needs a margin",
    problems=interior,
    check=_end_bias,
    twin=Twin("the truncation (no bias expected)", check=lambda p: _end_bias(p, 0.0)),
    source="derived",
)


def returns(rng: Rng, n: int) -> Problem:
    """Laws on seven numbers inside the support, and rival laws on the support's 21 atoms."""
    return dict(law=rng.simplex(n, 7), z=rng.uniform(n, 7, low=-9.9, high=9.9), rivals=rng.simplex(n, 6, 21))


def cramer(first: Tensor, at: Tensor, second: Tensor, there: Tensor) -> Tensor:
    """The integral of the squared difference of two distribution functions, (n,)."""
    points, order = torch.cat([at, there], -1).sort(-1)
    steps = torch.cat([first, -second], -1).gather(-1, order).cumsum(-1)
    return (steps[..., :-1].square() * points.diff()).sum(-1)


def _projection(p: Problem) -> ClaimReport:
    """Mass, mean, and Cramer distance against rivals and points on the way to them."""
    support = atoms(p["z"])
    found = categorical_projection(p["law"], p["z"], support)
    grid = support.expand_as(found)
    mean = (expect(found, support) - expect(p["law"], p["z"])).abs()
    best = cramer(p["law"], p["z"], found, grid)
    gains = []
    for rival in p["rivals"].unbind(1):
        for t in (1.0, 0.1, 1e-3):
            gains.append(best - cramer(p["law"], p["z"], (1 - t) * found + t * rival, grid))
    return ClaimReport(worst(mean, (found.sum(-1) - 1).abs(), -found.amin(-1), *gains), 1e-10)


PROJECTION = Claim(
    paper=124,
    kind="theorem",
    statement="C51's projection keeps mass and mean, and is the law on the support that is nearest in Cramer distance, "
    "while every atom lies inside the support",
    problems=returns,
    check=_projection,
    twin=Twin(
        "atoms inside the support",
        problems=lambda rng, n: (p := returns(rng, n)) | dict(z=2 * p["z"]),
    ),
    source="derived",
)


def targets(rng: Rng, n: int) -> Problem:
    """Logits, and a law over six numbers that the target takes."""
    return dict(logits=3 * rng.normal(n, 21), law=rng.simplex(n, 6), y=rng.uniform(n, 6, low=-9.9, high=9.9))


def _cross_entropy(p: Problem, mass: float = 1.0) -> ClaimReport:
    """The gradient in logits, its size, its zero, and the mean of the softmax there."""
    support, encoded = atoms(p["y"]), mass * two_hot(p["y"], atoms(p["y"]))
    logits = p["logits"][:, None].expand(-1, 6, -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(categorical(logits, encoded).sum(), logits)
    hat = torch.softmax(p["logits"], -1)
    error = (gradient - (hat[:, None] - encoded)).abs().amax((-2, -1))
    mixed = (p["law"][..., None] * encoded).sum(1)
    best = mixed.clamp(min=1e-300).log().requires_grad_()
    loss = (p["law"] * categorical(best[:, None].expand(-1, 6, -1), encoded)).sum()
    zero = torch.autograd.grad(loss, best)[0].abs().amax(-1)
    mean = (expect(mixed / mixed.sum(-1, keepdim=True), support) - expect(p["law"], p["y"])).abs()
    return ClaimReport(worst(error, gradient.abs().sum(-1).amax(-1) - 2, zero, mean), 1e-10)


CROSS_ENTROPY = Claim(
    paper=124,
    kind="theorem",
    statement="the cross-entropy's gradient in logits is softmax - p, at most 2 in L1 whatever the target; it vanishes "
    "at E p, whose mean is E y for two-hot targets",
    problems=targets,
    check=_cross_entropy,
    twin=Twin("targets of mass 1", check=lambda p: _cross_entropy(p, 3.0)),
    source="derived",
)
