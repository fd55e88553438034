"""Training a token policy by a recipe, in the loop of `fenchel.algorithms.training`: replicas, resume, run folder.

    task = make("llm/countdown")
    learner = get_learner("dr_grpo")(task.spec, {"lr": 1e-3}, seeds=[0, 1])
    train(task, learner, TrainConfig(steps=200))

All replicas begin with the task's supervised warm start (`warm_start`), which is also the reference. An update is one
optimiser step. A rollout, `prompts` prompts with `answers` answers each, serves `epochs * minibatches` updates; its
log-probabilities of old are by the same forward pass as those with a gradient.
"""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam
from fenchel.errors import UserError
from fenchel.llm import get_recipe, pretrained
from fenchel.llm.config import Rise, TokenConfig
from fenchel.llm.judge import Judge, make_judge
from fenchel.llm.learner import OnTokens, copy_body, with_tokens
from fenchel.llm.options import options, with_options
from fenchel.llm.policies.policy import Policy
from fenchel.llm.policies.value import PrefixValue, ValueHead
from fenchel.llm.recipe import Method, PreferenceRecipe
from fenchel.llm.sampling import Decoding
from fenchel.llm.scoring import statistics
from fenchel.llm.sources import Source, TokenBatch, make_source
from fenchel.llm.tasks.task import TokenTask

ANSWERS = 128  # answers per rollout and replica, unless `prompts` says otherwise


class TokenLearner(OnTokens, Learner):
    """A recipe with a transformer of R replicas. `learner_of` binds the recipe; `spec` is the task's."""

    Config = TokenConfig
    RECIPE: ClassVar[Method]
    FAMILY = "llm"

    def setup(self) -> None:
        config = self.config
        shared = {f.name for f in fields(TokenConfig)}
        mine = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in shared}
        self.recipe = with_options(self.RECIPE, **mine).bind(self.R, self.dtype, self.device)
        self._check()
        self.policy = self._first()
        self.reference = self.policy.target()
        self.half = self.policy.target() if self._extragradient else None
        self.critic = None
        if "value" in self.recipe.needs:
            self.critic = self._critic()
        networks = [self.policy, *([self.critic] if self.critic else [])]
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)
        self.anchor = Anchor(self.optimiser) if self._extragradient else None
        self.firsts: list[Policy] = []  # of a model that is given; in a list, as it is no part of a checkpoint
        self.pool = ANSWERS  # problems to learn from; `bind` says how many there are

    def _first(self) -> Any:
        config = self.config
        if config.model is None:
            return self.transformer(self.rng)
        eos = getattr(self.spec, "eos", None)
        policy = pretrained.load(config.model, config.lora_rank, config.lora_alpha, self.rng, eos, self.dtype)
        pretrained.fits(policy, self.spec, config.model)
        return policy

    def _critic(self) -> Any:
        """A network of its own; of a model that is given, a head on its features."""
        if self.config.model is None:
            return PrefixValue(self.transformer(self.rng, "critic", outputs=1))
        return ValueHead(self.rng, self.policy, hidden=(self.config.width,))

    def _check(self) -> None:
        config = self.config
        if config.model is None and config.lora_rank is not None:
            raise UserError("algo.lora_rank is of a model of Hugging Face; add algo.model=PATH.")
        self.check_evaluation()
        if self._extragradient and (config.epochs * config.minibatches > 1 or self.recipe.replay):
            raise UserError("This recipe takes half-steps on fresh answers: algo.epochs and algo.minibatches are 1.")
        pairs = isinstance(self.recipe, PreferenceRecipe)
        if pairs and config.answers not in (None, self.recipe.group_size):
            raise UserError(f"algo.answers={config.answers} is not valid; this recipe takes {self.recipe.group_size}.")

    def schedule(self, steps: int | None) -> None:
        super().schedule(steps)
        if not isinstance(self.optimiser.schedule, Rise):
            self.optimiser.schedule = Rise(self.config.lr_rise, self.optimiser.schedule)

    @property
    def model(self) -> Policy:
        return self.policy

    @classmethod
    def reads(cls, task: TokenTask, config: TokenConfig) -> TokenTask:
        return task if config.model is None else pretrained.in_its_tokens(task, config.model)

    def begin(self, task: TokenTask) -> None:
        if self.config.model is None:
            super().begin(task)
        else:
            noise = task.SFT_NOISE if self.config.sft_noise is None else self.config.sft_noise
            self.start = pretrained.begin(self.policy, task, self.config, noise)

    def first_policy(self) -> Policy:
        if self.config.model is None:
            return super().first_policy()
        if not self.firsts:
            assert self.start is not None
            self.firsts.append(self.policy.target())
            self.firsts[0].flat.copy_(self.start[0])
        return self.firsts[0]

    @property
    def answers(self) -> int:
        return self.config.answers or self.recipe.group_size

    @property
    def prompts(self) -> int:
        return self.config.prompts or min(self.pool, max(1, ANSWERS // self.answers))

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.h.temperature, self.config.top_k, self.config.top_p)

    @property
    def _extragradient(self) -> bool:
        return getattr(self.recipe, "steps", "plain") == "extragradient"

    # --- one update -------------------------------------------------------------------------------------------------

    def update(self, batch: TokenBatch) -> dict[str, Tensor]:
        count = batch.prepared.weight.shape[1]
        micro = self.config.micro or count
        torch._foreach_zero_(self.optimiser.grads)
        losses = []
        for first in range(0, count, micro):
            part = slice(first, first + micro)
            support = None if batch.support is None else batch.support[:, part]
            losses.append(self._backward(self._loss(batch.prepared[part], support) * self.config.minibatches))
        if batch.demonstrations is not None:
            losses.append(self._backward(self._imitation(*batch.demonstrations)))
        self.optimiser.apply()
        rate = self.recipe.reference.rate(self.steps)
        if isinstance(rate, Tensor) or rate:
            self.reference.track(self.policy, rate.view(-1, 1) if isinstance(rate, Tensor) else rate)
        data = batch.prepared.data
        reward = batch.prepared.reward if data.reward is None or data.reward.ndim == 4 else data.reward
        lengths = data.mask.sum(-1).to(self.dtype)
        return {"loss": sum(losses), "reward": reward.flatten(1).mean(1), "length": lengths.flatten(1).mean(1)}

    def _loss(self, prepared: Any, support: Tensor | None) -> Tensor:
        data, needs = prepared.data, self.recipe.needs
        wanted = ["logp", *(name for name in ("entropy", "mean_logp") if f"live_{name}" in needs)]
        options = {"temperature": self.h.temperature, "support": support, "chunk": self.config.chunk}
        live = statistics(self.policy, data.tokens, data.mask, wanted, **options)
        if "live_value" in needs:
            live["value"] = self.values(data.tokens, data.mask)
        return self.recipe.loss(prepared, **live)

    def _imitation(self, tokens: Tensor, mask: Tensor) -> Tensor:
        logp = self.policy.logp(tokens, mask)
        progress = min(1.0, self.steps / self.config.sft_horizon)
        return self.recipe.sft.loss(logp, mask, mask.flatten(1).sum(1).to(logp.dtype), progress)

    def _backward(self, loss: Tensor) -> Tensor:
        """Summed over replicas, the gradient is each replica's own."""
        loss.backward(self.optimiser.ones)
        return loss.detach()

    def values(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(R, N, G, L): the critic's values of the prefixes before the answer's tokens."""
        assert self.critic is not None
        value = self.critic(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])
        return torch.where(mask, value, 0.0)

    def half_step(self, index: int) -> Any:
        """Before the updates of an extragradient pair: remember where it starts; then go back there, and return the
        policy that the first update led to."""
        assert self.anchor is not None
        if index % 2 == 0:
            self.anchor.save()
            return None
        self.half.flat.copy_(self.policy.flat)
        self.anchor.restore()
        return self.half

    # --- the task ---------------------------------------------------------------------------------------------------

    def bind(self, task: Any) -> None:
        """Begin with the task's warm start, which is built first if need be."""
        config = self.config
        self._check_task(task)
        self.begin(task)
        assert self.start is not None
        if not self.steps:
            for network in (self.policy, self.reference):
                network.flat.copy_(self.start[0])
            if isinstance(self.critic, PrefixValue):
                copy_body(self.critic.body, self.policy)
        if config.judge:
            given = (config.judge, config.judge_members, config.judge_steps, config.judge_weight, config.judge_flip)
            self.judge = make_judge(self, task, Judge(*given))

    def _check_task(self, task: Any) -> None:
        config, problems = self.config, with_tokens(task).problems("train")
        self.pool = len(problems)
        samples = self.recipe.data in ("policy", "online")
        if samples and not config.judge and task.pairs(problems) is not None:
            raise UserError(f"env={task.id} has no verifier: take a recipe such as algo=dpo, or algo.judge=mean.")
        if self.recipe.data != "offline" and self.prompts > self.pool:  # pairs are drawn with repeats
            raise UserError(f"algo.prompts={self.prompts} exceeds the {self.pool} problems of env={task.id}.")
        if self.prompts % config.minibatches:
            raise UserError(f"algo.minibatches={config.minibatches} must divide a rollout's {self.prompts} prompts.")

    def source(self, task: Any, normalize_obs: bool = True) -> Source:
        if self.start is None:
            self.bind(task)
        return make_source(self, task)


class Anchor:
    """Where an extragradient step began: parameters and Adam's moments."""

    def __init__(self, optimiser: Adam):
        self.optimiser = optimiser
        self.saved = {name: tensor.clone() for name, tensor in self.live().items()}

    def live(self) -> dict[str, Tensor]:
        flat = {f"flat{i}": network.flat for i, network in enumerate(self.optimiser.networks)}
        return flat | self.optimiser.state()

    def save(self) -> None:
        for name, tensor in self.live().items():
            self.saved[name].copy_(tensor)

    def restore(self) -> None:
        for name, tensor in self.live().items():
            tensor.copy_(self.saved[name])

    def state(self) -> dict[str, Tensor]:
        return self.saved


def learner_of(recipe: Method, name: str = "recipe") -> type[TokenLearner]:
    """`TokenLearner` bound to a recipe, whose options join those of every recipe in its `Config`."""
    own = options(recipe)
    config = make_dataclass("TokenConfig", [(f.name, f.type, f) for f in fields(own)], bases=(TokenConfig,))
    names = {"RECIPE": recipe, "Config": config, "TITLE": recipe.title, "FAMILY": recipe.family, "PAPER": recipe.paper}
    return type(name, (TokenLearner,), names)


def get_learner(key: str) -> type[TokenLearner]:
    """The learner of a row of RECIPES. Raises UserError for a key that stands in none."""
    return learner_of(get_recipe(key), key)
