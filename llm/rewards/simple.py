"""Rewards by rule: (problems, index (*b), answers (*b, T)) -> (*b), each from 0 to 1."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.llm.tasks.task import Problems


def verifier(problems: Problems, index: Tensor, answers: Tensor) -> Tensor:
    """1 for a right answer."""
    return problems.verify(index, answers)


def finished(problems: Problems, index: Tensor, answers: Tensor) -> Tensor:
    """1 for an answer that ends within the task's length, right or wrong."""
    return (answers[..., : problems.task.max_answer] == problems.task.eos).any(-1).to(torch.float32)


def brevity(problems: Problems, index: Tensor, answers: Tensor) -> Tensor:
    """1 - tokens / the longest answer's: short answers earn more, right or wrong."""
    return 1 - (answers >= 0).sum(-1) / problems.task.max_answer


def agreement(problems: Problems, index: Tensor, answers: Tensor) -> Tensor:
    """The share of places in which answer and worked solution agree, of the longer one's: a dense reward."""
    solution = problems.solutions[index.cpu()].to(answers.device)
    width = max(solution.shape[-1], answers.shape[-1])
    a, b = (torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=-1) for x in (answers, solution))
    longer = torch.maximum((a >= 0).sum(-1), (b >= 0).sum(-1))
    return ((a == b) & (b >= 0)).sum(-1) / longer.clamp(min=1)
