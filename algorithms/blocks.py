"""The random numbers of each training step, drawn for 64 steps at a time.

A block is a function of (seeds, name, step // 64) alone, so nothing here is state. Inside a CUDA graph nothing may be
drawn: there `draw` reads buffers of fixed address, which `stage` fills before each replay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fenchel.theory.rng import Streams

LENGTH = 64


class Blocks:
    def __init__(self, rng: Streams, dtype: torch.dtype):
        self.rng, self.dtype = rng, dtype
        self._blocks: dict[tuple, tuple[int, Tensor]] = {}
        self._staged: dict[tuple, Tensor] | None = None
        self._first = 0

    def draw(self, step: int, law: str, name: str, shape: Sequence[int], high: int = 0) -> Tensor:
        """(R, *shape) of stream `name` at `step`; law is "normal", "uniform" or "integers" (below `high`)."""
        key = (law, name, tuple(shape), high)
        if self._staged is not None:
            return self._staged[key][step - self._first]
        return self._row(key, step)

    def _row(self, key: tuple, step: int) -> Tensor:
        at, block = self._blocks.get(key, (-1, None))
        if block is None or at != step // LENGTH:
            at, (law, name, shape, high) = step // LENGTH, key
            shape = (LENGTH, *shape)
            if law == "integers":
                drawn = self.rng.integers(name, high, shape, counter=at)
            else:
                drawn = getattr(self.rng, law)(name, shape, counter=at, dtype=self.dtype)
            block = drawn.transpose(0, 1).contiguous()
            self._blocks[key] = (at, block)
        return block[step % LENGTH]

    def open(self, step: int, steps: int) -> None:
        """From here `draw` reads staging buffers of `steps` steps from `step` on, for every stream used so far."""
        self._staged = {key: torch.stack([self._row(key, step + i) for i in range(steps)]) for key in self._blocks}
        self._first = step

    def close(self) -> dict[tuple, Tensor]:
        """Draw directly again; returns the buffers that a graph captured since `open` reads."""
        staged, self._staged = self._staged, None
        assert staged is not None
        return staged

    def stage(self, buffers: dict[tuple, Tensor], step: int) -> None:
        """Fill the buffers with the numbers of the steps from `step` on."""
        for key, buffer in buffers.items():
            for i, row in enumerate(buffer):
                row.copy_(self._row(key, step + i))
