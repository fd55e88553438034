"""CPQ: a critic of costs that is dear where the data are silent, and Q-learning among the actions within the limit.

    Q_c:  min E_D (c + gamma Q_c'(s', pi(s')) - Q_c(s, a))^2 - alpha E_{a' unseen at s} Q_c(s, a')    Q_c' = max of two
    Q:    min E_D (r + gamma [Q_c' <= l] Q'(s', pi(s')) - Q(s, a))^2                                   Q' = min of two
    pi:   max E_D [Q_c <= l] Q(s, pi(s))
    alpha rises while E Q_c(s, a') over unseen a' is below margin * max(l, 1) and falls above, by Adam on its logarithm

l is the limit in discounted units, asked of every state and action, not of their mean: a policy that obeys it where it
matters costs less than l. Xu, Zhan, Zhu 2022, "Constraints penalized Q-learning for safe offline reinforcement
learning" (arXiv 2107.09003). They tell unseen actions by a conditional VAE; here a clone beta of the data's actions
does, a Gaussian or a softmax: unseen are, among uniform actions and pi's own (Box), those whose density is below the
`rare` quantile of the batch's own; of a Discrete space those with beta(a|s) < rare / n.

In the released code the penalty stands where no gradient is taken, so that alpha moves nothing, and the twins' smaller
cost is used, the optimist's (docs/errata.md). variant=paper multiplies Q by [Q_c <= l], under which actions over the
limit are the best ones as soon as Q < 0; variant=corrected, the default, gives them the lowest value that the data's
rewards allow, min(0, r) / (1 - gamma), and lets pi descend Q_c where it is over the limit. pi is a function tanh(f(s)),
or greedy; where no Discrete action is within the limit it is the cheapest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fenchel.algorithms import constraints
from fenchel.algorithms.constraints import Constrained, Multiplier
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Deterministic, Vector, stochastic_policy
from fenchel.algorithms.sampler import Batch, Sampler
from fenchel.theory.objectives import constraint, offline_safety, policy, value
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset
    from fenchel.envs.task import Task


@dataclass
class CPQConfig(Constrained):
    variant: Literal["corrected", "paper"] = "corrected"
    """what an action over the limit is worth: the lowest value of all, or 0"""
    margin: float | list[float] = field(default=1.5, metadata={"range": (1, None)})
    """how dear unseen actions are to be, in limits, or in units of cost where the limit is below 1"""
    rare: float = field(default=0.1, metadata={"range": (0, 1)})
    """which actions count as unseen: the least likely share of the data's, or those below this share of 1 / n"""
    samples: int = field(default=4, metadata={"range": (1, None)})
    """uniform actions per state, of a Box, among which unseen ones are sought"""
    initial_alpha: float = field(default=1.0, metadata={"range": (0, None)})
    """alpha at the first update"""
    alpha_lr: float | list[float] = field(default=3e-4, metadata={"range": (0, None)})
    """Adam's step size of log alpha"""
    max_alpha: float = field(default=150.0, metadata={"range": (0, None)})
    """alpha's upper bound"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""


class CPQ(Learner):
    Config = CPQConfig
    TITLE = "Constraints penalised Q-learning"
    FAMILY = "constrained"
    DEMO = "point-goal-mixed"
    NEEDS = ("cost",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*point-goal*": {"lr": 1e-3, "tau": 0.01},
    }

    def setup(self) -> None:
        config = self.config
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.critic = Critic(self.rng, "critic", self.spec, config.hidden, **options)
        self.cost = Critic(self.rng, "cost", self.spec, config.hidden, **options)
        self.target, self.cost_target = self.critic.target(), self.cost.target()
        more = {"std": "state"} | options
        self.behaviour = stochastic_policy(self.rng, "behaviour", self.spec, config.hidden, **more)
        self.optimiser = Adam(self.critic, self.cost, self.behaviour, lr=config.lr, clip=config.clip_grad)
        if self.spec.discrete:
            self.policy = Safest(self)
        else:
            self.policy = Deterministic(self.rng, "policy", self.spec, config.hidden, **options)
            self.policy_optimiser = Adam(self.policy, lr=config.lr, clip=config.clip_grad)
        self.alpha = Multiplier(self, "log", lr=config.alpha_lr, initial=config.initial_alpha, ceiling=config.max_alpha)
        self.budget = Vector(self.rng, dtype=self.dtype)  # among the saved numbers, as a greedy policy acts by it
        self.budget.frozen().copy_(constraints.budget(self, "discounted"))
        self.h.floor = 0.0

    def bind(self, task: Task) -> None:
        self.limits, budget = constraints.bind(self, task, "discounted")
        self.budget.frozen().copy_(budget)

    def sampler(self, data: OfflineDataset) -> Sampler:
        constraints.require(self, self.budget.frozen())
        if self.config.variant == "corrected":
            worst = min(0.0, float(data.reward.min()))
            gammas = torch.as_tensor(self.config.gamma, device=self.device, dtype=self.dtype).reshape(-1, 1)
            self.h.floor = worst / (1 - gammas).clamp(min=1e-3)
        return super().sampler(data)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, next_obs, discount = self.h, batch["next_obs"], batch["discount"].unsqueeze(1)
        with torch.no_grad():
            following = self.policy.mode(next_obs)
            next_cost = self.cost_target.of(next_obs, following).amax(1)
            next_q = self.target.of(next_obs, following).amin(1)
            next_q = offline_safety.within(next_q, next_cost, budget=self.budget.frozen(), floor=h.floor)
        backup = value.bellman_backup(batch["reward"].unsqueeze(1), discount, next_q.unsqueeze(1))
        cost_backup = value.bellman_backup(batch["cost"].unsqueeze(1), discount, next_cost.unsqueeze(1))
        unseen_cost, unseen = self.unseen(batch)
        losses = {
            "critic_loss": reduce(value.td(self.critic(batch), backup).sum(1)),
            "cost_loss": reduce(value.td(self.cost(batch), cost_backup).sum(1)),
            "penalty": self.penalty(unseen_cost),
            "behaviour_loss": reduce(policy.nll(self.behaviour.log_prob(batch["obs"], batch["action"]))),
        }
        self.optimiser.step(*losses.values())
        self.alpha.step(-unseen_cost.detach(), self.ceiling())
        if not self.spec.discrete:
            losses["policy_loss"] = self.improve(batch["obs"])
        self.target.track(self.critic, h.tau)
        self.cost_target.track(self.cost, h.tau)
        shown = {"unseen_cost": unseen_cost, "unseen": unseen, "multiplier": self.alpha().squeeze(1)}
        return {name: loss.detach() for name, loss in (losses | shown).items()}

    def unseen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(R,): the critics' mean cost of unseen actions, with its gradient, and how many of those tried are unseen."""
        obs, (count, config) = batch["obs"], (batch["obs"].shape[1], self.config)
        if self.spec.discrete:
            cost = self.cost.table(obs)
            unseen = self.behaviour.frozen.log_probs(obs).exp() < config.rare / self.spec.action.n
        else:
            with torch.no_grad():
                uniform = 2 * self.noise("unseen", (count, config.samples, self.spec.action.dim), law="uniform") - 1
                action = torch.cat([uniform, self.policy.mode(obs).unsqueeze(2)], dim=2).flatten(1, 2)
                repeated = obs.unsqueeze(2).expand(-1, -1, config.samples + 1, -1).flatten(1, 2)
                known = self.behaviour.log_prob(obs, batch["action"]).sort(1).values
                edge = known[:, int(config.rare * (count - 1)), None]
                unseen = self.behaviour.log_prob(repeated, action) < edge
            cost = self.cost.of(repeated, action)
        seen = unseen.to(cost.dtype)
        return reduce(cost, seen.unsqueeze(1)), reduce(seen)

    def penalty(self, unseen_cost: Tensor) -> Tensor:
        """(R,): the Lagrangian's term of E Q_c(s, a') >= margin * max(l, 1), whose gradient the cost's critics take."""
        cost = -unseen_cost.unsqueeze(1)
        return constraint.lagrangian(torch.zeros_like(cost), cost, self.alpha(), budget=self.ceiling()).squeeze(1)

    def ceiling(self) -> Tensor:
        """(R, 1): what - E Q_c(s, a') is to be at most."""
        return -self.h.margin * self.budget.frozen().clamp(min=1.0)

    def improve(self, obs: Tensor) -> Tensor:
        """One step of a Box policy; its loss (R,)."""
        action, budget = self.policy.mode(obs), self.budget.frozen()
        q, cost = self.critic.frozen.of(obs, action).amin(1), self.cost.frozen.of(obs, action).amax(1)
        loss = policy.deterministic_q(offline_safety.within(q, cost, budget=budget, floor=self.h.floor))
        if self.config.variant == "corrected":
            loss = loss + constraint.hinge(cost, budget=budget)
        loss = reduce(loss)
        self.policy_optimiser.step(loss)
        return loss


class Safest:
    """Of a Discrete space: the best action within the limit, or the cheapest; variant=paper: argmax [Q_c <= l] Q."""

    NOISE = None

    def __init__(self, learner: CPQ):
        self.learner = learner

    def mode(self, obs: Tensor) -> Tensor:
        learner, budget = self.learner, self.learner.budget.frozen().unsqueeze(-1)
        q, cost = learner.critic.frozen.table(obs).amin(1), learner.cost.frozen.table(obs).amax(1)
        if learner.config.variant == "paper":
            return offline_safety.within(q, cost, budget=budget).argmax(-1)
        best = offline_safety.within(q, cost, budget=budget, floor=-torch.inf).argmax(-1)
        return torch.where((cost <= budget).any(-1), best, cost.argmin(-1))
