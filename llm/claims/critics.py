"""PPO's recipes: what a critic does to the mean gradient."""

from __future__ import annotations

import torch

from fenchel.llm.claims.problems import EVEN, draw, enumerated, gap, mean_slope, recipe, value_slope
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin

T = EVEN.max_length


def _critic(p: Problem, key: str = "ppo", lam: float = 0.5, exact_critic: bool = True, **options) -> ClaimReport:
    """Mean gradient with V of the old policy, or with any V."""
    V, _ = EVEN.values(p["old"], p["r"])
    problem = enumerated(p, EVEN, value=V if exact_critic else p["pi"][..., 0])
    options = {"lam": lam, "whiten": False} | options | ({"beta": 0.0} if key == "ppo" else {})
    wanted = -value_slope(EVEN, p["old"], p["r"]) / T
    return ClaimReport(gap(mean_slope(recipe(key, **options), problem, 1), wanted), 1e-12)


def _any_lambda(p: Problem, exact_critic: bool = True) -> ClaimReport:
    worst = [_critic(p, lam=lam, exact_critic=exact_critic).residual for lam in (0.0, 0.5, 1.0)]
    worst.append(_critic(p, length_alpha=0.9, exact_critic=exact_critic).residual)
    return ClaimReport(torch.stack(worst).amax(0), 1e-12)


PPO = Claim(
    paper=232,
    kind="theorem",
    statement="recipe ppo: with the exact critic of the old policy E g = - grad E r / T on policy, for every lambda, "
    "also one per length",
    problems=draw(EVEN),
    check=_any_lambda,
    twin=Twin("an exact critic", check=lambda p: _any_lambda(p, False)),
    source="derived",
    n=8,
)


def _decoupled(p: Problem, lam_critic: float = 1.0) -> ClaimReport:
    """lambda = 1 for the actor: exact for any V; the critic's targets are the outcome at every token."""
    problem = enumerated(p, EVEN, value=p["pi"][..., 0])
    prepared = recipe("vc_ppo", lam_critic=lam_critic).prepare(
        problem.rollout(torch.arange(EVEN.num_completions)[:, None])
    )
    targets = prepared.returns.reshape(len(p["r"]), EVEN.num_completions, T)
    outcome = (targets - p["r"][..., None]).abs().amax((1, 2))
    return ClaimReport(torch.maximum(_critic(p, "vc_ppo", 1.0, exact_critic=False).residual, outcome), 1e-12)


VC_PPO = Claim(
    paper=311,
    kind="theorem",
    statement="recipe vc_ppo: with lambda = 1 for the critic its targets are r at every token, and with lambda = 1 for "
    "the actor E g = - grad E r / T for any critic",
    problems=draw(EVEN),
    check=_decoupled,
    twin=Twin("lambda = 1 for the critic", check=lambda p: _decoupled(p, 0.9)),
    source="derived",
    n=8,
)
