"""The supervised warm start that every run on a task begins with: built once, kept in the data folder.

    min  - mean over tokens of log pi(solution | prompt)        on the task's worked solutions, prompts uniform

In a share `noise` of the solutions one symbol is wrong, as in data that people wrote. Where solutions are unique and
faultless their likelihood is stationary where training ends, and rewards have next to nothing to add.

Processes that ask at once build once. The file's name has a hash of all that determines the numbers: the task's
problems, the model's sizes and the options below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms import checkpoint
from fenchel.algorithms.networks import Adam, Schedule
from fenchel.envs.cache import config_hash, data_folder, locked
from fenchel.envs.progress import progress
from fenchel.errors import UserError
from fenchel.llm.policies.policy import Policy
from fenchel.llm.policies.transformer import Transformer
from fenchel.llm.sequences import join
from fenchel.llm.tasks.task import Problems, TokenTask
from fenchel.theory.rng import Streams

VERSION = 1
SEED = 0


@dataclass(frozen=True)
class WarmStart:
    """How the first policy is made: by so many updates, whose step size falls along a cosine; 0 leave it untrained."""

    steps: int
    batch: int
    lr: float
    noise: float
    width: int
    layers: int
    heads: int

    def make(self, task: TokenTask, rng: Streams, dtype: torch.dtype) -> Transformer:
        sizes = {"width": self.width, "layers": self.layers, "heads": self.heads}
        return Transformer(rng, task.vocabulary, task.context, eos=task.eos, dtype=dtype, **sizes)


def warm_start(task: TokenTask, how: WarmStart, dtype: torch.dtype = torch.float32) -> tuple[Tensor, str]:
    """(parameters (1, width) of a `Transformer`, a hash of them and of the problems), from the data folder."""
    problems = fingerprint(task)
    facts = {**asdict(how), "dtype": str(dtype), "problems": problems, "version": VERSION}
    name = f"{task.id.replace('/', '-')}-sft"
    flat = built_once(name, facts, lambda: {"flat": train(task, how, dtype).flat})["flat"]
    digest = hashlib.blake2b(flat.numpy().tobytes() + problems.encode(), digest_size=16).hexdigest()
    return flat, digest


def built_once(name: str, facts: dict[str, Any], build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the data folder, built first if they are not there; the facts determine them."""
    path = data_folder() / "llm" / f"{name}-{config_hash(facts)}.safetensors"
    if not path.exists():
        with locked(path):
            for stale in path.parent.glob(f"{path.name}{checkpoint.TEMPORARY}*"):  # of a process that was killed
                stale.unlink()
            if not path.exists():
                checkpoint.write(path, build(), {"facts": facts})
    return checkpoint.read(path)[0]


def train(task: TokenTask, how: WarmStart, dtype: torch.dtype) -> Transformer:
    """One replica, from the seed that all warm starts share."""
    torch.set_flush_denormal(True)
    rng, problems = Streams([SEED]), task.problems("train")
    policy = how.make(task, rng, dtype)
    tokens, mask, _ = join(problems.prompts, problems.solutions, task.eos)
    optimiser = Adam(policy, lr=how.lr, clip=1.0)
    optimiser.schedule = Schedule("cosine", max(1, how.steps))
    with progress(f"warm start of {task.id}", how.steps) as advance:
        for step in range(how.steps):
            index = rng.integers("sft", len(problems), (how.batch,), counter=step)
            rows = corrupted(tokens[index], mask[index], task, rng, step, how.noise) if how.noise else tokens[index]
            optimiser.step(negative_log_likelihood(policy, rows, mask[index]))
            advance(1)
    if not policy.flat.isfinite().all():
        raise UserError(f"The warm start of env={task.id} is not finite; lower algo.sft_lr={how.lr}.")
    return policy


def negative_log_likelihood(policy: Policy, tokens: Tensor, mask: Tensor) -> Tensor:
    """(R,): mean over the masked tokens of (R, B, L) sequences."""
    return -policy.logp(tokens, mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def corrupted(tokens: Tensor, mask: Tensor, task: TokenTask, rng: Streams, step: int, share: float) -> Tensor:
    """In a share of the solutions (R, B, L), one symbol, but not the end, is replaced by any symbol of the task.

    A policy that has seen mistakes makes some, and knows better: what reinforcement can take away.
    """
    whether, where = rng.uniform("noise", (2, tokens.shape[1]), counter=step).unbind(1)
    symbol = rng.integers("symbol", task.vocabulary - 1, (tokens.shape[1],), counter=step)
    symbol = symbol + (symbol >= task.eos)
    place = mask.cumsum(-1) == 1 + (where * (mask.sum(-1) - 1)).long().unsqueeze(-1)
    hit = place & mask & (whether < share).unsqueeze(-1) & (tokens != task.eos)
    return torch.where(hit, symbol.unsqueeze(-1), tokens)


def fingerprint(task: TokenTask) -> str:
    """A hash of the problems of both splits and of the vocabulary."""
    content: list[Any] = [task.id, task.vocabulary, task.max_prompt, task.max_answer]
    for split in ("train", "test"):
        found: Problems = task.problems(split)
        content.append([[item.prompt, item.solution] for item in found.items])
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
