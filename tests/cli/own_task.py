"""A task as a user writes one: a tiny batched environment and data for it. Copied into a scratch folder by a test."""

import torch

from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task

SPEC = Spec(1, Box((-1.0,), (1.0,)))


class Still:
    spec = SPEC

    def __init__(self, n, seed=0, device="cpu"):
        self.n = n

    def reset(self, seeds, mask=None):
        return torch.zeros(self.n, 1)

    def step(self, action):
        ends = torch.ones(self.n, dtype=torch.bool)
        return Step(torch.zeros(self.n, 1), -action[:, 0].abs(), ends, ~ends, {})


def make():
    def data():
        action = torch.linspace(-1, 1, 64)[:, None]
        ends = torch.ones(64, dtype=torch.bool)
        zeros = torch.zeros(64, 1)
        return OfflineDataset.from_arrays(zeros, action, -action[:, 0].abs(), ends, next_obs=zeros)

    return Task("still", SPEC, Still, dataset=data, max_steps=1)
