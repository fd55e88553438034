"""A learned judge in the place of the task's reward: reward models fitted to the task's own verdicts.

The preferences are between answers of the first policy (`sources.preference_set`), judged by the task's reward; `flip`
turns a share of them round. What is then optimised is the judge, and what counts stays the verifier: their difference
is over-optimisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fenchel.llm.gather import Gather
from fenchel.llm.reward_model import Aggregate, RewardModel
from fenchel.llm.sources import preference_set
from fenchel.llm.warm_start import built_once
from fenchel.theory.rng import Streams

if TYPE_CHECKING:
    from fenchel.llm.tasks.task import TokenTask
    from fenchel.llm.training import TokenLearner

SEED, VERSION = 1, 1


@dataclass(frozen=True)
class Judge:
    """How reward models are fitted, and what their ensemble says."""

    aggregate: Aggregate
    members: int
    steps: int
    weight: float
    flip: float


def make_judge(learner: TokenLearner, task: TokenTask, how: Judge) -> RewardModel:
    """The ensemble of this task and first policy, from the data folder."""
    config = learner.config
    sizes = {"width": config.width, "layers": config.layers, "heads": config.heads}
    options = {"aggregate": how.aggregate, "weight": how.weight, "device": learner.device, "dtype": learner.dtype}
    seeds = [SEED + member for member in range(how.members)]
    model = RewardModel(seeds, task.vocabulary, task.context, **options, **sizes)
    facts = {
        **sizes, "start": learner.data_hash, "members": how.members, "steps": how.steps, "flip": how.flip,
        "pairs": [config.pair_prompts, config.pair_answers], "reward": str(task.reward_names),
        "dtype": str(learner.dtype), "version": VERSION,
    }  # fmt: skip

    def build():
        _, answers, _ = preference_set(Gather(learner, task.problems("train")))
        turned = Streams([SEED], learner.device).uniform("flip", (len(answers.tokens), 1))[0] < how.flip
        chosen, rejected = answers.tokens.unbind(1)
        model.fit(torch.where(turned, rejected, chosen), torch.where(turned, chosen, rejected), steps=how.steps)
        return model.state()

    model.load(built_once(f"{task.id.replace('/', '-')}-judge", facts, build))
    return model
