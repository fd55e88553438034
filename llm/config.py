"""Options of every recipe, and those of every learner of tokens. A field declared `float | list[float]` may differ
between replicas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fenchel.algorithms.networks import Schedule


@dataclass
class Shared:
    """Of every learner of tokens: its model, the warm start that it begins with, its evaluation."""

    width: int = field(default=64, metadata={"range": (16, None)})
    """of the transformer, a multiple of 16"""
    layers: int = field(default=2, metadata={"range": (1, None)})
    """of the transformer"""
    heads: int = field(default=4, metadata={"range": (1, None)})
    """of the transformer"""
    sft_steps: int | None = field(default=None, metadata={"range": (0, None)})
    """updates of the warm start; null: the task's own number, and 0 of a model that is given"""
    sft_batch: int = field(default=128, metadata={"range": (1, None)})
    """solutions per update of the warm start"""
    sft_lr: float = field(default=3e-3, metadata={"range": (0, None)})
    """step size of the warm start"""
    sft_noise: float | None = field(default=None, metadata={"range": (0, 1)})
    """share of the warm start's solutions with one wrong symbol; null: the task's own share"""
    pass_k: int = field(default=8, metadata={"range": (1, None)})
    """k of pass@k"""
    eval_answers: int = field(default=16, metadata={"range": (1, None)})
    """answers per test prompt in evaluations; at least k"""


@dataclass
class TokenConfig(Shared):
    model: str | None = None
    """a causal language model of Hugging Face by path or name, in the place of the transformer; one seed per run"""
    lora_rank: int | None = field(default=None, metadata={"range": (1, None)})
    """rank of the LoRA adapters that are trained in the place of the model's own numbers; null: none"""
    lora_alpha: float = field(default=16.0, metadata={"range": (0, None)})
    """the adapters are multiplied by lora_alpha / lora_rank"""
    lr: float | list[float] = field(default=1e-3, metadata={"range": (0, None)})
    """Adam's step size"""
    prompts: int | None = field(default=None, metadata={"range": (1, None)})
    """prompts per rollout and replica; null: as many as make 128 answers"""
    answers: int | None = field(default=None, metadata={"range": (1, None)})
    """answers per prompt; null: the recipe's group size"""
    epochs: int = field(default=1, metadata={"range": (1, None)})
    """passes over a rollout"""
    minibatches: int = field(default=1, metadata={"range": (1, None)})
    """updates per pass, each on its share of the prompts"""
    micro: int | None = field(default=None, metadata={"range": (1, None)})
    """prompts per backward pass, to save memory; the gradient stays the same; null: all"""
    chunk: int | None = field(default=None, metadata={"range": (1, None)})
    """tokens whose logits stand in memory at a time; null: all"""
    temperature: float | list[float] = field(default=1.0, metadata={"range": (1e-6, None)})
    """of the law that is sampled and trained"""
    top_k: int | None = field(default=None, metadata={"range": (1, None)})
    """the likeliest tokens that are sampled; null: all"""
    top_p: float = field(default=1.0, metadata={"range": (1e-6, 1)})
    """the mass of the likeliest tokens that are sampled"""
    clip_grad: float | None = field(default=1.0, metadata={"range": (0, None)})
    """largest norm of one replica's gradient; null: no clipping"""
    lr_rise: int = field(default=20, metadata={"range": (1, None)})
    """updates over which the step size rises: Adam's first steps are whole ones, however uncertain their direction"""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """how the step size falls, from its full size at the first update towards 0 at the lr_steps-th"""
    lr_steps: int | None = field(default=None, metadata={"range": (1, None)})
    """updates over which the step size falls; null: the steps of the run"""
    demonstration_noise: float | None = field(default=None, metadata={"range": (0, 1)})
    """share of algo=sft's solutions with one wrong symbol; null: as in the warm start"""
    sft_horizon: int = field(default=1000, metadata={"range": (1, None)})
    """updates over which a recipe's weight of demonstrations changes, if it does"""
    baseline_answers: int = field(default=8, metadata={"range": (1, None)})
    """answers of the reference per prompt, for recipes that estimate its value"""
    pair_prompts: int = field(default=1024, metadata={"range": (1, None)})
    """prompts of a set of preferences"""
    pair_answers: int = field(default=8, metadata={"range": (2, None)})
    """answers per prompt from which a preference is made"""
    verdicts: Literal["larger", "bradley_terry"] = "larger"
    """which of two answers wins: the one that earns more, or each with the chance sigmoid of what it earns more"""
    judge: Literal["mean", "worst", "uncertainty"] | None = None
    """an ensemble of reward models, fitted to preferences by the task's reward, in its place; null: none"""
    judge_members: int = field(default=3, metadata={"range": (1, None)})
    """reward models of the ensemble"""
    judge_steps: int = field(default=300, metadata={"range": (0, None)})
    """updates of the reward models"""
    judge_weight: float = field(default=1.0, metadata={"range": (0, None)})
    """of the members' variance in judge=uncertainty"""
    judge_flip: float = field(default=0.0, metadata={"range": (0, 0.5)})
    """share of the judge's preferences that are turned round"""


@dataclass(frozen=True)
class Rise:
    """A schedule of the step size: linearly up to its full size over `steps` updates, then as another one has it."""

    steps: int
    then: Schedule | None = None

    def __call__(self, before: Tensor) -> Tensor:
        share = ((before + 1) / self.steps).clamp(max=1)
        return share if self.then is None else share * self.then(before)
