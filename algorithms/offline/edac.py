"""EDAC and SAC-N: an offline soft actor-critic whose only pessimism is the smallest of many critics.

    Q_i:  min E_D (r + gamma (min_j Q'_j(s', a') - temperature log pi(a'|s')) - Q_i(s, a))^2,   a' ~ pi(s')
              + diversity E_D sum_{i != j} cos(dQ_i/da, dQ_j/da) / (N - 1)
    pi:   max E_D min_i Q_i(s, a) - temperature log pi(a|s),   a ~ pi(s); the temperature holds the entropy at -dim nats

Off the data's actions critics disagree and their minimum is low; SAC-N needs up to hundreds of them for that, and EDAC,
whose penalty drives the gradients of Q apart, tens. SAC-N is diversity=0. In one action dimension a cosine is a sign
and has no gradient: there any diversity is SAC-N.

An, Moon, Kim, Song 2021, "Uncertainty-based offline reinforcement learning with diversified Q-ensemble" (arXiv
2110.01548), and the authors' code (snu-mllab/EDAC), where all losses are taken at the same parameters, as here.

Box only: the penalty is a gradient in the action, and without it there would be nothing of EDAC in a Discrete version.
Departures: torch's own initial weights, where theirs are small in the last layers and 0.1 in hidden biases.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Gaussian, Vector
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class EDACConfig(Config):
    hidden: tuple[int, ...] = field(default=(256, 256, 256), metadata={"range": (1, None)})
    """widths of the hidden layers of every network"""
    members: int = field(default=10, metadata={"range": (2, None)})
    """N, critics in the ensemble"""
    diversity: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """eta, weight of the similarity of the critics' gradients in the action; 0 is SAC-N"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""


class EDAC(Learner):
    Config = EDACConfig
    TITLE = "EDAC (SAC-N at diversity=0)"
    FAMILY = "offline"
    DEMO = "halfcheetah-medium"
    ACTIONS = ("box",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*hopper*": {"members": 50},
        "halfcheetah-medium-expert": {"diversity": 5.0},
        "*pointmaze*": {"diversity": 0.1},
    }

    def setup(self) -> None:
        config = self.config
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = Gaussian(self.rng, "policy", self.spec, config.hidden, squash="sample", std="state", **options)
        self.critic = Critic(self.rng, "critic", self.spec, config.hidden, members=config.members, **options)
        self.target = self.critic.target()
        self.log_temperature = Vector(self.rng, dtype=self.dtype)
        self.optimiser = Adam(self.policy, self.critic, self.log_temperature, lr=config.lr, clip=config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs, shape = self.h, batch["obs"], batch["action"].shape[1:]
        log_temperature = self.log_temperature()
        temperature = log_temperature.detach().exp()
        with torch.no_grad():
            action, log_prob = self.policy.sample(batch["next_obs"], self.noise("backup", shape))
            soft = self.target.of(batch["next_obs"], action).amin(1) - temperature * log_prob
            backup = value.bellman_backup(batch["reward"], batch["discount"], soft)
        q, similarity = self.evaluate(batch)
        action, log_prob = self.policy.sample(obs, self.noise("policy", shape))
        smallest = self.critic.frozen.of(obs, action).amin(1)
        losses = {
            "critic_loss": reduce(value.td(q, backup.unsqueeze(1)).sum(1)),
            "policy_loss": reduce(policy.sac_actor(log_prob, smallest, temperature=temperature)),
            "similarity": reduce(similarity),
        }
        entropy_loss = reduce(policy.sac_temperature(log_temperature, log_prob, target_entropy=-shape[-1]))
        penalty = [reduce(h.diversity * similarity)] if self.diverse else []
        self.optimiser.step(losses["critic_loss"], losses["policy_loss"], entropy_loss, *penalty)
        self.target.track(self.critic, h.tau)
        return {name: loss.detach() for name, loss in losses.items()} | {"temperature": temperature.squeeze(1)}

    @property
    def diverse(self) -> bool:
        return isinstance(self.h.diversity, Tensor) or self.h.diversity > 0

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Q_i at the data's actions (R, N, B), and how alike their gradients in the action are (R, B)."""
        if not self.diverse:
            return self.critic(batch), torch.zeros_like(batch["reward"])
        rows = batch["obs_action"].unsqueeze(1).expand(-1, self.critic.members, -1, -1)
        rows = rows.clone(memory_format=torch.contiguous_format).requires_grad_()  # a copy per critic
        q = self.critic({"obs_action": rows})
        (gradient,) = torch.autograd.grad(q, rows, torch.ones_like(q), create_graph=True)
        in_action = gradient[..., -self.spec.action.dim :].movedim(1, 2).contiguous()
        return q, value.ensemble_similarity(in_action)
