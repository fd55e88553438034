"""How an offline learner comes to read prefixes: networks of prefixes for those of vectors, data from the warm start.

The data are answers of the task's warm start to training prompts, each with the task's reward: the behaviour policy is
known, and the policy begins as it. The policy's and the values' transformers begin with the warm start's parameters but
for the values' heads; a tabular policy begins as the warm start's table, and is scored on the training prompts, as a
table knows no others.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from fenchel.algorithms.networks import Adam
from fenchel.errors import UserError
from fenchel.llm.bridge.heads import PrefixCritics, PrefixPolicy, PrefixValues, body
from fenchel.llm.bridge.prefixes import PrefixSampler, Scored
from fenchel.llm.evaluation import table
from fenchel.llm.learner import OnTokens, copy_body, with_tokens
from fenchel.llm.policies.policy import Policy
from fenchel.llm.sampling import sample
from fenchel.llm.tasks.task import TokenTask
from fenchel.llm.warm_start import SEED
from fenchel.theory.rng import Streams

AT_ONCE = 1024  # sequences that are drawn together


class OnPrefixes(OnTokens):
    """`setup` is the algorithm's own, which checks its options, and then gives it networks of prefixes. Where two
    members are two networks there, here they are two heads on one body."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"width": 32, "layers": 2, "sft_steps": 200},
        "llm/*": {
            "steps": 1000, "log_every": 50, "eval_episodes": 32, "final_episodes": 256, "lr": 1e-3, "tau": 0.05,
        },
    }  # fmt: skip

    def setup(self) -> None:
        config = self.config
        if config.hidden or config.layer_norm:
            raise UserError("algo.hidden and algo.layer_norm are of networks of vectors; token tasks take algo.width.")
        self.check_evaluation()
        super().setup()  # type: ignore[misc]
        self.policy = PrefixPolicy(body(self, "policy"))
        self.value = PrefixValues(self, members=2 if self.value.ensemble else None)
        networks = [self.policy, self.value]
        if hasattr(self, "critic"):
            self.critic = PrefixCritics(self, bins=self.critic.bins)
            networks.append(self.critic)
        self.target = networks[-1].target()
        if hasattr(self, "optimiser"):
            self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)
        else:
            self.policy_optimiser = Adam(self.policy, lr=config.lr, clip=config.clip_grad)
            self.value_optimiser = Adam(self.value, lr=config.lr, clip=config.clip_grad)
        self.split = "train" if config.policy == "tabular" else "test"

    @property
    def model(self) -> Policy:
        return self.policy.body

    def bind(self, task: Any) -> None:
        """Begin with the task's warm start, which is built first if need be."""
        task, config = with_tokens(task), self.config
        if config.places > config.batch_size:
            raise UserError(f"algo.places={config.places} exceeds algo.batch_size={config.batch_size}.")
        if task.pairs(task.problems("train")) is not None:
            raise UserError(f"env={task.id} has no verifier to score answers by: take a recipe such as algo=dpo.")
        self.begin(task)
        if not self.steps:
            self._begin_with(self.first_policy(), task)

    def _begin_with(self, first: Any, task: TokenTask) -> None:
        if self.config.policy == "tabular":
            self.model.assign(table(first, task, task.problems("train").prompts))
            return
        self.model.flat.copy_(first.flat)
        others = [part for part in vars(self).values() if isinstance(part, PrefixValues | PrefixCritics)]
        for network in others:  # the targets too
            copy_body(network.body, self.model)

    def source(self, task: Any, normalize_obs: bool = True) -> PrefixSampler:
        if self.start is None:
            self.bind(task)
        return PrefixSampler(self.data(task), self)

    @torch.no_grad()
    def data(self, task: TokenTask) -> Scored:
        """The same for every replica and every run from this warm start. Several rewards are added."""
        config, problems, first = self.config, task.problems("train"), self.first_policy()
        ids = torch.arange(min(config.data_prompts, len(problems)), device=self.device)
        rng, parts = Streams([SEED], self.device), []
        for counter, some in enumerate(ids.split(max(1, AT_ONCE // config.data_answers))):
            prompts = problems.prompts.to(self.device)[some].unsqueeze(0)
            s = sample(first, prompts, config.data_answers, task.max_answer, rng=rng, counter=counter, name="data")
            reward = task.reward(problems, some.view(1, -1, 1).expand(s.truncated.shape), s.answers)
            parts.append((s.tokens, s.mask, reward if reward.ndim == 3 else reward.sum(-1)))
        tokens, mask, reward = (torch.cat([x[0].flatten(0, 1) for x in column]) for column in zip(*parts, strict=True))
        return Scored(tokens, mask, reward, self.cost_of and self.cost_of(tokens, mask))
