"""Learning from worked solutions: alone, in the form of a rollout, and beside the policy's own answers."""

from __future__ import annotations

from fenchel.llm.parts.advantages import GroupMean, GroupZScore, One
from fenchel.llm.parts.aggregates import ConstantLength, TokenMean
from fenchel.llm.parts.demonstrations import Balanced, OwnSolutions
from fenchel.llm.parts.masks import AboveGate
from fenchel.llm.parts.ratios import NoRatio, TokenRatio
from fenchel.llm.parts.regularisers import Entropy
from fenchel.llm.parts.rewards import NoReward, Outcome
from fenchel.llm.parts.surrogates import Clip, Importance, Reinforce
from fenchel.llm.recipe import Recipe

SFT = Recipe(
    title="Supervised fine-tuning, continued",
    family="supervised",
    formula="- log pi(y_t | s_t), averaged over the tokens of worked solutions",
    data="demonstrations",
    group_size=1,
    reward=NoReward(),
    advantage=One(),
    ratio=NoRatio(),
    surrogate=Reinforce(),
    aggregate=TokenMean(),
)

CHORD = Recipe(
    title="GRPO and supervised learning, their balance shifting as training goes on",
    paper=84,
    formula="- min(rho A_i, clip(rho) A_i), averaged over tokens, - mu / (1 - mu) phi log pi over those of solutions",
    departures="the loss is the paper's over 1 - mu, which Adam does not see; mu falls linearly; phi=true goes with "
    "mu=0.1 mu_end=0.1",
    reward=Outcome(),
    advantage=GroupZScore(),
    ratio=TokenRatio(),
    surrogate=Clip(),
    aggregate=TokenMean(),
    sft=Balanced(),
)

HPT = Recipe(
    title="Hybrid post-training: solutions where every answer is wrong, else policy gradients",
    paper=48,
    formula="(1 / T) sum_t - rho (r_i - mean) where the mean reward is above the gate, else - log pi of a solution",
    departures="prompts at the gate leave the mean over answers; the soft gate is not there",
    reward=Outcome(),
    advantage=GroupMean(),
    ratio=TokenRatio(),
    surrogate=Importance(),
    mask=(AboveGate(),),
    aggregate=ConstantLength(),
    regulariser=(Entropy(),),
    sft=OwnSolutions(),
)
