"""The yardstick of `bench updates`: one seed of IQL, eager, as single-file PyTorch code writes it.

Kostrikov et al. 2021. Plain and fair: nn.Sequential, torch.optim.Adam, a cosine schedule of the actor, five gathers
per batch, three `.item()` per update for the log. Not a learner of Fenchel and not in ALGORITHMS; it draws from
torch's own generator, as such code does.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal


def mlp(inputs: int, outputs: int, width: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers)


class Actor(nn.Module):
    def __init__(self, obs_dim: int, action_dim: int, width: int):
        super().__init__()
        self.net = mlp(obs_dim, action_dim, width)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, obs: Tensor) -> Normal:
        return Normal(torch.tanh(self.net(obs)), self.log_std.clamp(-20, 2).exp())


class TwinQ(nn.Module):
    def __init__(self, obs_dim: int, action_dim: int, width: int):
        super().__init__()
        self.q1, self.q2 = (mlp(obs_dim + action_dim, 1, width) for _ in range(2))

    def both(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([obs, action], 1)
        return self.q1(x).squeeze(-1), self.q2(x).squeeze(-1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.min(*self.both(obs, action))


class ReferenceIQL:
    """columns: obs (N, O), action (N, A), reward (N,), next_obs (N, O), done (N,)."""

    def __init__(self, columns: dict[str, Tensor], width: int, batch_size: int, steps: int = 1_000_000, seed: int = 0):
        torch.manual_seed(seed)
        self.columns, self.batch_size = columns, batch_size
        obs_dim, action_dim = columns["obs"].shape[1], columns["action"].shape[1]
        device = columns["obs"].device
        self.q, self.v = TwinQ(obs_dim, action_dim, width).to(device), mlp(obs_dim, 1, width).to(device)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.actor = Actor(obs_dim, action_dim, width).to(device)
        self.v_optimizer, self.q_optimizer, self.actor_optimizer = (
            torch.optim.Adam(net.parameters(), lr=3e-4) for net in (self.v, self.q, self.actor)
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.actor_optimizer, steps)

    def sample(self) -> dict[str, Tensor]:
        size = self.columns["obs"].shape[0]
        index = torch.randint(size, (self.batch_size,), device=self.columns["obs"].device)
        return {name: column[index] for name, column in self.columns.items()}

    def update(self) -> dict[str, float]:
        batch = self.sample()
        obs, action = batch["obs"], batch["action"]
        with torch.no_grad():
            next_v = self.v(batch["next_obs"]).squeeze(-1)
            target_q = self.q_target(obs, action)
        advantage = target_q - self.v(obs).squeeze(-1)
        v_loss = (torch.abs(0.7 - (advantage < 0).float()) * advantage**2).mean()
        self.v_optimizer.zero_grad(set_to_none=True)
        v_loss.backward()
        self.v_optimizer.step()

        targets = batch["reward"] + (1 - batch["done"]) * 0.99 * next_v
        q_loss = sum(F.mse_loss(q, targets) for q in self.q.both(obs, action)) / 2
        self.q_optimizer.zero_grad(set_to_none=True)
        q_loss.backward()
        self.q_optimizer.step()
        with torch.no_grad():
            for target, source in zip(self.q_target.parameters(), self.q.parameters(), strict=True):
                target.mul_(0.995).add_(source, alpha=0.005)

        weight = torch.exp(3.0 * advantage.detach()).clamp(max=100.0)
        actor_loss = (weight * -self.actor(obs).log_prob(action).sum(-1)).mean()
        self.actor_optimizer.zero_grad(set_to_none=True)
        actor_loss.backward()
        self.actor_optimizer.step()
        self.schedule.step()
        return {"v": v_loss.item(), "q": q_loss.item(), "actor": actor_loss.item()}
