"""KL terms of recipes: whose mean gradient is that of the KL of whole answers, and whose is not."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.llm.claims.problems import RAGGED, draw, enumerated, gap, kl_slope, mean_slope
from fenchel.llm.kl_table import methods
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin

REVERSE = (
    "answer: k2 as a loss",
    "answer: k1 with the gradient of k2",
    "answer: f'(pi / ref) log pi, f = kl",
    "k1 in the reward",
)
TOKENS = ("token: k2 as a loss", "token: k3 as a loss", "token: k3 times pi / pi_old")


def term(p: Problem, name: str) -> Tensor:
    """The mean gradient of a KL term alone, on policy."""
    problem = enumerated(p, RAGGED, reward=torch.zeros_like(p["r"]))
    return mean_slope(methods()[name], problem, 1)


def _answers(p: Problem, names: tuple[str, ...] = REVERSE) -> ClaimReport:
    reverse = kl_slope(RAGGED, p["old"], p["ref"])
    forward = kl_slope(RAGGED, p["old"], p["ref"], forward=True)
    worst = [gap(term(p, name), reverse) for name in names] + [gap(term(p, "answer: k3 as a loss"), forward)]
    return ClaimReport(torch.stack(worst).amax(0), 1e-12)


ANSWERS = Claim(
    paper=9,
    kind="theorem",
    statement="KL terms of recipes: k1 in the reward, and k2 of whole answers as a loss, have the mean gradient of "
    "KL(pi, ref); k3 of whole answers has that of KL(ref, pi)",
    problems=draw(RAGGED),
    check=_answers,
    twin=Twin("whole answers (k2 per token)", check=lambda p: _answers(p, TOKENS[:1])),
    source="derived",
    n=16,
)


def _per_token(p: Problem) -> ClaimReport:
    """The relative error of every term of tokens exceeds a tenth, and importance weights turn k3 into k2."""
    reverse = kl_slope(RAGGED, p["old"], p["ref"])
    found = [term(p, name) for name in TOKENS]
    error = torch.stack([(g - reverse).norm(dim=-1) / reverse.norm(dim=-1) for g in found]).amin(0)
    return ClaimReport(torch.maximum(0.1 - error, gap(found[0], found[2]) - 1e-12), 0.0)


PER_TOKEN = Claim(
    paper=189,
    kind="counterexample",
    statement="KL terms of recipes, summed over tokens: k2, k3 and k3 times pi / pi_old are off grad KL(pi, ref) of "
    "whole answers by more than a tenth; the last equals the first",
    problems=draw(RAGGED),
    check=_per_token,
    source="derived",
    n=16,
)
