"""The game recipes against the equilibrium of the solver and against exact steps of self-play."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fenchel.llm import exact
from fenchel.llm.claims.problems import (
    RAGGED,
    SINGLE,
    draw,
    enumerated,
    gap,
    kl_slope,
    mean_slope,
    minimum,
    recipe,
    slope,
    value_slope,
)
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.tokens import TokenTree, kl

BETA = 0.5


def wins(p: Problem, tree: TokenTree, opponent: Tensor) -> Tensor:
    """(n, Y): the chance of beating a log-policy."""
    return torch.einsum("nyz,nz->ny", p["P"], tree.sequence_log_probs(opponent).exp())


def _sppo(p: Problem, moved: bool = False) -> ClaimReport:
    w, eta = wins(p, RAGGED, p["old"]), 1.3
    problem = enumerated(p, RAGGED, win_rate=w)
    policy = p["pi"] if moved else p["old"]
    found = mean_slope(recipe("sppo", eta=eta), problem, 1, policy)
    return ClaimReport(gap(found, -2 * eta * value_slope(RAGGED, policy, w)), 1e-12)


SPPO = Claim(
    paper=241,
    kind="theorem",
    statement="recipe sppo: at pi = pi_t its mean gradient is - 2 eta grad P(pi beats pi_t), the constant 1/2 without "
    "effect",
    problems=draw(RAGGED),
    check=_sppo,
    twin=Twin("that pi is pi_t", check=lambda p: _sppo(p, True)),
    source="derived",
    n=8,
)


def _dno(p: Problem, eta: float = 0.6, own: bool = True) -> ClaimReport:
    w = wins(p, RAGGED, p["old"])
    best = RAGGED.conditionals(RAGGED.sequence_log_probs(p["old"]) + w / (eta if own else 1.0))
    problem = enumerated(p, RAGGED, win_rate=w, sampler=p["mu"])
    return ClaimReport(minimum(lambda x: exact.expected_loss(recipe("dno", eta=eta), problem, x, 2), best, p), 1e-11)


DNO = Claim(
    paper=249,
    kind="theorem",
    statement="recipe dno: given exact win rates its minimiser is pi_t e^(P(y > pi_t) / eta) / Z, for any sampler",
    problems=draw(RAGGED),
    check=_dno,
    twin=Twin("the step 1 / eta", check=lambda p: _dno(p, own=False)),
    source="derived",
    n=8,
)


def _inpo(p: Problem, share: float = 1 / 3, eta: float = 0.8) -> ClaimReport:
    """ref^share pi_t^(1 - share) e^(P pi_t / eta), from labels alone."""
    log_old, log_ref = RAGGED.sequence_log_probs(p["old"]), RAGGED.sequence_log_probs(p["ref"])
    best = RAGGED.conditionals(log_ref / 3 + 2 * log_old / 3 + wins(p, RAGGED, p["old"]) / eta)
    problem = enumerated(p, RAGGED, preference=p["P"])
    method = recipe("inpo", share=share, tau=eta)
    return ClaimReport(minimum(lambda x: exact.expected_pair_loss(method, problem, x), best, p), 1e-11)


INPO = Claim(
    paper=257,
    kind="theorem",
    statement="recipe inpo: on pairs of pi_t and their labels, for any preference, the minimiser is ref^(tau / eta) "
    "pi_t^(1 - tau / eta) e^(P(y > pi_t) / eta) / Z",
    problems=draw(RAGGED),
    check=_inpo,
    twin=Twin("the share of the reference", check=lambda p: _inpo(p, share=0.0)),
    source="derived",
    n=8,
)


def tournaments(rng: Rng, n: int) -> Problem:
    """Certain and mostly intransitive verdicts between five answers."""
    upper = (rng.uniform(n, SINGLE.num_completions, SINGLE.num_completions) < 0.5).to(torch.float64).triu(1)
    P = upper + (1 - upper).triu(1).mT + 0.5 * torch.eye(SINGLE.num_completions, dtype=torch.float64)
    return draw(SINGLE)(rng, n) | dict(P=P)


def _egpo(p: Problem, step: float = 1.0, rounds: int = 12, beta: float = 0.5) -> ClaimReport:
    """Gradient steps of the recipe in logits, each undone once, against the equilibrium of the solver.

    The sampler is uniform over n answers, for which a gradient step of size n eta / 2 moves logits by eta (P q - beta
    log pi / ref).
    """
    n = SINGLE.num_completions
    uniform = torch.full_like(p["mu"], 1 / n)
    method, eta = recipe("egpo", beta=beta), step / (1 + beta)
    ref = p["ref"][:, 0]
    star = solve(p["P"], "kl_nash", alpha=beta, reference=ref.exp(), tol=1e-10).policy.log()

    def move(policy: Tensor, opponent: Tensor) -> Tensor:
        problem = enumerated(p, SINGLE, win_rate=wins(p, SINGLE, opponent), sampler=uniform)
        g = slope(lambda x: exact.expected_loss(method, problem, x, 2), policy)
        return (policy - n * eta / 2 * g.reshape(policy.shape)).log_softmax(-1)

    policy, start, worst = p["pi"], kl(star, p["pi"][:, 0]), []
    for t in range(1, rounds + 1):
        policy = move(policy, move(policy, policy))
        worst.append(kl(star, policy[:, 0]) - start * (1 - eta * beta) ** t)
    return ClaimReport(torch.stack(worst).amax(0), 1e-9)


EGPO = Claim(
    paper=308,
    kind="theorem",
    statement="recipe egpo: extragradient steps of its exact gradient reach the regularised equilibrium at the rate "
    "KL(pi*, pi_t) <= KL(pi*, pi_0) (1 - eta beta)^t, eta = 1 / (1 + beta)",
    problems=tournaments,
    check=_egpo,
    twin=Twin("the step bound (3 / (1 + beta) instead)", check=lambda p: _egpo(p, 3.0)),
    source="derived",
    n=16,
)


def _nash_mp(p: Problem, whole: bool = True) -> ClaimReport:
    """The gradient of a proximal step's objective where the step begins."""
    w = wins(p, RAGGED, p["pi"])
    problem = enumerated(p, RAGGED, win_rate=w)
    wanted = -(value_slope(RAGGED, p["old"], w) - BETA * kl_slope(RAGGED, p["old"], p["ref"]))
    method = recipe("nash_mp", beta=BETA)
    if not whole:
        method = replace(method, regulariser=(*recipe("grpo", beta=BETA).regulariser, method.regulariser[1]))
    return ClaimReport(gap(mean_slope(method, problem, 2), wanted), 1e-12)


NASH_MP = Claim(
    paper=158,
    kind="theorem",
    statement="recipe nash_mp: where a proximal step begins its mean gradient is that of - P(pi beats q) + beta KL(pi, "
    "ref) of whole answers, for any opponent q",
    problems=draw(RAGGED),
    check=_nash_mp,
    twin=Twin("the KL of whole answers (k3 per token)", check=lambda p: _nash_mp(p, False)),
    source="derived",
    n=8,
)
