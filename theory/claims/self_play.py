"""Preference games: KL-regularised Nash equilibria and the self-play that reaches them.

A problem is `P` (n, Y, Y) with P(y, y') + P(y', y) = 1, a reference `ref` (n, Y), a start `pi` (n, Y), and the weight
`beta` (n,). The regularised game is P(p > q) - beta KL(p, ref) + beta KL(q, ref); its equilibrium solves
log pi = log ref + P pi / beta + const, found here by Newton's method on that equation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.softmax_dynamics import autograd
from fenchel.theory.claims.tools import kl
from fenchel.theory.rng import Rng

RESPONSES = 6


def preferences(rng: Rng, n: int) -> Tensor:
    """Intransitive preferences; every third one is a 0/1 tournament."""
    upper = rng.uniform(n, RESPONSES, RESPONSES)
    upper[::3] = (upper[::3] > 0.5).to(upper)
    upper = upper.triu(1)
    return upper + (1 - upper).triu(1).mT + 0.5 * torch.eye(RESPONSES).to(upper)


def problems(rng: Rng, n: int) -> Problem:
    draw = dict(P=preferences(rng, n), ref=rng.simplex(n, RESPONSES), pi=rng.simplex(n, RESPONSES))
    return draw | dict(beta=rng.uniform(n, low=0.02, high=2.0))


def win(p: Problem, opponent: Tensor) -> Tensor:
    """P(y > opponent), (n, Y)."""
    return torch.einsum("nij,nj->ni", p["P"], opponent)


def equilibrium(p: Problem, steps: int = 60) -> Tensor:
    """Damped Newton on F(z) = z - log ref - P softmax(z)/beta, up to a constant."""
    eye = torch.eye(RESPONSES).to(p["P"])
    centre = eye - 1.0 / RESPONSES
    z = p["ref"].log() @ centre

    def residual(z: Tensor) -> Tensor:
        return (z - p["ref"].log() - win(p, torch.softmax(z, -1)) / p["beta"][:, None]) @ centre

    for _ in range(steps):
        pi = torch.softmax(z, -1)
        softmax_slope = torch.diag_embed(pi) - pi[:, :, None] * pi[:, None]
        slope = eye - centre @ p["P"] @ softmax_slope / p["beta"][:, None, None]
        step = torch.linalg.solve(slope, residual(z)[..., None])[..., 0]
        tries = torch.stack([z - s * step for s in (1.0, 0.5, 0.1, 0.02)])
        sizes = torch.stack([residual(t).square().sum(-1) for t in tries])
        z = tries.gather(0, sizes.argmin(0)[None, :, None].expand(1, -1, RESPONSES))[0]
    return torch.softmax(z, -1)


def proximal(p: Problem, opponent: Tensor, centre: Tensor, eta: float) -> Tensor:
    """argmax_q P(q > opponent) - beta KL(q, ref) - KL(q, centre) / eta."""
    b = eta * p["beta"][:, None]
    return torch.softmax((centre.log() + b * p["ref"].log() + eta * win(p, opponent)) / (1 + b), -1)


def _mirror_prox(p: Problem, eta: float = 2.0) -> ClaimReport:
    """KL(pi*, next) (1 + eta beta) <= KL(pi*, pi), along twenty iterations."""
    star, pi, worst = equilibrium(p), p["pi"], []
    for _ in range(20):
        following = proximal(p, proximal(p, pi, pi, eta), pi, eta)
        worst.append(kl(star, following) * (1 + eta * p["beta"]) - kl(star, pi))
        pi = following
    return ClaimReport(torch.stack(worst).amax(0), 1e-10)


MIRROR_PROX = Claim(
    paper=158,
    kind="theorem",
    statement="Nash mirror prox, eta = 2: KL(pi*, pi_{k+1}) <= KL(pi*, pi_k) / (1 + 2 beta) for every preference and "
    "beta",
    problems=problems,
    check=_mirror_prox,
    twin=Twin("the step size eta = 2 (12 instead)", check=lambda p: _mirror_prox(p, 12.0)),
    source="derived",
    n=64,
)


def _extragradient(p: Problem, step: float = 1.0) -> ClaimReport:
    """KL(pi*, pi_t) <= KL(pi*, pi_0) (1 - eta beta)^t for eta = step / (1 + beta)."""
    star, theta = equilibrium(p), p["pi"].log()
    rate = (step * p["beta"] / (1 + p["beta"]))[:, None]
    start, worst = kl(star, p["pi"]), []

    def target(theta: Tensor) -> Tensor:
        return p["ref"].log() + win(p, torch.softmax(theta, -1)) / p["beta"][:, None]

    for t in range(1, 21):
        half = (1 - rate) * theta + rate * target(theta)
        theta = (1 - rate) * theta + rate * target(half)
        worst.append(kl(star, torch.softmax(theta, -1)) - start * (1 - rate[:, 0]) ** t)
    return ClaimReport(torch.stack(worst).amax(0), 1e-10)


EXTRAGRADIENT = Claim(
    paper=308,
    kind="theorem",
    statement="EGPO: KL(pi*, pi_t) <= KL(pi*, pi_0) (1 - eta beta)^t for eta <= 1/(1 + beta)",
    problems=problems,
    check=_extragradient,
    twin=Twin("the step bound (eta = 1.9/(1 + beta))", check=lambda p: _extragradient(p, 1.9)),
    source="derived",
    n=64,
)


def _regularised_play(p: Problem, lam: float = 0.3, eta: float = 0.3) -> ClaimReport:
    """After 600 magnetic steps the last iterate solves log pi = log ref + P pi / lam + const."""
    pi = p["pi"]
    game = p | dict(beta=torch.full_like(p["beta"], lam))
    for _ in range(600):
        pi = proximal(game, pi, pi, eta) if lam else torch.softmax(pi.log() + eta * win(p, pi), -1)
    gap = (pi.log() - (p["ref"].log() + win(p, pi) / lam) if lam else win(p, pi)).clamp(-1e6, 1e6)
    return ClaimReport(gap.amax(-1) - gap.amin(-1), 1e-8)


REGULARISED_PLAY = Claim(
    paper=317,
    kind="theorem",
    statement="RSPO with reverse-KL regularisation: the last iterate converges to log pi = log ref + P pi / lam + "
    "const",
    problems=problems,
    check=_regularised_play,
    twin=Twin("the regularisation (plain self-play cycles)", check=lambda p: _regularised_play(p, 0.0)),
    source="derived",
    n=32,
)


def _average_iterate(p: Problem, last: bool = False, rounds: int = 400) -> ClaimReport:
    """max_y P(y > average) - 1/2 <= sqrt(log n / (2 T)) for multiplicative weights with eta = sqrt(8 log n / T)."""
    eta = math.sqrt(8 * math.log(RESPONSES) / rounds)
    score, mean = torch.zeros_like(p["pi"]), torch.zeros_like(p["pi"])
    for _ in range(rounds):
        pi = torch.softmax(score, -1)
        mean += pi / rounds
        score = score + eta * win(p, pi)
    judged = torch.softmax(8 * score, -1) if last else mean
    return ClaimReport(win(p, judged).amax(-1) - 0.5 - math.sqrt(math.log(RESPONSES) / (2 * rounds)), 1e-12)


AVERAGE_ITERATE = Claim(
    paper=241,
    kind="theorem",
    statement="SPPO as multiplicative weights: exploitability of the average iterate <= sqrt(log n / (2T)) for every P",
    problems=problems,
    check=_average_iterate,
    twin=Twin("averaging (the last iterate cycles)", check=lambda p: _average_iterate(p, True)),
    source="derived",
    n=32,
)


def _inpo_minimiser(p: Problem, with_reference: bool = True, tau: float = 0.4, eta: float = 1.2) -> ClaimReport:
    """The gradient of E_{y,y'~pi_t} (h(w, l) - 1/(2 eta))^2 vanishes at the mirror-descent policy."""
    weight = tau / eta if with_reference else 0.0
    step = torch.log_softmax((tau / eta) * p["ref"].log() + (1 - tau / eta) * p["pi"].log() + win(p, p["pi"]) / eta, -1)

    def loss(z: Tensor) -> Tensor:
        score = z - weight * p["ref"].log() - (1 - weight) * p["pi"].log()
        h = score[:, :, None] - score[:, None]
        joint = p["pi"][:, :, None] * p["pi"][:, None] * p["P"]
        return (joint * (h - 1 / (2 * eta)).square()).sum((1, 2))

    return ClaimReport(autograd(loss, step).abs().amax(-1), 1e-12)


INPO_MINIMISER = Claim(
    paper=257,
    kind="theorem",
    statement="INPO's loss, without any win rates, is stationary at pi_{t+1} ~ ref^{tau/eta} pi_t^{1 - tau/eta} e^{P "
    "pi_t / eta}",
    problems=problems,
    check=_inpo_minimiser,
    twin=Twin("the reference in h", check=lambda p: _inpo_minimiser(p, False)),
    source="derived",
)


def _dno(p: Problem, eta: float = 0.7, hard: bool = False) -> ClaimReport:
    """DNO's cross-entropy is stationary at pi_t e^{r/eta}, and that policy beats pi_t at least half of the time."""
    r = win(p, p["pi"])
    following = torch.softmax(p["pi"].log() + r / eta, -1)
    target = torch.sigmoid(r[:, :, None] - r[:, None])
    target = p["P"] if hard else target

    def loss(z: Tensor) -> Tensor:
        rho = z - p["pi"].log()
        joint = p["pi"][:, :, None] * p["pi"][:, None]
        return -(joint * target * logsigmoid(eta * (rho[:, :, None] - rho[:, None]))).sum((1, 2))

    stationary = autograd(loss, following.log()).abs().amax(-1)
    return ClaimReport(torch.maximum(stationary, 0.5 - (following * r).sum(-1)), 1e-12)


DNO = Claim(
    paper=249,
    kind="theorem",
    statement="one exact DNO step is pi_t e^{r_t/eta}, and it wins against pi_t with probability >= 1/2",
    problems=problems,
    check=_dno,
    twin=Twin("soft labels sigma(r - r') (the preference itself instead)", check=lambda p: _dno(p, hard=True)),
    source="derived",
)


def skew(rng: Rng, n: int) -> Problem:
    x = rng.normal(n, RESPONSES, RESPONSES)
    return dict(s=x - x.mT)


def _embedding(p: Problem, real_scores: bool = False) -> ClaimReport:
    """S = U B U^T with 2x2 rotation blocks B, from the Hermitian matrix iS; a Bradley-Terry score has rank 2."""
    if real_scores:
        r = p["s"].mean(-1)
        return ClaimReport((p["s"] - (r[:, :, None] - r[:, None])).abs().amax((-2, -1)), 1e-10)
    value, vector = torch.linalg.eigh(1j * p["s"].to(torch.complex128))
    half = vector[..., value.shape[-1] // 2 :], value[..., value.shape[-1] // 2 :]
    real, imag = math.sqrt(2) * half[0].real, math.sqrt(2) * half[0].imag
    built = torch.einsum("nk,nik,njk->nij", half[1], imag, real)
    built = built - built.mT
    return ClaimReport((p["s"] - built).abs().amax((-2, -1)), 1e-10)


EMBEDDING = Claim(
    paper=302,
    kind="theorem",
    statement="every skew-symmetric score of rank 2k is a sum of k planar rotations of response embeddings",
    problems=skew,
    check=_embedding,
    twin=Twin("rotations (Bradley-Terry differences r - r' instead)", check=lambda p: _embedding(p, True)),
    source="derived",
)


def accelerated(rng: Rng, n: int) -> Problem:
    return dict(r=rng.normal(n, RESPONSES), ref=rng.simplex(n, RESPONSES), alpha=rng.uniform(n, low=0.1, high=0.7))


def _accelerated(p: Problem, momentum: bool = True, rounds: int = 12) -> ClaimReport:
    """Exact DPO steps with Nesterov extrapolation, against the closed form of the accumulated coefficient."""
    alpha = p["alpha"][:, None]
    hat = pi = p["ref"].log()
    for _ in range(rounds):
        following = pi + p["r"]
        pi = following + (alpha * (following - hat) if momentum else 0)
        hat = following
    a, t = p["alpha"], rounds
    coefficient = t / (1 - a) - a * (1 - a**t) / (1 - a) ** 2
    difference = hat - p["ref"].log() - coefficient[:, None] * p["r"]
    return ClaimReport(difference.abs().amax(-1), 1e-10)


ACCELERATED = Claim(
    paper=252,
    kind="identity",
    statement="accelerated preference optimisation: after T exact steps the reward's coefficient is "
    "T/(1-a) - a(1-a^T)/(1-a)^2, T without momentum",
    problems=accelerated,
    check=_accelerated,
    twin=Twin("the extrapolation", check=lambda p: _accelerated(p, False)),
    source="derived",
)
