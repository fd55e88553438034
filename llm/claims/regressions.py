"""Where the regression recipes lead: minimisers of their population losses, from answers of any sampler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.llm import exact
from fenchel.llm.claims.problems import (
    EVEN,
    RAGGED,
    binary,
    draw,
    enumerated,
    gap,
    mean_slope,
    minimum,
    recipe,
    tilted,
    value_slope,
)
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin

BETA = 0.7


def fits(p: Problem, method: Any, best: Tensor, size: int = 2, **columns: Any) -> ClaimReport:
    """That `best` minimises the recipe's loss over answers that p["mu"] drew."""
    problem = enumerated(p, columns.pop("tree", RAGGED), sampler=p["mu"], **columns)
    return ClaimReport(minimum(lambda x: exact.expected_loss(method, problem, x, size), best, p), 1e-11)


def _sft(p: Problem, by_length: bool = True) -> ClaimReport:
    """Batches of one solution, which p["mu"] draws: the mean over its tokens divides by its own length."""
    law = p["mu"] / RAGGED.lengths if by_length else p["mu"]
    return fits(p, recipe("sft"), RAGGED.conditionals((law / law.sum(-1, keepdim=True)).log()), 1)


SFT = Claim(
    paper=48,
    kind="theorem",
    statement="recipe sft, in batches of one solution: the minimiser is the law of the solutions with weights 1 / |y|, "
    "whatever the reward and the policy",
    problems=draw(RAGGED),
    check=_sft,
    twin=Twin("the weight 1 / |y| (the law itself)", check=lambda p: _sft(p, False)),
    source="derived",
    n=8,
)


def _gvpo(p: Problem, base: str = "old") -> ClaimReport:
    return fits(p, recipe("gvpo", beta=BETA), tilted(RAGGED, p[base], p["r"] / BETA), 3)


GVPO = Claim(
    paper=168,
    kind="theorem",
    statement="recipe gvpo: for answers of any sampler of full support the minimiser is old e^(r / beta) / Z",
    problems=draw(RAGGED),
    check=_gvpo,
    twin=Twin("the base policy (ref instead of old)", check=lambda p: _gvpo(p, "ref")),
    source="derived",
    n=4,
)


def _flow_tb(p: Problem, base: str = "ref") -> ClaimReport:
    return fits(p, recipe("flow_tb", beta=BETA), tilted(RAGGED, p[base], p["r"] / BETA), 3)


FLOW_TB = Claim(
    paper=319,
    kind="theorem",
    statement="recipe flow_tb: with log Z taken from the group trajectory balance is least at ref e^(r / beta) / Z, "
    "for any sampler",
    problems=draw(RAGGED),
    check=_flow_tb,
    twin=Twin("the base policy (old instead of ref)", check=lambda p: _flow_tb(p, "old")),
    source="derived",
    n=4,
)


def _copg(p: Problem, sampler_matters: bool = False) -> ClaimReport:
    best = tilted(RAGGED, p["ref"], p["r"] / BETA)
    return fits(p, recipe("rloo" if sampler_matters else "copg", beta=BETA), best)


COPG = Claim(
    paper=55,
    kind="theorem",
    statement="recipe copg: for answers of any sampler of full support the minimiser is ref e^(r / beta) / Z, without "
    "importance weights",
    problems=draw(RAGGED),
    check=_copg,
    twin=Twin("the regularised reward as baseline (rloo on the same answers)", check=lambda p: _copg(p, True)),
    source="derived",
    n=8,
)


def _rebel(p: Problem, eta: float = 0.8, inside: bool = True) -> ClaimReport:
    beta = 0.3
    log_ratio = RAGGED.sequence_log_probs(p["old"]) - RAGGED.sequence_log_probs(p["ref"])
    reward = p["r"] - beta * log_ratio if inside else p["r"]
    return fits(p, recipe("rebel", eta=eta, beta=beta), tilted(RAGGED, p["old"], eta * reward))


REBEL = Claim(
    paper=246,
    kind="theorem",
    statement="recipe rebel: the minimiser is old e^(eta R) / Z, R = r - beta log(old / ref), for any sampler",
    problems=draw(RAGGED),
    check=_rebel,
    twin=Twin("the KL term in the reward", check=lambda p: _rebel(p, inside=False)),
    source="derived",
    n=8,
)


def _a_star(p: Problem, value_beta: float = BETA) -> ClaimReport:
    """A uniform reference, so that all answers once are a sample of it that gives V* exactly."""
    uniform = torch.zeros_like(p["ref"]).log_softmax(-1)
    method = recipe("a_star_po", beta=BETA, value_beta=value_beta)
    best = tilted(EVEN, uniform, p["r"] / BETA)
    return fits(p, method, best, 1, tree=EVEN, reference=uniform, reference_reward=p["r"])


A_STAR_PO = Claim(
    paper=242,
    kind="theorem",
    statement="recipe a_star_po with one temperature: given V* the minimiser is ref e^(r / beta) / Z, for any sampler",
    problems=draw(EVEN),
    check=_a_star,
    twin=Twin("one temperature for value and regression", check=lambda p: _a_star(p, 3.0)),
    source="derived",
    n=8,
)


def _pacs(p: Problem, moved: bool = False) -> ClaimReport:
    wanted = -0.5 * value_slope(RAGGED, p["old"], p["r"])
    policy = p["pi"] if moved else p["old"]
    return ClaimReport(gap(mean_slope(recipe("pacs", beta=0.5), enumerated(p, RAGGED), 3, policy), wanted), 1e-12)


PACS = Claim(
    paper=31,
    kind="theorem",
    statement="recipe pacs: at pi = pi_old its mean gradient is - beta grad p: it begins as leave-one-out REINFORCE",
    problems=binary(RAGGED),
    check=_pacs,
    twin=Twin("that pi is pi_old", check=lambda p: _pacs(p, True)),
    source="derived",
    n=4,
)
