"""Many updates in a row: eagerly, or as a CUDA graph of one period of the learner.

A graph holds `learner.period` updates (two for TD3's delayed actor), so that the branches of `update` are static.
Their random numbers are drawn outside and copied to the addresses that the graph reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms.learner import Learner
from fenchel.algorithms.sampler import Sampler

WARM_UP = 3  # periods run eagerly before the capture: libraries allocate their workspaces in them


class Runner:
    def __init__(self, learner: Learner, source: Any, compile: bool = False, capture: bool = True):
        """capture: use CUDA graphs where the learner is on a GPU and its batches come from stored data."""
        self.learner, self.source = learner, source
        self.capture = capture and learner.device.type == "cuda" and isinstance(source, Sampler)
        self.update = torch.compile(learner.update, dynamic=False) if compile else learner.update
        self.reset()

    def reset(self) -> None:
        """Forget the graph: something in the learner's control flow has changed."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = 0

    def advance(self, steps: int) -> dict[str, Tensor]:
        """`steps` updates; the last one's losses, which the next call may overwrite."""
        learner, losses = self.learner, {}
        end = learner.steps + steps
        while learner.steps < end:
            whole = learner.steps % learner.period == 0 and learner.steps + learner.period <= end
            if not (self.capture and whole):
                losses = self._eager()
            elif self._warm < WARM_UP:
                losses = self._warm_up()
            else:
                losses = self._replay()
        return losses

    def _eager(self) -> dict[str, Tensor]:
        losses = self.update(self.source(self.learner.steps))
        self.learner.steps += 1
        return losses

    def _period(self) -> dict[str, Tensor]:
        losses = {}
        for _ in range(self.learner.period):
            losses |= self._eager()
        return losses

    def _warm_up(self) -> dict[str, Tensor]:
        self._warm += 1
        side = torch.cuda.Stream(self.learner.device)
        side.wait_stream(torch.cuda.current_stream(self.learner.device))
        with torch.cuda.stream(side):
            losses = self._period()
        torch.cuda.current_stream(self.learner.device).wait_stream(side)
        return losses

    def _replay(self) -> dict[str, Tensor]:
        learner = self.learner
        start = learner.steps
        if self._graph is None:
            learner.blocks.open(start, learner.period)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._losses = self._period()
            self._buffers = learner.blocks.close()
        learner.blocks.stage(self._buffers, start)
        self._graph.replay()
        learner.steps = start + learner.period
        return self._losses
