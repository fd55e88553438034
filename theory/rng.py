"""Counter-based random numbers: each is a pure function of (seed, stream name, counter).

No generator state exists anywhere in Fenchel. What replica i draws does not depend on how many replicas run beside
it, a checkpoint needs no generator state, and CPU and GPU draw the same bits. The mixing function is SplitMix64
(Steele, Lea, Flood 2014), written for int64 tensors, whose products wrap around.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_M1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_M2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, k: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (x >> k) & ((1 << (64 - k)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 whose output bits look independent."""
    x = (x ^ _shift(x, 30)) * _M1
    x = (x ^ _shift(x, 27)) * _M2
    return x ^ _shift(x, 31)


def name_key(name: str) -> int:
    """A signed 64-bit key of a stream's name, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


class Streams:
    """Named random streams of R seeds at once.

    Every method returns `(R, *shape)`; `counter` numbers the draws of one stream, so `(name, counter)` may be asked
    for in any order, any number of times, and always gives the same numbers.
    """

    def __init__(self, seeds: Sequence[int] | Tensor, device: torch.device | str = "cpu"):
        seeds = torch.as_tensor(seeds, dtype=torch.int64, device=device)
        self.seeds = seeds.reshape(-1)
        self.device = self.seeds.device
        self._mixed = mix(self.seeds * GOLDEN + GOLDEN)

    def bits(self, name: str, shape: Sequence[int] = (), counter: int | Tensor = 0) -> Tensor:
        """int64 (R, *shape), uniform over all 2^64 values."""
        n = math.prod(shape)
        index = torch.arange(n, device=self.device)
        key = mix(self._mixed ^ name_key(name))[:, None]
        return mix(key + (counter * n + index) * GOLDEN).reshape(-1, *shape)

    def uniform(
        self, name: str, shape: Sequence[int] = (), counter: int | Tensor = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(R, *shape) in the open interval (0, 1)."""
        return to_uniform(self.bits(name, shape, counter), dtype)

    def normal(
        self, name: str, shape: Sequence[int] = (), counter: int | Tensor = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(R, *shape) standard normal, by the inverse distribution function: one number per counter."""
        return to_normal(self.bits(name, shape, counter), dtype)

    def integers(self, name: str, high: int | Tensor, shape: Sequence[int] = (), counter: int | Tensor = 0) -> Tensor:
        """int64 (R, *shape) in [0, high); the modulo bias is below high / 2^62."""
        return _shift(self.bits(name, shape, counter), 2) % high


def to_uniform(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """int64 bits -> numbers in the open interval (0, 1) with the resolution of `dtype`."""
    digits = 53 if dtype == torch.float64 else 24
    if digits == 53:  # the largest 53-bit integer plus one half would round up to 1
        return (_shift(bits, 12).to(dtype) + 0.5) * 2.0**-52
    return ((_shift(bits, 41).to(torch.float64) + 0.5) * 2.0**-23).to(dtype)


def to_normal(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """int64 bits -> standard normal numbers."""
    return torch.erfinv(2 * to_uniform(bits, dtype) - 1) * math.sqrt(2)


class Rng:
    """A sequence of draws for problem generators: draw k is a function of (seed, name, k) alone.

    float64 by default, since generated problems are judged in float64.
    """

    def __init__(
        self, seed: int, name: str = "rng", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
    ):
        self.streams = Streams([seed], device)
        self.name, self.dtype, self.device, self.draws = name, dtype, self.streams.device, 0

    def _next(self) -> str:
        self.draws += 1
        return f"{self.name}/{self.draws}"

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * self.streams.uniform(self._next(), shape, dtype=self.dtype)[0]

    def normal(self, *shape: int) -> Tensor:
        return self.streams.normal(self._next(), shape, dtype=self.dtype)[0]

    def integers(self, high: int, *shape: int) -> Tensor:
        return self.streams.integers(self._next(), high, shape)[0]

    def exponential(self, *shape: int) -> Tensor:
        return -torch.log(self.uniform(*shape))

    def simplex(self, *shape: int) -> Tensor:
        """Uniform on the probability simplex over the last axis (Dirichlet with parameters 1)."""
        e = self.exponential(*shape)
        return e / e.sum(-1, keepdim=True)

    def permutation(self, *shape: int) -> Tensor:
        """A random permutation of the last axis, independent over the leading ones."""
        return self.uniform(*shape).argsort(-1)
