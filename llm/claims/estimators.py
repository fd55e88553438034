"""What the policy-gradient recipes estimate: their mean gradients over all groups, through `prepare` and `loss`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fenchel.llm import exact
from fenchel.llm.claims.problems import (
    EVEN,
    RAGGED,
    binary,
    column,
    draw,
    enumerated,
    gap,
    kl_slope,
    mean_slope,
    recipe,
    slope,
    success,
    value_slope,
    zscore_factor,
)
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin

T = EVEN.max_length


def regularised_slope(p: Problem, beta: float) -> Tensor:
    """grad (E r - beta KL(pi, ref)) at the old policy, ragged answers."""
    return value_slope(RAGGED, p["old"], p["r"]) - beta * kl_slope(RAGGED, p["old"], p["ref"])


def _reinforce(p: Problem, aggregate_of: str = "reinforce") -> ClaimReport:
    method = replace(recipe("reinforce"), aggregate=recipe(aggregate_of).aggregate)
    wanted = -value_slope(RAGGED, p["old"], p["r"])
    return ClaimReport(gap(mean_slope(method, enumerated(p, RAGGED), 2), wanted), 1e-12)


REINFORCE = Claim(
    paper=294,
    kind="theorem",
    statement="recipe reinforce: E g = - grad E r, answers of any lengths, their token terms summed",
    problems=draw(RAGGED),
    check=_reinforce,
    twin=Twin("the sum over tokens (their mean instead)", check=lambda p: _reinforce(p, "grpo")),
    source="derived",
    n=8,
)


def _rloo(p: Problem, key: str = "rloo") -> ClaimReport:
    wanted = -regularised_slope(p, 0.3)
    worst = [gap(mean_slope(recipe(key, beta=0.3), enumerated(p, RAGGED), size), wanted) for size in (2, 3)]
    return ClaimReport(torch.stack(worst).amax(0), 1e-12)


RLOO = Claim(
    paper=294,
    kind="theorem",
    statement="recipe rloo: E g = - grad (E r - beta KL(pi, ref)) of whole answers, for every G >= 2, KL term included",
    problems=draw(RAGGED),
    check=_rloo,
    twin=Twin("the KL term in the reward (k3 in the loss: grpo)", check=lambda p: _rloo(p, "grpo")),
    source="derived",
    n=8,
)


def _remax(p: Problem, beta: float = 0.3) -> ClaimReport:
    wanted = -regularised_slope(p, 0.3)
    return ClaimReport(gap(mean_slope(recipe("remax", beta=beta), enumerated(p, RAGGED), 1), wanted), 1e-12)


REMAX = Claim(
    paper=307,
    kind="theorem",
    statement="recipe remax: with returns to go minus the greedy answer's reward E g = - grad (E r - beta KL(pi, ref))",
    problems=draw(RAGGED),
    check=_remax,
    twin=Twin("the KL term", check=lambda p: _remax(p, 0.0)),
    source="derived",
    n=8,
)


def _dr_grpo(p: Problem, key: str = "dr_grpo", size: int = 3) -> ClaimReport:
    wanted = -(size - 1) / size / RAGGED.max_length * value_slope(RAGGED, p["old"], p["r"])
    options = {"beta": 0.0} if key == "grpo" else {}
    return ClaimReport(gap(mean_slope(recipe(key, **options), enumerated(p, RAGGED), size), wanted), 1e-12)


DR_GRPO = Claim(
    paper=193,
    kind="theorem",
    statement="recipe dr_grpo: E g = - (G - 1) / (G T) grad E r, T the length limit, answers of any lengths",
    problems=draw(RAGGED),
    check=_dr_grpo,
    twin=Twin("no division by std and length (grpo)", check=lambda p: _dr_grpo(p, "grpo")),
    source="derived",
    n=8,
)


def _zscores(p: Problem, keys: tuple[str, ...], size: int = 3, **options: Any) -> ClaimReport:
    wanted = -column(zscore_factor(success(p, EVEN), size)) / T * value_slope(EVEN, p["old"], p["r"])
    worst = []
    for key in keys:
        method = recipe(key, epsilon=1e-12, **options | ({"beta": 0.0} if key == "grpo" else {}))
        worst.append(gap(mean_slope(method, enumerated(p, EVEN), size), wanted))
    return ClaimReport(torch.stack(worst).amax(0), 1e-9)


GRPO = Claim(
    paper=189,
    kind="identity",
    statement="recipes grpo, dapo, gspo, cispo: on policy, binary rewards and equal lengths, E g = - c_G(p) grad p / T "
    "with c_G(p) = E sqrt(k (G - k)) / (G p (1 - p)), k ~ Bin(G, p)",
    problems=binary(EVEN),
    check=lambda p: _zscores(p, ("grpo", "dapo", "gspo", "cispo")),
    twin=Twin("the population's standard deviation", check=lambda p: _zscores(p, ("grpo",), unbiased_std=True)),
    source="derived",
    n=8,
)


def _length_bias(p: Problem) -> ClaimReport:
    """1 - cos(E g, grad J) of grpo, and of grpo with dr_grpo's aggregation, must exceed a margin."""
    problem, true = enumerated(p, RAGGED), value_slope(RAGGED, p["old"], p["r"])
    without = replace(recipe("grpo", beta=0.0), aggregate=recipe("dr_grpo").aggregate)
    bias = [
        1 - torch.cosine_similarity(-mean_slope(m, problem, 3), true, -1) for m in (recipe("grpo", beta=0.0), without)
    ]
    return ClaimReport(1e-3 - torch.minimum(*bias), 0.0)


GRPO_BIAS = Claim(
    paper=193,
    kind="counterexample",
    statement="recipe grpo, real rewards and ragged answers: E g points elsewhere than grad E r (1 - cos > 1e-3), with "
    "and without the division by length",
    problems=draw(RAGGED),
    check=_length_bias,
    source="derived",
    n=4,
)


def _opo(p: Problem, leave_one_out: bool = False) -> ClaimReport:
    """Equal lengths: the gradient of OPO is T times that of Dr. GRPO, group by group."""
    problem = enumerated(p, EVEN)
    opo = exact.moments(recipe("opo", leave_one_out=leave_one_out), problem, p["old"], 2)
    dr = exact.moments(recipe("dr_grpo"), problem, p["old"], 2)
    return ClaimReport(
        torch.maximum(gap(opo[0].flatten(1), T * dr[0].flatten(1)), gap(opo[1].flatten(1), T**2 * dr[1].flatten(1))),
        1e-12,
    )


OPO = Claim(
    paper=334,
    kind="identity",
    statement="recipe opo: for answers of one length its gradient is T times dr_grpo's, in mean and variance",
    problems=draw(EVEN),
    check=_opo,
    twin=Twin("the own answer in the baseline", check=lambda p: _opo(p, True)),
    source="derived",
    n=8,
)


def _oblr(p: Problem, leave_one_out: bool = True) -> ClaimReport:
    method = recipe("oblr_po", leave_one_out=leave_one_out)
    wanted = -value_slope(RAGGED, p["old"], p["r"])
    return ClaimReport(gap(mean_slope(method, enumerated(p, RAGGED), 3), wanted), 1e-12)


OBLR_PO = Claim(
    paper=49,
    kind="theorem",
    statement="recipe oblr_po: weighted by |grad log pi|^2 over the others, the baseline leaves E g = - grad E r",
    problems=draw(RAGGED),
    check=_oblr,
    twin=Twin("leaving the own answer out", check=lambda p: _oblr(p, False)),
    source="derived",
    n=8,
)


def _tracked(p: Problem, whiten: bool = False) -> ClaimReport:
    problem = enumerated(p, EVEN, baseline=p["other"][:, 0])
    wanted = -value_slope(EVEN, p["old"], p["r"]) / T
    return ClaimReport(gap(mean_slope(recipe("spo", whiten=whiten), problem, 2), wanted), 1e-12)


SPO = Claim(
    paper=81,
    kind="theorem",
    statement="recipe spo, before whitening: any baseline from earlier rollouts leaves E g = - grad E r / T",
    problems=draw(EVEN),
    check=_tracked,
    twin=Twin("no whitening over the batch", check=lambda p: _tracked(p, True)),
    source="derived",
    n=8,
)


def _whitened(p: Problem, scaled: bool = True) -> ClaimReport:
    """One batch that holds every answer once, against REINFORCE of the whitened reward."""
    batch = torch.arange(EVEN.num_completions)[None]

    def batch_slope(method: Any, reward: Tensor) -> Tensor:
        problem = enumerated(p, EVEN, reward=reward)
        return slope(lambda x: exact.group_loss(method, problem, x, batch).mean(-1), p["old"])

    std, mean = torch.std_mean(p["r"], -1, keepdim=True, correction=0)
    plain = replace(recipe("reinforce"), aggregate=recipe("reinforce_pp").aggregate)
    wanted = batch_slope(plain, (p["r"] - mean) / (std if scaled else 1))
    keys = ("reinforce_pp", "reinforce_pp_baseline")
    return ClaimReport(torch.stack([gap(batch_slope(recipe(k, beta=0.0), p["r"]), wanted) for k in keys]).amax(0), 1e-7)


REINFORCE_PP = Claim(
    paper=216,
    kind="identity",
    statement="recipes reinforce_pp and reinforce_pp_baseline: the gradient of a batch of one group is REINFORCE's of "
    "(r - mean) / std with the batch's own mean and std: one factor for all prompts",
    problems=draw(EVEN),
    check=_whitened,
    twin=Twin("the division by the batch's std", check=lambda p: _whitened(p, False)),
    source="derived",
    n=8,
)


def _mdpo(p: Problem, moved: bool = False) -> ClaimReport:
    """At the old policy the proximal term has no gradient."""
    problem = enumerated(p, RAGGED)
    wanted = -value_slope(RAGGED, p["old"], p["r"])
    policy = p["pi"] if moved else p["old"]
    return ClaimReport(gap(mean_slope(recipe("mdpo"), problem, 2, policy), wanted), 1e-12)


MDPO = Claim(
    paper=69,
    kind="theorem",
    statement="recipe mdpo: at pi = pi_old its mean gradient is - grad E r, whatever eta is: the first step is the "
    "policy gradient",
    problems=draw(RAGGED),
    check=_mdpo,
    twin=Twin("that pi is pi_old", check=lambda p: _mdpo(p, True)),
    source="derived",
    n=8,
)
