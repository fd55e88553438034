"""What one step of a policy gradient does to the probabilities of a softmax policy, exactly.

A problem is logits `z` (n, Y), often with rewards `r` or a set of correct answers; gradients are taken by autograd on
the logits or written from the primal and compared with finite differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.group_estimators import gap, gradient
from fenchel.theory.rng import Rng

WORDS = 6


def logits(rng: Rng, n: int) -> Problem:
    return dict(z=rng.normal(n, WORDS), ref=rng.simplex(n, WORDS), r=rng.normal(n, WORDS))


def labelled(rng: Rng, n: int) -> Problem:
    """Logits, and correctness in {0, 1} with both values present."""
    r = (rng.uniform(n, WORDS) < 0.5).to(torch.float64)
    r[:, 0], r[:, 1] = 1.0, 0.0
    return logits(rng, n) | dict(r=r)


def autograd(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of the per-problem numbers fn(x) (n,) in x (n, ...)."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(fn(x).sum(), x)[0]


def _negative(p: Problem, exponent: float = 1.0) -> ClaimReport:
    """Ascent on -pi_y for y = 0: -pi_y (1 - pi_y) on itself, +pi_y pi_v on the others."""
    pi = torch.softmax(p["z"], -1)
    got = autograd(lambda z: -torch.softmax(z, -1)[:, 0], p["z"])
    right = pi[:, :1] * pi**exponent
    right[:, 0] = -pi[:, 0] * (1 - pi[:, 0])
    return ClaimReport(gap(got, right), 1e-13)


NEGATIVE = Claim(
    paper=47,
    kind="identity",
    statement="negative reinforcement of y moves logit v != y by +pi_y pi_v and y by -pi_y (1 - pi_y): mass is handed "
    "out in proportion to the policy's own belief",
    problems=logits,
    check=_negative,
    twin=Twin("proportionality to pi_v (uniform instead)", check=lambda p: _negative(p, 0.0)),
    source="derived",
)


def _norm_bounds(p: Problem, tight: float = 1.0) -> ClaimReport:
    pi = torch.softmax(p["z"], -1)
    norm = autograd(lambda z: torch.log_softmax(z, -1)[:, 0], p["z"]).norm(dim=-1)
    miss = 1 - pi[:, 0]
    lower, upper = miss * math.sqrt(WORDS / (WORDS - 1)), tight * math.sqrt(2) * miss
    return ClaimReport(torch.maximum(lower - norm, norm - upper), 1e-12)


NORM_BOUNDS = Claim(
    paper=211,
    kind="theorem",
    statement="(1 - p) sqrt(V/(V-1)) <= |grad_logits log p| <= sqrt(2) (1 - p): improbable tokens dominate the update",
    problems=logits,
    check=_norm_bounds,
    twin=Twin("the factor sqrt(2)", check=lambda p: _norm_bounds(p, 1 / math.sqrt(2))),
    source="derived",
)


def odds(rng: Rng, n: int) -> Problem:
    """Two independent binary problems with success rates below one half, the first the likelier."""
    low = rng.uniform(n, low=0.02, high=0.4)
    return dict(high=low + rng.uniform(n, low=0.01, high=1.0) * (0.5 - low), low=low)


def _winner(p: Problem) -> ClaimReport:
    """dp/dt = (p(1-p))^2 by autograd through sigma, then the order of the two speeds."""

    def speed(rate: Tensor) -> Tensor:
        theta = torch.logit(rate)
        slope = autograd(torch.sigmoid, theta)
        return slope * slope

    formula = (speed(p["high"]) - (p["high"] * (1 - p["high"])) ** 2).abs()
    return ClaimReport(torch.maximum(formula - 1e-13, speed(p["low"]) - speed(p["high"])), 0.0)


WINNER = Claim(
    paper=42,
    kind="theorem",
    statement="exact policy gradient on a binary problem gives dp/dt = (p(1-p))^2, so of two problems below 1/2 the "
    "likelier one grows faster",
    problems=odds,
    check=_winner,
    twin=Twin("both below one half", problems=lambda rng, n: {k: 0.45 + v for k, v in odds(rng, n).items()}),
    source="derived",
)


def sampled(rng: Rng, n: int) -> Problem:
    """Correct and wrong answers, of which some were sampled: rewards +1, -1, and 0 where not sampled."""
    sign = torch.where(labelled(rng, n)["r"] > 0, 1.0, -1.0).to(torch.float64)
    seen = (rng.uniform(n, WORDS) < 0.6).to(torch.float64)
    return dict(z=rng.normal(n, WORDS), sign=sign, seen=seen)


def _mass_balance(p: Problem, drop_third: bool = False) -> ClaimReport:
    """d/d eta of the correct mass along the surrogate's gradient, against the three-term formula."""
    pi, right, seen = torch.softmax(p["z"], -1), p["sign"] > 0, p["seen"]
    reward = p["sign"] * seen
    step = autograd(lambda z: (torch.softmax(z, -1) * reward).sum(-1), p["z"])
    slope = (autograd(lambda z: (torch.softmax(z, -1) * right).sum(-1), p["z"]) * step).sum(-1)
    total, plus = (pi * reward).sum(-1), (pi * right).sum(-1)
    hit, wrong = (pi.square() * seen * right).sum(-1), (pi.square() * seen * ~right).sum(-1)
    u_plus, u_minus = ((pi.square() * (1 - seen) * m).sum(-1) for m in (right, ~right))
    first = (1 - total) * (1 - plus) * hit + (total + 1) * plus * wrong
    third = 0 if drop_third else total * (plus * u_minus - (1 - plus) * u_plus)
    return ClaimReport((slope - first - third).abs(), 1e-12)


MASS_BALANCE = Claim(
    paper=103,
    kind="identity",
    statement="BroRL: dQ+ = (R_c - S) Q- A2 + (S - R_w) Q+ B2 + S (Q+ U- - Q- U+) to first order; only the unsampled "
    "third term can be negative",
    problems=sampled,
    check=_mass_balance,
    twin=Twin("the term of the unsampled answers", check=lambda p: _mass_balance(p, True)),
    source="derived",
)


def confidence(rng: Rng, n: int) -> Problem:
    """Two answers with success rates p > q, and any reported confidence."""
    q = rng.uniform(n, low=0.01, high=0.9)
    return dict(q=q, p=q + rng.uniform(n, low=0.01) * (0.99 - q), said=rng.uniform(n, low=0.001, high=0.999))


def _brier(p: Problem, log_score: bool = False) -> ClaimReport:
    """The likelier answer told with its true rate beats either answer told with any confidence."""

    def value(rate: Tensor, said: Tensor) -> Tensor:
        if log_score:
            return rate + rate * said.log() + (1 - rate) * (1 - said).log()
        return rate - rate * (1 - said) ** 2 - (1 - rate) * said**2

    best = value(p["p"], p["p"])
    rivals = [value(p["p"], p["said"]), value(p["q"], p["said"]), value(p["q"], p["q"])]
    return ClaimReport(torch.stack(rivals).amax(0) - best, 1e-12)


BRIER = Claim(
    paper=130,
    kind="theorem",
    statement="RLCR: correctness minus the Brier score is maximal (value p^2) for the likelier answer with q = p",
    problems=confidence,
    check=_brier,
    twin=Twin("a bounded proper score (log score instead)", check=lambda p: _brier(p, True)),
    source="derived",
)


def scored_group(rng: Rng, n: int) -> Problem:
    return dict(q=rng.normal(n, 6), r=(rng.uniform(n, 6) < 0.5).to(torch.float64))


def _pacs(p: Problem, leave_one_out: bool = True) -> ClaimReport:
    size = p["q"].shape[-1]

    def loss(q: Tensor) -> Tensor:
        mean = (q.sum(-1, keepdim=True) - q) / (size - 1) if leave_one_out else q.mean(-1, keepdim=True)
        return -binary_cross_entropy_with_logits(q - mean, p["r"], reduction="none").sum(-1)

    psi = size / (size - 1) * (p["q"] - p["q"].mean(-1, keepdim=True))
    error = p["r"] - torch.sigmoid(psi)
    right = size / (size - 1) * (error - error.mean(-1, keepdim=True))
    return ClaimReport(gap(autograd(loss, p["q"]), right), 1e-12)


PACS = Claim(
    paper=31,
    kind="identity",
    statement="PACS: the gradient of the leave-one-out BCE is G/(G-1) (e_i - mean e), e = r - sigma(psi): actor and "
    "critic in one; at psi = 0 it is the RLOO advantage",
    problems=scored_group,
    check=_pacs,
    twin=Twin("the own score left out of the mean", check=lambda p: _pacs(p, False)),
    source="derived",
)


def _labels(p: Problem, anchor: float = 1.0, tau: float = 0.5) -> ClaimReport:
    """|weight| of each sample and of the class: below 1/tau, and increasing with how wrong the sample is."""
    s = 3 * p["q"]
    weight = torch.exp(s / tau)
    weight = weight / (anchor + weight.sum(-1, keepdim=True)) / tau
    got = autograd(lambda x: torch.log(anchor + torch.exp(x / tau).sum(-1)), s)
    total = weight.sum(-1) * tau - 1
    order = -(weight.gather(-1, s.argsort(-1)).diff(dim=-1)).amin(-1)
    return ClaimReport(torch.stack([gap(got, weight) - 1e-10, total + 1e-12, order]).amax(0), 0.0)


LABELS = Claim(
    paper=146,
    kind="theorem",
    statement="REAL: the weight of a sample lies in (0, 1/tau), grows with its error, and a class weighs less than "
    "1/tau",
    problems=lambda rng, n: dict(q=rng.uniform(n, 6, low=-1.0, high=1.0), r=torch.zeros(n, 6, dtype=torch.float64)),
    check=_labels,
    twin=Twin("the anchor logit 0", check=lambda p: _labels(p, 0.0)),
    source="derived",
)


def _confident_errors(p: Problem, moderated: bool = True) -> ClaimReport:
    """E_pi[1_W F grad log pi] = grad E_pi[1_W F] - E_pi[1_W sigma(c) grad log pi], F = softplus(log pi/ref)."""
    pi, wrong = torch.softmax(p["z"], -1), p["r"] < 0
    c = (pi / p["ref"]).log()
    left = gradient(pi, wrong * softplus(c))

    def regulariser(z: Tensor) -> Tensor:
        q = torch.softmax(z, -1)
        return (q * wrong * softplus((q / p["ref"]).log())).sum(-1)

    right = autograd(regulariser, p["z"])
    if moderated:
        right = right - gradient(pi, wrong * logsigmoid(c).exp())
    return ClaimReport(gap(left, right), 1e-12)


CONFIDENT_ERRORS = Claim(
    paper=163,
    kind="identity",
    statement="ACE's extra term descends E_pi[1_wrong softplus(log pi/ref)], moderated by weights sigma(c) in (0, 1)",
    problems=logits,
    check=_confident_errors,
    twin=Twin("the moderating residual", check=lambda p: _confident_errors(p, False)),
    source="derived",
)


def _one_token(p: Problem, beta: float = -0.1, sft: bool = False) -> ClaimReport:
    """REINFORCE with reward 1 for the ground truth (token 0) and beta otherwise; mean over the policy's own draws."""
    pi = torch.softmax(p["z"], -1)
    reward = torch.full_like(pi, beta)
    reward[:, 0] = 1.0
    score = autograd(lambda z: torch.log_softmax(z, -1)[:, 0], p["z"])
    weight = torch.ones_like(pi[:, :1]) if sft else pi[:, :1]
    return ClaimReport(gap(gradient(pi, reward), (1 - beta) * weight * score), 1e-12)


ONE_TOKEN = Claim(
    paper=68,
    kind="identity",
    statement="one-token rollouts: the mean gradient is (1 - beta) pi(y) grad log pi(y), the SFT gradient times pi(y)",
    problems=logits,
    check=_one_token,
    twin=Twin("the factor pi(y) (plain SFT)", check=lambda p: _one_token(p, sft=True)),
    source="derived",
)


def _self_certainty(p: Problem, forward: bool = True) -> ClaimReport:
    logp = torch.log_softmax(p["z"], -1)
    certainty = torch.logsumexp(p["z"], -1) - p["z"].mean(-1)
    if forward:
        kl = (-logp - math.log(WORDS)).mean(-1)
    else:
        kl = (logp.exp() * (logp + math.log(WORDS))).sum(-1)
    return ClaimReport((certainty - kl - math.log(WORDS)).abs(), 1e-12)


SELF_CERTAINTY = Claim(
    paper=184,
    kind="identity",
    statement="Intuitor's self-certainty logsumexp z - mean z equals KL(uniform, pi) + log V",
    problems=logits,
    check=_self_certainty,
    twin=Twin("the direction of the KL (reversed)", check=lambda p: _self_certainty(p, False)),
    source="derived",
)
