"""Policy optimisation by regression: no clip, no importance weight; the minimiser is a tilt of a base policy.

rho(y) = log pi(y) - log base(y), summed over tokens; the base is the reference (ref) or the policy that sampled (old).
"""

from __future__ import annotations

from fenchel.llm.parts.advantages import GroupMean, Raw, ReferenceValue
from fenchel.llm.parts.aggregates import ConstantLength, SequenceMean, TokenMean
from fenchel.llm.parts.masks import DropUniform
from fenchel.llm.parts.ratios import ReferenceRatio, SequenceRatio, TokenRatio
from fenchel.llm.parts.rewards import Outcome, OutcomeWithKL
from fenchel.llm.parts.surrogates import (
    Contrastive,
    GroupVariance,
    ImplicitCritic,
    NegativeAware,
    OptimalAdvantage,
    RandomPolicyValue,
    RelativeReward,
)
from fenchel.llm.recipe import Recipe

GVPO = Recipe(
    title="Group variance policy optimisation",
    paper=168,
    family="regression",
    formula="G / (2 (G - 1)) (beta (rho_i - mean) - (r_i - mean))^2, base old",
    reward=Outcome(),
    advantage=Raw(),
    ratio=SequenceRatio(),
    surrogate=GroupVariance(),
    aggregate=SequenceMean(),
)

FLOW_TB = Recipe(
    title="Trajectory balance with the partition function taken from the group",
    family="regression",
    formula="G / (2 (G - 1)) (beta (rho_i - mean) - (r_i - mean))^2, base ref: log Z is the group's mean",
    departures="GVPO with another base policy; trajectory balance learns log Z, here it is profiled out",
    reward=Outcome(),
    advantage=Raw(),
    ratio=ReferenceRatio(),
    surrogate=GroupVariance(),
    aggregate=SequenceMean(),
)

A_STAR_PO = Recipe(
    title="Optimal advantage regression",
    paper=242,
    family="regression",
    formula="(beta rho - (r - V*))^2, base ref, V* = value_beta log mean exp(r / value_beta) over answers of ref",
    departures="as published the two temperatures differ (0.5 and 1e-3), so that the loss has no zero",
    group_size=1,
    reward=Outcome(),
    advantage=ReferenceValue(),
    ratio=ReferenceRatio(),
    surrogate=OptimalAdvantage(),
    aggregate=SequenceMean(),
)

REBEL = Recipe(
    title="Regressing relative rewards",
    paper=246,
    family="regression",
    formula="((rho_i - rho_j) / eta - (r_i - r_j))^2, base old, a KL term inside r",
    departures="all pairs of the group; released code multiplies by eta^2",
    group_size=2,
    reward=OutcomeWithKL(beta=0.05),
    advantage=Raw(),
    ratio=SequenceRatio(),
    surrogate=RelativeReward(),
    aggregate=SequenceMean(),
)

COPG = Recipe(
    title="Contrastive policy gradient",
    paper=55,
    family="regression",
    formula="(r_i - r_j - beta (rho_i - rho_j))^2 / (2 beta), base ref",
    departures="all pairs of the group",
    group_size=2,
    reward=Outcome(),
    advantage=Raw(),
    ratio=ReferenceRatio(),
    surrogate=Contrastive(),
    aggregate=SequenceMean(),
)

PACS = Recipe(
    title="Implicit actor-critic by a supervised loss",
    paper=31,
    family="regression",
    formula="cross-entropy of r_i and sigmoid(beta (rho_i - mean of the others' rho)), base old",
    departures="without the paper's class weights",
    reward=Outcome(),
    advantage=Raw(),
    ratio=SequenceRatio(),
    surrogate=ImplicitCritic(),
    aggregate=SequenceMean(),
)

NFT = Recipe(
    title="Negative-aware fine-tuning",
    paper=117,
    family="regression",
    formula="- w(q) log rho on right answers, - w(q) log max((1 - q rho) / (1 - q), floor) on wrong ones, per token",
    departures="the clamp is straight-through, as released; floor 0.1, where the released script has 1.0; the sum over "
    "tokens is divided by the longest possible answer, where it has 1000",
    reward=Outcome(),
    advantage=Raw(),
    ratio=TokenRatio(),
    surrogate=NegativeAware(),
    aggregate=ConstantLength(),
    mask=(DropUniform(),),
)

ROVER = Recipe(
    title="Random policy valuation",
    paper=24,
    family="regression",
    formula="(Q_t - (r_i - mean) - mean over v of Q_{t+1}(v))^2, Q = scale (log pi - log pi_old), averaged over tokens",
    departures="the centred reward of the released countdown code; its code for mathematics weighs right and wrong "
    "answers by their shares of the batch",
    reward=Outcome(),
    advantage=GroupMean(),
    ratio=TokenRatio(),
    surrogate=RandomPolicyValue(),
    aggregate=TokenMean(),
)
