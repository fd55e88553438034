"""Models of Hugging Face in the trainer: the task in the model's own tokens, the model as the first policy.

A run has one replica. The warm start, of no updates unless the line says otherwise, is of the same parameters that
training moves: all of the model's, or those of its LoRA adapters. Nothing of Hugging Face is imported before a line
names a model, and code that comes with one is not executed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.tasks.retold import retold
from fenchel.llm.tasks.task import TokenTask
from fenchel.llm.warm_start import fingerprint, warm_start
from fenchel.theory.rng import Streams

if TYPE_CHECKING:
    from fenchel.llm.config import TokenConfig
    from fenchel.llm.policies.hugging_face import HuggingFace


@dataclass(frozen=True)
class ModelStart:
    """`warm_start.WarmStart` of a given model; digest: a hash of its parameters."""

    steps: int
    batch: int
    lr: float
    noise: float
    path: str
    lora_rank: int | None
    lora_alpha: float
    digest: str

    def make(self, task: TokenTask, rng: Streams, dtype: torch.dtype) -> HuggingFace:
        return load(self.path, self.lora_rank, self.lora_alpha, rng, task.eos, dtype)


def load(path: str, rank: int | None, alpha: float, rng: Streams, eos: int | None, dtype: torch.dtype) -> HuggingFace:
    """Raises UserError for what is no model, and for more than one replica."""
    from fenchel.llm.policies.hugging_face import HuggingFace, LoRA

    if len(rng.seeds) != 1:
        raise UserError(f"algo.model={path} is trained with one seed and one value of every option; add seed=0.")
    return HuggingFace(rng, path, eos=eos, lora=None if rank is None else LoRA(rank, alpha), dtype=dtype)


def in_its_tokens(task: TokenTask, path: str) -> TokenTask:
    """The task as the model at `path` reads and writes it."""
    from fenchel.llm.tokenizer import HuggingFaceTokenizer

    return retold(task, HuggingFaceTokenizer(path, name="algo.model"), f"algo.model={path}")


def fits(policy: HuggingFace, spec: Any, path: str) -> None:
    """Raises UserError for a task that the model's vocabulary or context does not hold."""
    if spec.action.n > policy.vocabulary:
        raise UserError(f"algo.model={path} has {policy.vocabulary} tokens, but the task has {spec.action.n}.")
    if spec.obs_dim > policy.context:
        raise UserError(
            f"algo.model={path} has a context of {policy.context} tokens, but the longest prompt and answer take "
            f"{spec.obs_dim}; lower task.difficulty, or task.longest_prompt of a task from a file."
        )


def begin(policy: HuggingFace, task: TokenTask, config: TokenConfig, noise: float) -> tuple[Tensor, str]:
    """(what is trained, as it is at first, a hash of the whole model and the problems)."""
    hashed = hashlib.blake2b(fingerprint(task).encode(), digest_size=16)
    for tensor in [*policy.model.state_dict().values(), policy.flat]:
        hashed.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    digest = hashed.hexdigest()
    if not config.sft_steps:
        return policy.flat.clone(), digest
    assert config.model is not None
    given = (config.sft_steps, config.sft_batch, config.sft_lr, noise, config.model, config.lora_rank)
    return warm_start(task, ModelStart(*given, config.lora_alpha, digest), policy.flat.dtype)
