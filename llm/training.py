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
from fenchel.llm import get_recipe
from fenchel.llm.config import Rise, TokenConfig
from fenchel.llm.evaluation import evaluate
from fenchel.llm.judge import Judge, make_judge
from fenchel.llm.options import options, with_options
from fenchel.llm.policies.transformer import Transformer
from fenchel.llm.policies.value import PrefixValue
from fenchel.llm.recipe import Method, PreferenceRecipe
from fenchel.llm.reward_model import RewardModel
from fenchel.llm.sampling import Decoding
from fenchel.llm.scoring import statistics
from fenchel.llm.sources import Source, TokenBatch, make_source
from fenchel.llm.tasks.task import TokenTask
from fenchel.llm.warm_start import SEED, WarmStart, warm_start
from fenchel.theory.rng import Streams

ANSWERS = 128  # answers per rollout and replica, unless `prompts` says otherwise


class TokenLearner(Learner):
    """A recipe with a transformer of R replicas. `learner_of` binds the recipe; `spec` is the task's."""

    Config = TokenConfig
    RECIPE: ClassVar[Method]
    FAMILY = "llm"
    ACTIONS = ("discrete",)
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"width": 32, "layers": 2, "sft_steps": 200},
        "llm/*": {"steps": 200, "log_every": 10, "eval_episodes": 32, "final_episodes": 256},
    }
    BEGINS = True

    def setup(self) -> None:
        config = self.config
        shared = {f.name for f in fields(TokenConfig)}
        mine = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in shared}
        self.recipe = with_options(self.RECIPE, **mine).bind(self.R, self.dtype, self.device)
        self._check()
        self.policy = self._model(self.rng)
        self.reference = self.policy.target()
        self.half = self.policy.target() if self._extragradient else None
        self.critic = None
        if "value" in self.recipe.needs:
            self.critic = PrefixValue(self._model(self.rng, "critic", outputs=1))
        networks = [self.policy, *([self.critic] if self.critic else [])]
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)
        self.anchor = Anchor(self.optimiser) if self._extragradient else None
        self.start: tuple[Tensor, str] | None = None
        self.judge: RewardModel | None = None
        self.first_table: Tensor | None = None  # of an enumerable task, for the KL to the first policy
        self.pool = ANSWERS  # problems to learn from; `bind` says how many there are

    def _model(self, rng: Streams, name: str = "policy", **more: Any) -> Transformer:
        more |= {"width": self.config.width, "layers": self.config.layers, "heads": self.config.heads}
        return Transformer(rng, self.spec.action.n, self.spec.obs_dim, eos=0, name=name, dtype=self.dtype, **more)

    def _check(self) -> None:
        config = self.config
        if config.eval_answers < config.pass_k:
            raise UserError(f"algo.eval_answers={config.eval_answers} is fewer than algo.pass_k={config.pass_k}.")
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
        if not isinstance(task, TokenTask):
            raise UserError(f"env={task.id} has no tokens; this recipe takes env=llm/<task>.")
        config = self.config
        problems = task.problems("train")
        self.pool = len(problems)
        samples = self.recipe.data in ("policy", "online")
        if samples and not config.judge and task.pairs(problems) is not None:
            raise UserError(f"env={task.id} has no verifier: take a recipe such as algo=dpo, or algo.judge=mean.")
        if self.prompts > self.pool:
            raise UserError(f"algo.prompts={self.prompts} exceeds the {self.pool} problems of env={task.id}.")
        if self.prompts % config.minibatches:
            raise UserError(f"algo.minibatches={config.minibatches} must divide a rollout's {self.prompts} prompts.")
        steps = task.SFT_STEPS if config.sft_steps is None else config.sft_steps
        noise = task.SFT_NOISE if config.sft_noise is None else config.sft_noise
        how = WarmStart(steps, config.sft_batch, config.sft_lr, noise, config.width, config.layers, config.heads)
        self.start = warm_start(task, how, self.dtype)
        if not self.steps:
            for network in (self.policy, self.reference):
                network.flat.copy_(self.start[0])
            if self.critic:  # all but the head
                inner = zip(self.critic.body.frozen.weights[:-1], self.policy.frozen.weights[:-1], strict=True)
                for mine, theirs in inner:
                    mine.copy_(theirs)
        if config.judge:
            given = (config.judge, config.judge_members, config.judge_steps, config.judge_weight, config.judge_flip)
            self.judge = make_judge(self, task, Judge(*given))

    @property
    def data_hash(self) -> str | None:
        """Of the warm start and the problems."""
        return self.start[1] if self.start else None

    def first_policy(self) -> Transformer:
        """One replica of the warm start."""
        assert self.start is not None
        policy = self._model(Streams([SEED], self.device))
        policy.flat.copy_(self.start[0])
        return policy

    def source(self, task: Any, normalize_obs: bool = True) -> Source:
        if self.start is None:
            self.bind(task)
        return make_source(self, task)

    def scores(self, task: Any, episodes: int, step: int) -> dict[str, list]:
        """On `episodes` test prompts; see `fenchel.llm.evaluation`."""
        if self.start is None:
            self.bind(task)
        return evaluate(self, task, episodes, step)


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
