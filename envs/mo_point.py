"""A point robot between two goals, whose whole front is known: `mo-point`, two objectives, continuous actions.

    p <- p + 0.1 a,  a in [-1, 1]^2;    r_i = -|p - g_i|^2 of the new position;    40 steps, never terminal

Starts are uniform in [-1, 1]^2. The problem is Fenchel's own. For weights w the cost is |p - m|^2 plus a constant with
m = w_1 g_1 + w_2 g_2, and each coordinate can be as near to m as it may ever be at all times at once: moving straight
towards m at full speed, a = clip((m - p) / 0.1), is optimal for every horizon and discount. Dynamics are linear and
costs convex, so that returns of randomised or history-dependent policies lie on or below the curve of these optima: the
front is convex and is J(w), w from (1, 0) to (0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError
from fenchel.theory.fronts import check_reference
from fenchel.theory.rng import Streams

GOALS = ((-0.6, -0.2), (0.6, 0.5))
SPEED, MAX_STEPS = 0.1, 40
REFERENCE_POINT = (-80.0, -80.0)
POINTS, NODES = 201, 2001  # of the front; of the midpoint rule over starts, which is exact to 1e-6


class MoPoint:
    """A BatchedEnv. Observation: p. Action: (n, 2), clamped to [-1, 1]. Reward (n, 2)."""

    def __init__(self, n: int, *, device: torch.device | str = "cpu"):
        self.n, self.device, self.max_steps = n, torch.device(device), MAX_STEPS
        self.spec = Spec(2, Box((-1.0, -1.0), (1.0, 1.0)), objectives=2)
        self.goals = torch.tensor(GOALS, device=device)
        self.position = torch.zeros(n, 2, device=device)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        start = 2 * Streams(seeds.to(self.device)).uniform("mo-point/start", (2,)) - 1
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self.position = torch.where(mask[:, None], start, self.position)
        self.t = torch.where(mask, 0, self.t)
        return self.position

    def step(self, action: Tensor) -> Step:
        self.position = self.position + SPEED * action.to(self.position).clamp(-1, 1)
        self.t = self.t + 1
        reward = -(self.position[:, None] - self.goals).square().sum(-1)
        over = self.t >= self.max_steps
        return Step(self.position, reward, torch.zeros_like(over), over, {})


def optimal_action(position: Tensor, weights: Tensor) -> Tensor:
    """Towards m at full speed; position (..., 2), weights (..., 2)."""
    return ((weights @ torch.tensor(GOALS).to(weights) - position) / SPEED).clamp(-1, 1)


@cache
def front(gamma: float, points: int = POINTS) -> Tensor:
    """(points, 2) float64: mean discounted returns of the optima at equally spaced weights, over the law of starts."""
    share = torch.linspace(0, 1, points, dtype=torch.float64)
    goals = torch.tensor(GOALS, dtype=torch.float64)
    total = torch.zeros(points, 2, dtype=torch.float64)
    for axis in range(2):  # coordinates do not interact
        aim = (1 - share) * goals[0, axis] + share * goals[1, axis]
        x = ((torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES * 2 - 1).expand(points, -1)
        for t in range(MAX_STEPS):
            x = x + (aim[:, None] - x).clamp(-SPEED, SPEED)
            total -= gamma**t * (x[:, :, None] - goals[:, axis]).square().mean(1)
    return total


def env_task(id: str, *, gamma: float = 0.99, reference_point: Sequence[float] | None = None) -> Task:
    """gamma: the discount of the front. reference_point: of the hypervolume; below the whole front."""
    if not 0 < gamma <= 1:
        raise UserError(f"task.gamma={gamma:g} is out of range; valid is a number from 0, excluded, to 1.")
    chosen = REFERENCE_POINT
    if reference_point is not None:
        chosen = tuple(check_reference(front(gamma), reference_point, "task.reference_point").tolist())
    facts = {"discount": gamma, "objectives": 2, "objective_names": ("first_goal", "second_goal")}
    facts |= {"reference_point": chosen, "front": lambda: front(gamma)}
    return Task(
        id,
        MoPoint(1).spec,
        lambda n, seed=0, device="cpu": MoPoint(n, device=device),
        max_steps=MAX_STEPS,
        metadata=facts,
    )
