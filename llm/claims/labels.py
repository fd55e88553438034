"""What labels mean to preference recipes: flipped, smoothed, by regret, linear, single answers; moving references."""

from __future__ import annotations

import torch

from fenchel.llm import exact
from fenchel.llm.claims.preferences import BETA, fits, tilt_claim
from fenchel.llm.claims.problems import RAGGED, SINGLE, bradley_terry, draw, enumerated, gap, recipe, slope, tilted
from fenchel.theory.claims.claim import ClaimReport, Problem
from fenchel.theory.rng import Rng
from fenchel.theory.tokens import TokenTree


def mild(rng: Rng, n: int) -> Problem:
    """Rewards within 2 of each other, so that no preference is beyond 0.9."""
    p = draw(RAGGED)(rng, n)
    r = p["r"].tanh()
    return p | dict(r=r, P=torch.sigmoid(r[:, :, None] - r[:, None, :]))


def _flipped(p: Problem, key: str = "rdpo") -> ClaimReport:
    """Labels wrong with probability 0.1: 0.9 P + 0.1 (1 - P)."""
    options = {"flip_rate": 0.1} if key == "rdpo" else {"label_smoothing": 0.1}
    best = tilted(RAGGED, p["ref"], p["r"] / BETA)
    return fits(p, recipe(key, beta=BETA, **options), best, preference=0.8 * p["P"] + 0.1)


RDPO = tilt_claim(
    "rdpo",
    254,
    "with labels flipped at its rate the minimiser is still ref e^(r / beta) / Z",
    "the removal of the bias (cdpo at the same rate)",
    {"check": lambda p: _flipped(p, "cdpo")},
    _flipped,
    problems=mild,
)


def _smoothed(p: Problem, key: str = "cdpo") -> ClaimReport:
    """Labels of which smoothing makes Bradley-Terry ones: (P - 0.1) / 0.8."""
    options = {"label_smoothing": 0.1} if key == "cdpo" else {"flip_rate": 0.1}
    best = tilted(RAGGED, p["ref"], p["r"] / BETA)
    return fits(p, recipe(key, beta=BETA, **options), best, preference=(p["P"] - 0.1) / 0.8)


CDPO = tilt_claim(
    "cdpo",
    254,
    "it learns (1 - eps) P + eps (1 - P): where that is Bradley-Terry in r, the minimiser is ref e^(r / beta) / Z",
    "smoothing (rdpo at the same rate)",
    {"check": lambda p: _smoothed(p, "rdpo")},
    _smoothed,
    problems=mild,
)


def regret(rng: Rng, n: int) -> Problem:
    """Labels by regret under the policy pi: P = sigmoid(alpha (log pi(y) - log pi(z)))."""
    p = draw(RAGGED)(rng, n)
    advantage = BETA * RAGGED.sequence_log_probs(p["pi"])
    return p | dict(star=p["pi"], pi=p["old"], P=torch.sigmoid(advantage[:, :, None] - advantage[:, None, :]))


def _cpl(p: Problem, conservative: float = 1.0) -> ClaimReport:
    return fits(p, recipe("cpl", alpha=BETA, conservative=conservative), p["star"])


CPL = tilt_claim(
    "cpl",
    22,
    "for regret preferences alpha log pi* and conservative = 1 the minimiser is pi*, without a reference",
    "conservative = 1 (0.5 instead)",
    {"check": lambda p: _cpl(p, 0.5)},
    _cpl,
    problems=regret,
)


def linear(rng: Rng, n: int) -> Problem:
    """P(y beats z) = 1/2 + (w(y) - w(z)) / 2 with w in [0, 1]."""
    p = draw(RAGGED)(rng, n)
    w = rng.uniform(n, RAGGED.num_completions)
    return p | dict(r=w, P=0.5 + 0.5 * (w[:, :, None] - w[:, None, :]))


def _exo(p: Problem, both: bool = True) -> ClaimReport:
    eps, policy_beta = 0.2, 0.5
    scale = torch.logit(torch.tensor(1 - eps, dtype=torch.float64)) / (policy_beta if both else 1.0)
    return fits(p, recipe("exo", policy_beta=policy_beta, smoothing=eps), tilted(RAGGED, p["ref"], scale * p["r"]))


EXO = tilt_claim(
    "exo",
    286,
    "for preferences 1/2 + (w - w') / 2 the minimiser is ref e^(w logit(1 - eps) / policy_beta) / Z",
    "the policy's own temperature",
    {"check": lambda p: _exo(p, False)},
    _exo,
    problems=linear,
)


def pairs(rng: Rng, n: int) -> Problem:
    """Two answers of one token each, the first preferred with probability q."""
    q = rng.uniform(n, low=0.05, high=0.95)
    half = torch.full_like(q, 0.5)
    P = torch.stack([torch.stack([half, q], -1), torch.stack([1 - q, half], -1)], -2)
    return draw(TokenTree(2, 1))(rng, n) | dict(P=P, q=q)


def _simpo(p: Problem, shifted: bool = True) -> ClaimReport:
    """beta (log pi_1 - log pi_2) = z at the root of the risk's derivative."""
    q, margin, beta = p["q"], 0.8, 2.0
    lean, decay = 2 * q - 1, torch.exp(torch.tensor(-margin, dtype=q.dtype))
    root = (lean.square() + 4 * q * (1 - q) * decay.square()).sqrt()
    z = ((lean + root) / (2 * (1 - q) * decay)).log() if shifted else torch.logit(q)
    best = torch.stack([z / beta, torch.zeros_like(z)], -1)[:, None].log_softmax(-1)
    return fits(p, recipe("simpo", beta=beta, margin=margin), best, TokenTree(2, 1))


SIMPO = tilt_claim(
    "simpo",
    284,
    "on a pair of one-token answers its minimiser solves e^z = (2q - 1 + sqrt((2q - 1)^2 + 4 q (1 - q) e^(-2 m))) / "
    "(2 (1 - q) e^(-m)), z = beta log(pi_1 / pi_2)",
    "the effect of the margin (z = logit q)",
    {"check": lambda p: _simpo(p, False)},
    _simpo,
    problems=pairs,
    n=32,
)


def _kto(p: Problem, at_reference: bool = True) -> ClaimReport:
    """beta / 4 times the gradient of likelihood weighted by 2 d - 1, d the chance of being desirable."""
    d = torch.sigmoid(p["other"])
    problem = enumerated(p, RAGGED, sampler=p["mu"])
    policy = p["ref"] if at_reference else p["pi"]
    found = slope(lambda x: exact.expected_label_loss(recipe("kto", beta=BETA), problem, x, d), policy)
    weighted = lambda x: -BETA / 4 * (p["mu"] * (2 * d - 1) * RAGGED.sequence_log_probs(x)).sum(-1)  # noqa: E731
    return ClaimReport(gap(found, slope(weighted, policy)), 1e-12)


KTO = tilt_claim(
    "kto",
    315,
    "at pi = ref its mean gradient is - beta / 4 E (2 d(y) - 1) grad log pi(y), d the chance that y is desirable",
    "that pi is ref",
    {"check": lambda p: _kto(p, False)},
    _kto,
    problems=draw(RAGGED),
    kind="identity",
)


def _tr_dpo(p: Problem, alpha: float = 0.6, phases: int = 3, steady: bool = True) -> ClaimReport:
    """Phase by phase: the reference moves by the recipe's rate, DPO is solved again."""
    method = recipe("tr_dpo", beta=BETA, alpha=alpha)
    ref, worst = p["ref"], []
    for k in range(phases):
        growth = (1 + k * (alpha if steady else 1.0)) / BETA
        best = tilted(SINGLE, p["ref"], growth * p["r"])
        worst.append(fits(p | dict(ref=ref), method, best, SINGLE).residual)
        solved = tilted(SINGLE, ref, p["r"] / BETA)
        rate = method.reference.rate(k)
        ref = (rate * solved + (1 - rate) * ref).log_softmax(-1)
    return ClaimReport(torch.stack(worst).amax(0), 1e-11)


TR_DPO = tilt_claim(
    "tr_dpo",
    261,
    "with logits that move by alpha after each solved phase the k-th solution is ref_0 e^((1 + k alpha) r / beta) / Z: "
    "the pull to ref_0 fades",
    "alpha (a full copy assumed)",
    {"check": lambda p: _tr_dpo(p, steady=False)},
    _tr_dpo,
    problems=bradley_terry(SINGLE),
)
