"""Learning from worked solutions, in the form of a rollout: what reinforcement learning is to be compared with."""

from __future__ import annotations

from fenchel.llm.parts.advantages import One
from fenchel.llm.parts.aggregates import TokenMean
from fenchel.llm.parts.ratios import NoRatio
from fenchel.llm.parts.rewards import NoReward
from fenchel.llm.parts.surrogates import Reinforce
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
