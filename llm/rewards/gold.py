"""A gold reward that no rule explains: a fixed transformer of random weights, for studies of reward models.

Standardised to mean 0 and variance 1: over all answers to the training prompts of an enumerable task, else over the
training problems' worked solutions.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fenchel.llm.evaluation import every
from fenchel.llm.reward_model import RewardModel
from fenchel.llm.sequences import join
from fenchel.llm.tasks.task import Problems, TokenTask

SEED, SIZES = 2_147_483_647, {"width": 32, "layers": 2, "heads": 4}


@lru_cache(maxsize=8)
def _gold(task: TokenTask) -> tuple[RewardModel, Tensor, Tensor]:
    model = RewardModel([SEED], task.vocabulary, task.context, dtype=torch.float64, **SIZES)
    problems = task.problems("train")
    if task.enumerable:
        scores = torch.cat([model(rows) for rows, _ in every(problems)])
    else:
        scores = model(join(problems.prompts, problems.solutions, task.eos)[0])
    return model, scores.mean(), scores.std().clamp(min=1e-12)


def gold(problems: Problems, index: Tensor, answers: Tensor) -> Tensor:
    """(*b): standardised scores, unbounded."""
    model, mean, std = _gold(problems.task)
    prompts = problems.prompts[index.cpu()]
    tokens, _, _ = join(prompts, answers[..., : problems.task.max_answer].cpu(), problems.task.eos)
    return ((model(tokens) - mean) / std).to(answers.device, torch.float32)
