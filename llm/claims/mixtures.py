"""DisCO's gradient, which does not weigh prompts by their difficulty, CHORD's on demonstrations, HPT's gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fenchel.llm.claims.problems import RAGGED, SINGLE, binary, draw, enumerated, gap, mean_slope, recipe, success
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin


def contrast(p: Problem) -> Tensor:
    """The gradient of E[s | wrong] - E[s | right] in logits, s the mean log-probability of an answer's tokens."""
    logits = p["old"].clone().requires_grad_()
    score = RAGGED.sequence_log_probs(logits.log_softmax(-1)) / RAGGED.lengths
    law = RAGGED.sequence_log_probs(p["old"]).exp()
    right, wrong = law * p["r"], law * (1 - p["r"])
    wrong_mean, right_mean = ((x / x.sum(-1, keepdim=True) * score).sum(-1) for x in (wrong, right))
    return torch.autograd.grad((wrong_mean - right_mean).sum(), logits)[0].flatten(1)


def _disco(p: Problem, by_difficulty: bool = False) -> ClaimReport:
    q = success(p, RAGGED)[:, None]
    weight = (q * (1 - q)).sqrt() if by_difficulty else 2 * q * (1 - q)
    slope = mean_slope(recipe("disco"), enumerated(p, RAGGED), 2)
    return ClaimReport(gap(slope, weight * contrast(p)), 1e-12)


DISCO = Claim(
    paper=1,
    kind="theorem",
    statement="recipe disco, groups of 2 on policy: its gradient is that of E[s | wrong] - E[s | right] times "
    "2 p (1 - p), the chance that a group has both, and not GRPO's sqrt(p (1 - p))",
    problems=binary(RAGGED),
    check=_disco,
    twin=Twin("the weight (sqrt(p (1 - p)))", check=lambda p: _disco(p, True)),
    source="derived",
    n=8,
)


def _chord(p: Problem, squared: float = 0.5) -> ClaimReport:
    """The solutions are all 15 answers; mu = 1 / 2 leaves the weight at 1."""
    mask = RAGGED.mask.expand(len(p["pi"]), -1, -1)
    count = mask.flatten(1).sum(-1).to(p["pi"])
    part = recipe("chord", mu=0.5, mu_end=0.5, phi=True).sft

    def slope(of: Callable[[Tensor], Tensor]) -> Tensor:
        logits = p["pi"].clone().requires_grad_()
        table = logits.log_softmax(-1)[:, RAGGED.nodes, RAGGED.tokens]
        return torch.autograd.grad(of(torch.where(mask, table, 0.0)).sum(), logits)[0].flatten(1)

    mine = slope(lambda logp: part.loss(logp, mask, count))
    other = slope(lambda logp: -(mask * (logp.exp() - squared * (2 * logp).exp())).flatten(1).sum(-1) / count)
    return ClaimReport(gap(mine, other), 1e-12)


CHORD = Claim(
    paper=84,
    kind="theorem",
    statement="recipe chord with phi: the gradient on demonstrations is that of - (p - p^2 / 2) per token, which is "
    "bounded, where the likelihood's is that of - log p",
    problems=draw(RAGGED),
    check=_chord,
    twin=Twin("the factor 1 - p of phi (- p alone)", check=lambda p: _chord(p, 0.0)),
    source="derived",
    n=8,
)


def _hpt(p: Problem, gate: float = 0.0) -> ClaimReport:
    problem = enumerated(p, SINGLE)
    gated = replace(recipe("hpt", gate=gate), regulariser=())
    return ClaimReport(gap(mean_slope(gated, problem, 3), mean_slope(recipe("dr_grpo"), problem, 3)), 1e-12)


HPT = Claim(
    paper=48,
    kind="theorem",
    statement="recipe hpt without its entropy bonus: a gate at no right answer takes nothing out of the policy "
    "gradient, whose mean over groups is that of dr_grpo",
    problems=binary(SINGLE),
    check=_hpt,
    twin=Twin("the gate at no right answer (at most 1 of 3)", check=lambda p: _hpt(p, 0.4)),
    source="derived",
    n=8,
)
