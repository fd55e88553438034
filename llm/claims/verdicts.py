"""Recipes that read a verdict, right or wrong: what leaving answers or groups out does, exactly."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fenchel.llm import exact
from fenchel.llm.claims.problems import (
    EVEN,
    RAGGED,
    binary,
    column,
    enumerated,
    gap,
    mean_slope,
    recipe,
    success,
    value_slope,
)
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.rng import Rng

T = EVEN.max_length


def _raft(p: Problem, size: int = 3, key: str = "raft") -> ClaimReport:
    """- (1 - (1 - p)^G) grad log p."""
    rate = column(success(p, RAGGED))
    wanted = -(1 - (1 - rate) ** size) / rate * value_slope(RAGGED, p["old"], p["r"])
    return ClaimReport(gap(mean_slope(recipe(key), enumerated(p, RAGGED), size), wanted), 1e-12)


RAFT = Claim(
    paper=234,
    kind="theorem",
    statement="recipe raft, one prompt: E g = - (1 - (1 - p)^G) grad log p, which tends to - grad log p: hard prompts "
    "weigh 1 / p",
    problems=binary(RAGGED),
    check=_raft,
    twin=Twin("leaving wrong answers out of the mean (reinforce)", check=lambda p: _raft(p, key="reinforce")),
    source="derived",
    n=8,
)


def _raft_pp(p: Problem, clipped: bool = False) -> ClaimReport:
    """Equal lengths, on policy: raft / T; away from it the clip stops what raft goes on with."""
    problem = enumerated(p, EVEN)
    policy = p["pi"] if clipped else p["old"]
    likelihood = mean_slope(recipe("raft"), problem, 2, policy) / T
    return ClaimReport(gap(mean_slope(recipe("raft_pp"), problem, 2, policy), likelihood), 1e-12)


RAFT_PP = Claim(
    paper=234,
    kind="identity",
    statement="recipe raft_pp: on policy and for equal lengths E g is 1 / T of raft's",
    problems=binary(EVEN),
    check=_raft_pp,
    twin=Twin("that pi is pi_old", check=lambda p: _raft_pp(p, True)),
    source="derived",
    n=8,
)


def _rejected(p: Problem, size: int = 3, both: bool = True) -> ClaimReport:
    """Groups without both verdicts left out: (1 - p^(G - 1)) grad p / T."""
    rate = column(success(p, EVEN))
    wanted = -((1 - rate ** (size - 1)) if both else 1.0) / T * value_slope(EVEN, p["old"], p["r"])
    return ClaimReport(gap(mean_slope(recipe("reinforce_rej"), enumerated(p, EVEN), size), wanted), 1e-12)


REINFORCE_REJ = Claim(
    paper=234,
    kind="identity",
    statement="recipe reinforce_rej, one prompt, rewards 0 and 1: E g = - (1 - p^(G - 1)) grad p / T: only the groups "
    "that are right throughout are lost",
    problems=binary(EVEN),
    check=_rejected,
    twin=Twin("the factor 1 - p^(G - 1)", check=lambda p: _rejected(p, both=False)),
    source="derived",
    n=8,
)


def _signed(p: Problem, aggregate_of: str = "nsr") -> ClaimReport:
    """E g of psr, nsr and w_reinforce: 1, 1 and 1 + lambda times - grad p / T."""
    tree = EVEN if aggregate_of == "nsr" else RAGGED
    problem = enumerated(p, tree)
    unit = -value_slope(tree, p["old"], p["r"]) / tree.max_length
    worst = [
        gap(mean_slope(replace(recipe(key), aggregate=recipe(aggregate_of).aggregate), problem, 2), factor * unit)
        for key, factor in (("psr", 1.0), ("nsr", 1.0), ("w_reinforce", 1.1))
    ]
    return ClaimReport(torch.stack(worst).amax(0), 1e-12)


SIGNED = Claim(
    paper=47,
    kind="identity",
    statement="recipes psr, nsr, w_reinforce: on policy and for equal lengths E g = - grad p / T, - grad p / T and "
    "- (1 + lambda) grad p / T: reinforcing right and punishing wrong answers differ in variance alone",
    problems=binary(EVEN),
    check=_signed,
    twin=Twin(
        "equal lengths (each answer divided by its own)", problems=binary(RAGGED), check=lambda p: _signed(p, "grpo")
    ),
    source="derived",
    n=8,
)


def _alpha(p: Problem, alpha: bool = True) -> ClaimReport:
    """A batch of groups: with the uniform ones left out of the mean, batch / mixed times the mean over all."""
    n, count, G = p["verdict"].shape
    answer = torch.arange(count * G).reshape(1, -1) % EVEN.num_completions
    rollout = enumerated(p, EVEN).rollout(answer)
    shape = {k: getattr(rollout, k).reshape(n, count, G, -1) for k in ("tokens", "mask", "old_logp")}
    rollout = replace(rollout, **shape, reward=p["verdict"], truncated=torch.zeros(n, count, G, dtype=torch.bool))
    mixed = (p["verdict"].amax(-1) > p["verdict"].amin(-1)).sum(-1).clamp(min=1)

    def batch_slope(method) -> Tensor:
        logp = rollout.old_logp.clone().requires_grad_()
        return torch.autograd.grad(method.loss(method.prepare(rollout), logp).sum(), logp)[0].flatten(1)

    factor = column(count / mixed.to(p["r"])) if alpha else 1.0
    return ClaimReport(gap(batch_slope(recipe("gpg")), factor * batch_slope(replace(recipe("gpg"), mask=()))), 1e-12)


def batches(rng: Rng, n: int) -> Problem:
    """Six groups of four verdicts each, the first uniform and the second mixed."""
    verdict = (rng.uniform(n, 6, 4) < 0.5).to(torch.float64)
    verdict[:, 0], verdict[:, 1, 0], verdict[:, 1, 1] = 1.0, 0.0, 1.0
    return binary(EVEN)(rng, n) | dict(verdict=verdict)


GPG = Claim(
    paper=212,
    kind="identity",
    statement="recipe gpg, equal lengths: leaving uniform groups out of the mean multiplies the gradient of all groups "
    "by alpha = groups / mixed groups, exactly",
    problems=batches,
    check=_alpha,
    twin=Twin("the factor alpha", check=lambda p: _alpha(p, False)),
    source="derived",
    n=16,
)


def _nft(p: Problem, weighting: str = "zscore", size: int = 3) -> ClaimReport:
    """On policy: NFT's gradient is GRPO's or Dr. GRPO's on the same groups, in mean and variance."""
    problem = enumerated(p, RAGGED)
    nft = exact.moments(recipe("nft", weighting=weighting, margin=1e-6), problem, p["old"], size)
    other = replace(recipe("dr_grpo"), advantage=recipe("grpo", epsilon=1e-12).advantage, ratio=recipe("nft").ratio)
    grpo = exact.moments(other, problem, p["old"], size)
    return ClaimReport(
        torch.maximum(gap(nft[0].flatten(1), grpo[0].flatten(1)), gap(nft[1].flatten(1), grpo[1].flatten(1))), 1e-9
    )


NFT = Claim(
    paper=117,
    kind="identity",
    statement="recipe nft with the weight sqrt((1 - q) / q): on policy its gradient is that of z-scored advantages, "
    "summed over tokens, in mean and variance over groups",
    problems=binary(RAGGED),
    check=_nft,
    twin=Twin("the weight of the prompt (1 - q instead)", check=lambda p: _nft(p, "difficulty")),
    source="derived",
    n=4,
)


def _rover(p: Problem, key: str = "rover") -> ClaimReport:
    """On policy: 2 scale times the policy gradient of r minus the group's mean, a mean over tokens."""
    problem = enumerated(p, EVEN)
    wanted = -2 * 2 / 3 / T * value_slope(EVEN, p["old"], p["r"])
    return ClaimReport(gap(mean_slope(recipe(key, scale=1.0), problem, 3), wanted), 1e-12)


def _rover_off(p: Problem) -> ClaimReport:
    wanted = -2 * 2 / 3 / T * value_slope(EVEN, p["pi"], p["r"])
    return ClaimReport(gap(mean_slope(recipe("rover"), enumerated(p, EVEN), 3, p["pi"]), wanted), 1e-12)


ROVER = Claim(
    paper=24,
    kind="identity",
    statement="recipe rover: at pi = pi_old its mean gradient is - 2 scale (G - 1) / (G T) grad E r, whatever the "
    "vocabulary's mean does: the random policy's value enters with the second step",
    problems=binary(EVEN),
    check=_rover,
    twin=Twin("that pi is pi_old", check=_rover_off),
    source="derived",
    n=8,
)
