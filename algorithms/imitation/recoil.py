"""ReCOIL: imitation by matching mixtures with the offline data, without a discriminator and without coverage.

    max over occupancies d   - D_f(beta d + (1 - beta) d_S || M),   M = beta d_E + (1 - beta) d_S

d_S are the rows that are no demonstrations. With y = gamma V(s') - V(s) the dual is

    V:   min beta (1 - gamma) E V(s0) + E_M f*(y) - (1 - beta) E_S y                                            (dual)
    pi:  max beta E_E w log pi(a|s) + (1 - beta) E_S max(w - 1, 0) log pi(a|s),   w = w*(y)

w M - (1 - beta) d_S is beta d, so that rows outside the demonstrations count by how much the mixture's density must
grow there. The paper takes Q for V(s), and V, then held fixed, for the maximum of Q over actions (y = gamma V(s') - Q):

    Q:   min E_M f*(y) - (1 - beta) E_S y                                                                   (implicit)
    V:   min E_M exp(z) - z - 1,   z = (Q'(s, a) - V(s)) / T                  Q' = min of two target critics
    pi:  max E_M min(exp(inverse_temperature (Q' - V)), max_weight) log pi(a|s)

Its Q has a closed form that explains the method: f'(w) = y at w = (1 - beta) d_S / M, that is with chi2
Q = 2 beta d_E / M + gamma E V(s'), value iteration with twice the chance that a row is a demonstration as its reward.

Sikchi, Zheng, Zhang, Niekum 2024, "Dual RL: unification and new methods for reinforcement and imitation learning"
(arXiv 2302.08560). Its text was not at hand: the dual is derived above and checked against the program, the choice of
rows for V and pi under `implicit` is ours.

variant=official (the released critic): Q by min ((Q_E - 200)^2 + (Q_S + 2 - gamma V(s'))^2) / 2, with V(s') = -200
where an episode ended; V by XQL's released loss, z cut at 7 and scaled by its largest over both kinds of rows; V, and
pi too as we suppose, from the offline rows only. Departures: the losses are evaluated at the same parameters; step
sizes are constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.imitation import flow
from fenchel.algorithms.imitation.source import ImitationSampler, expert_part
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.errors import UserError
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import dual, policy, value
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset

Parts = Sequence[Batch]  # demonstrations, offline rows
CEILING, STEP, END, CLIP = 200.0, -2.0, -200.0, 7.0  # of the released code


@dataclass
class ReCOILConfig(Config):
    batch_size: int = field(default=1024, metadata={"range": (1, None)})
    """offline rows, demonstrations' rows and first states per update and replica, of each so many"""
    variant: Literal["paper", "official"] = "paper"
    """the mixture dual, or the least squares of the released code"""
    value: Literal["dual", "implicit"] = "implicit"
    """V minimises the dual itself, or is the maximum of a Q that minimises it; variant=official has `implicit` only"""
    beta: float | list[float] = field(default=0.5, metadata={"range": (0, 1)})
    """share of the demonstrations in the mixture; the ends are excluded"""
    divergence: str = "chi2"
    """f of value=dual: chi2, kl, soft_chi2, or alpha:<order of at least 1>; otherwise chi2"""
    nonneg: bool = True
    """for value=dual: the mixture that is matched has no negative density"""
    temperature: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """T, of the implicit maximum; 0 is excluded"""
    inverse_temperature: float | list[float] = field(default=3.0, metadata={"range": (0, None)})
    """of the weights exp(inverse_temperature * advantage)"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the policy weights' upper bound"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""


class ReCOIL(Learner):
    Config = ReCOILConfig
    PAPER = 2
    TITLE = "ReCOIL"
    FAMILY = "imitation"
    DEMO = "stitchmaze-uncovered"
    NEEDS = ("expert",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*fourrooms*": {"gamma": 0.95, "lr": 1e-3},
        "*stitchmaze*": {"gamma": 0.95, "lr": 1e-3},
        "*pendulum*": {"lr": 1e-3},
    }

    def setup(self) -> None:
        config = self.config
        self.has_critic, self.official = config.value == "implicit", config.variant == "official"
        dual.check_temperature(config.temperature)
        dual.check_unbounded(config.divergence)
        self.divergence = get_divergence(config.divergence)
        if self.has_critic and self.divergence.name != "chi2":
            raise UserError(f"divergence={config.divergence} is not valid with value=implicit; valid is chi2.")
        if self.official and not self.has_critic:
            raise UserError("value=dual has no variant=official; valid are value=implicit, variant=paper.")
        if not self.has_critic:
            flow.check_gamma(config.gamma)
        if not all(0 < beta < 1 for beta in torch.as_tensor(config.beta).flatten().tolist()):
            raise UserError(f"beta={config.beta} is not valid; it lies strictly between 0 and 1.")
        self.expand("gamma", "beta", "temperature")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        networks = [self.policy, self.value]
        if self.has_critic:
            self.critic = Critic(self.rng, "critic", self.spec, config.hidden, **options)
            self.target = self.critic.target()
            networks.append(self.critic)
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)

    def sampler(self, data: OfflineDataset) -> ImitationSampler:
        return ImitationSampler(data, self, union=False)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        parts = (expert_part(batch), batch)
        log_prob = on(parts, lambda part: self.policy.log_prob(part["obs"], part["action"]))
        losses = self.implicit(parts, log_prob) if self.has_critic else self.explicit(parts, log_prob)
        self.optimiser.step(*losses.values())
        if self.has_critic:
            self.target.track(self.critic, self.h.tau)
        return {name: loss.detach() for name, loss in losses.items()}

    def explicit(self, parts: Parts, log_prob: Tensor) -> dict[str, Tensor]:
        """value=dual."""
        h, y = self.h, on(parts, lambda part: flow.advantage(self.value, part))
        rows = shares(h.beta, y)
        match = dual.mixture_dual(y, offline(y), share=h.beta, divergence=self.divergence, nonneg=h.nonneg)
        on_expert, on_offline = self.divergence.ratio(y.detach()).chunk(2, -1)
        weight = torch.cat([on_expert, (on_offline - 1).relu()], -1).clamp(max=h.max_weight)
        return {
            "value_loss": reduce(rows * match) + reduce(h.beta * flow.start(self.value, parts[1], h.gamma)),
            "policy_loss": reduce(rows * policy.weighted_nll(log_prob, weight)),
        }

    def implicit(self, parts: Parts, log_prob: Tensor) -> dict[str, Tensor]:
        """value=implicit; demonstrations do not count in V and pi of variant=official."""
        h, v = self.h, on(parts, lambda part: self.value(part["obs"]))
        q_target, rows = on(parts, self.target).amin(1), shares(0 * h.beta if self.official else h.beta, v)
        form = {"variant": "official", "clip": CLIP} if self.official else {}
        value_loss = value.gumbel(v, q_target, temperature=h.temperature, **form)
        policy_loss = policy.awr(log_prob, q_target - v, inverse_temperature=h.inverse_temperature, clip=h.max_weight)
        return {
            "value_loss": reduce(rows * value_loss),
            "critic_loss": self.least_squares(parts) if self.official else self.match(parts),
            "policy_loss": reduce(rows * policy_loss),
        }

    def match(self, parts: Parts) -> Tensor:
        """The mixture dual of both critics with V held fixed, (R,)."""
        y = self.next_value(parts) - on(parts, self.critic)
        beta = self.h.beta.unsqueeze(1)
        loss = dual.mixture_dual(y, offline(y), share=beta, divergence=self.divergence, nonneg=False)
        return reduce((shares(beta, y) * loss).sum(1))

    def least_squares(self, parts: Parts) -> Tensor:
        """The released loss of both critics, (R,)."""
        ended = self.h.gamma - parts[1]["discount"]
        backup = STEP + self.next_value(parts[1:]) + (ended * END).unsqueeze(1)
        on_expert, on_offline = (self.critic(part) for part in parts)
        return reduce(dual.ls_iq(on_expert, on_offline, backup.expand_as(on_offline), ceiling=CEILING).sum(1))

    def next_value(self, parts: Parts) -> Tensor:
        """gamma V(s'), (R, 1, parts * B), no gradient of V."""
        return on(parts, lambda part: part["discount"] * self.value.frozen(part["next_obs"])).unsqueeze(1)


def on(parts: Parts, function: Callable[[Batch], Tensor]) -> Tensor:
    """function(part) of each part, side by side along the last axis."""
    return torch.cat([function(part) for part in parts], -1)


def shares(beta: Tensor, like: Tensor) -> Tensor:
    """What rows count so that the mean over demonstrations and offline rows, 2 B of them, is the mixture's."""
    half = like.new_ones(like.shape[-1] // 2)
    return torch.cat([2 * beta * half, 2 * (1 - beta) * half], -1)


def offline(y: Tensor) -> Tensor:
    """The offline half (..., B) of (..., 2 B), twice: its mean under `shares` is the mean of the offline rows."""
    half = y.chunk(2, -1)[1]
    return torch.cat([half, half], -1)
