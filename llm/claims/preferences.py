"""Where the preference recipes lead: minimisers of E over pairs of any sampler and their labels, through the recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.llm import exact
from fenchel.llm.claims.problems import (
    RAGGED,
    bradley_terry,
    draw,
    enumerated,
    minimum,
    pair_slope,
    recipe,
    tilted,
)
from fenchel.theory import tokens
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.f_divergence import optimum
from fenchel.theory.tokens import TokenTree

BETA = 0.7


def fits(p: Problem, method: Any, best: Tensor, tree: TokenTree = RAGGED, **columns: Any) -> ClaimReport:
    """That `best` minimises the mean loss over labelled pairs of p["mu"]."""
    problem = enumerated(p, tree, sampler=p["mu"], **({"preference": p["P"]} | columns))
    return ClaimReport(minimum(lambda x: exact.expected_pair_loss(method, problem, x), best, p), 1e-11)


def log_ref(p: Problem, tree: TokenTree = RAGGED) -> Tensor:
    return tree.sequence_log_probs(p["ref"])


def tilt_claim(key: str, paper: int, statement: str, dropped: str, twin: Any, check: Any, **more: Any) -> Claim:
    given = dict(kind="theorem", problems=bradley_terry(RAGGED), source="derived", n=8) | more
    return Claim(paper=paper, statement=f"recipe {key}: {statement}", check=check, twin=Twin(dropped, **twin), **given)


def _dpo(p: Problem, key: str = "dpo", **options: Any) -> ClaimReport:
    return fits(p, recipe(key, beta=BETA, **options), tilted(RAGGED, p["ref"], p["r"] / BETA))


DPO = tilt_claim(
    "dpo",
    318,
    "under Bradley-Terry the minimiser over token policies is ref e^(r / beta) / Z, for pairs of any sampler",
    "Bradley-Terry labels",
    {"problems": draw(RAGGED)},
    _dpo,
)

WPO = tilt_claim(
    "wpo",
    237,
    "detached weights w(y_w) w(y_l) of the live policy leave ref e^(r / beta) / Z stationary under Bradley-Terry",
    "Bradley-Terry labels",
    {"problems": draw(RAGGED)},
    lambda p: _stationary(p, "wpo"),
)


def _stationary(p: Problem, key: str) -> ClaimReport:
    """The weights move with the policy, so the loss has no minimum to compare: the gradient alone."""
    problem = enumerated(p, RAGGED, sampler=p["mu"], preference=p["P"])
    best = tilted(RAGGED, p["ref"], p["r"] / BETA)
    return ClaimReport(pair_slope(recipe(key, beta=BETA), problem, best).abs().amax(-1), 1e-11)


def _ipo(p: Problem, **options: Any) -> ClaimReport:
    wins = torch.einsum("nyz,nz->ny", p["P"], p["mu"])
    return fits(p, recipe("ipo", tau=BETA, **options), tilted(RAGGED, p["ref"], wins / BETA))


IPO = tilt_claim(
    "ipo",
    287,
    "for any preference the minimiser is ref e^(P(y > mu) / tau) / Z",
    "sums over tokens (per_token=true, as in TRL)",
    {"check": lambda p: _ipo(p, per_token=True)},
    _ipo,
    problems=draw(RAGGED),
)


def _f_dpo(p: Problem, matched: bool = True) -> ClaimReport:
    """js, the paper's forward KL, alpha = 0.3: optima by bisection on the normaliser."""
    bandit = dict(ref=log_ref(p).exp(), r=p["r"], beta=torch.full_like(p["b"], BETA))
    worst = []
    for name in ("js", "reverse_kl", "alpha:0.3"):
        best = RAGGED.conditionals(optimum(name if matched else "kl", bandit).log())
        worst.append(fits(p, recipe("f_dpo", beta=BETA, divergence=name), best).residual)
    return ClaimReport(torch.stack(worst).amax(0), 1e-8)


F_DPO = tilt_claim(
    "f_dpo",
    36,
    "under Bradley-Terry it is least where E r - beta D_f(pi || ref) is largest (js, reverse_kl, alpha:0.3)",
    "the same f in loss and constraint",
    {"check": lambda p: _f_dpo(p, False)},
    _f_dpo,
    n=4,
)


def _r_dpo(p: Problem, sign: float = -1.0) -> ClaimReport:
    best = tilted(RAGGED, p["ref"], (p["r"] + sign * 0.3 * RAGGED.lengths.to(p["r"])) / BETA)
    return fits(p, recipe("r_dpo", beta=BETA, penalty=0.3), best)


R_DPO = tilt_claim(
    "r_dpo",
    315,
    "under Bradley-Terry the minimiser is ref e^((r - penalty |y|) / beta) / Z",
    "the sign of the penalty",
    {"check": lambda p: _r_dpo(p, 1.0)},
    _r_dpo,
)


def _h_dpo(p: Problem, alpha: float = 0.8, split: bool = True) -> ClaimReport:
    scale = alpha if split else 1.0
    best = RAGGED.conditionals(log_ref(p) / scale + p["r"] / (alpha * BETA))
    return fits(p, recipe("h_dpo", beta=BETA, alpha=alpha), best)


H_DPO = tilt_claim(
    "h_dpo",
    297,
    "under Bradley-Terry the minimiser is ref^(1/alpha) e^(r / (alpha beta)) / Z: dpo's at sequence temperature alpha",
    "the exponent of ref",
    {"check": lambda p: _h_dpo(p, split=False)},
    _h_dpo,
)


def _modpo(p: Problem, weighted: bool = True) -> ClaimReport:
    w = 0.4
    best = tilted(RAGGED, p["ref"], ((w if weighted else 1.0) * p["r"] + (1 - w) * p["other"]) / BETA)
    return fits(p, recipe("modpo", beta=BETA, preference_weight=w), best, margin=(1 - w) * p["other"])


MODPO = tilt_claim(
    "modpo",
    279,
    "on labels of r_1 the minimiser is ref e^((w_1 r_1 + w_2 r_2) / beta) / Z",
    "the weight of the labelled reward",
    {"check": lambda p: _modpo(p, False)},
    _modpo,
)


def _exo_rw(p: Problem, both: bool = True) -> ClaimReport:
    best = tilted(RAGGED, p["ref"], p["r"] / (0.5 * (BETA if both else 1.0)))
    problem = enumerated(p, RAGGED, sampler=p["mu"])
    loss = lambda x: exact.expected_loss(recipe("exo_rw", policy_beta=0.5, reward_beta=BETA), problem, x, 3)  # noqa: E731
    return ClaimReport(torch.maximum(minimum(loss, best, p), loss(best)), 1e-11)


EXO_RW = tilt_claim(
    "exo_rw",
    286,
    "over groups of any sampler it is zero, its minimum, at ref e^(r / (policy_beta reward_beta)) / Z",
    "the reward's temperature",
    {"check": lambda p: _exo_rw(p, False)},
    _exo_rw,
    n=4,
)


def _rpo(p: Problem, eta: float = 0.4, centred: bool = True) -> ClaimReport:
    """The loss at pi = loss of DPO + eta (max_q J_r(q) - E_chosen r) - eta beta E_chosen log ref, r = beta log pi/ref.

    The maximum comes from its closed form, `tokens.kl_optimum`.
    """
    problem = enumerated(p, RAGGED, sampler=p["mu"], preference=p["P"])
    chosen = tokens.preference_pairs(p["mu"], p["P"]).sum(-1)
    reward = BETA * (RAGGED.sequence_log_probs(p["pi"]) - log_ref(p))
    best = tokens.kl_optimum(log_ref(p), reward, BETA)[1] if centred else torch.zeros_like(p["b"])
    regulariser = eta * (best - (chosen * reward).sum(-1)) - eta * BETA * (chosen * log_ref(p)).sum(-1)
    if not centred:
        regulariser = regulariser + eta * (chosen * reward).sum(-1)
    dpo = exact.expected_pair_loss(recipe("dpo", beta=BETA), problem, p["pi"])
    rpo = exact.expected_pair_loss(recipe("rpo", beta=BETA, sft_weight=eta * BETA), problem, p["pi"])
    return ClaimReport((rpo - dpo - regulariser).abs(), 1e-11)


RPO = tilt_claim(
    "rpo",
    85,
    "its value is DPO's plus eta (max_q E_q r - beta KL(q, ref) - E_chosen r) up to a constant, r = beta log pi / ref: "
    "the likelihood of chosen answers is an adversary's regulariser",
    "the reward of the chosen answers",
    {"check": lambda p: _rpo(p, centred=False)},
    _rpo,
)
