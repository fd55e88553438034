"""A policy that denoises actions in a few steps: residual blocks with LayerNorm, of R replicas at once.

    f(s, a_t, t): x_0 = W [s, a_t, t];  x_{i+1} = x_i + B_i mish(A_i norm(x_i));  noise = C mish(x_n)

The step t is one-hot, which with five steps says as much as any embedding of it. Hansen-Estruch et al. 2023 (IDQL,
arXiv 2304.10573) and FISOR [10] have these blocks, with dropout, which is left out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from fenchel.algorithms.networks.network import Network, affine
from fenchel.envs.spec import Spec
from fenchel.theory.objectives import diffusion
from fenchel.theory.rng import Streams

POOL = 256


class Denoiser(Network):
    """The noise in a_t: obs (R, B, obs_dim), action (R, B, dim), t (R, B) int64 from 0 -> (R, B, dim).

    hidden: the inner widths of its blocks; the trunk is as wide as the first. Weights are uniform as nn.Linear's.
    """

    def __init__(
        self, rng: Streams, name: str, spec: Spec, hidden: Sequence[int], steps: int, dtype: torch.dtype = torch.float32
    ):
        dim, width = spec.action.dim, hidden[0]
        inputs = spec.obs_dim + dim + steps
        pairs = [
            (inputs, width),
            *((a, b) for inner in hidden for a, b in pairwise((width, inner, width))),
            (width, dim),
        ]
        shapes = [shape for fan_in, fan_out in pairs for shape in ((fan_in, fan_out), (1, fan_out))]
        super().__init__(shapes, len(rng.seeds), 1, torch.empty(0, device=rng.device, dtype=dtype))
        self.steps, self.dim = steps, dim
        for i, weight in enumerate(self.frozen.weights):
            bound = pairs[i // 2][0] ** -0.5
            weight.copy_((2 * rng.uniform(f"init/{name}/{i}", weight.shape[1:], dtype=dtype) - 1) * bound)

    def __call__(self, obs: Tensor, action: Tensor, t: Tensor) -> Tensor:
        weights = iter(self.weights)
        when = F.one_hot(t, self.steps).to(action.dtype)
        x = affine(torch.cat([obs, action, when], dim=-1), next(weights), next(weights))
        for _ in range((len(self.weights) - 4) // 4):
            inner = affine(F.layer_norm(x, x.shape[-1:]), next(weights), next(weights))
            x = x + affine(mish(inner), next(weights), next(weights))
        return affine(mish(x), next(weights), next(weights))


class DiffusionPolicy:
    """Acts by the safest of several denoised actions: `score(obs, action)` (R, B) is least for the one that is taken.

    Box actions in [-1, 1]. The noise comes from a pool of POOL fixed sequences, of the replica's own seed: `mode` takes
    the first ones in every state, so that it is a function of the state, and `sample` those from a random place on.
    """

    NOISE = "normal"

    def __init__(
        self, rng: Streams, name: str, denoiser: Denoiser, candidates: int, score: Callable[[Tensor, Tensor], Tensor]
    ):
        self.denoiser, self.candidates, self.score = denoiser, candidates, score
        dtype = denoiser.flat.dtype
        self.alpha, self.kept = diffusion.vp_schedule(denoiser.steps, device=rng.device, dtype=dtype)
        self.pool = rng.normal(f"{name}/noise", (POOL, denoiser.steps * denoiser.dim), dtype=dtype)

    def mode(self, obs: Tensor) -> Tensor:
        return self._choose(obs, torch.zeros(obs.shape[:2], dtype=torch.int64, device=obs.device))

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, None]:
        """noise (R, B, dim), of which the first number says where in the pool; there is no density."""
        place = POOL * (1 + torch.erf(noise[..., 0] / math.sqrt(2))) / 2
        return self._choose(obs, place.long().clamp(max=POOL - 1)), None

    def _choose(self, obs: Tensor, place: Tensor) -> Tensor:
        """place (R, B): the first candidate's sequence of noise."""
        shape, dim = (*obs.shape[:2], self.candidates), self.denoiser.dim
        index = ((place.unsqueeze(-1) + torch.arange(self.candidates, device=obs.device)) % POOL).flatten(1)
        drawn = self.pool.gather(1, index.unsqueeze(-1).expand(-1, -1, self.pool.shape[-1]))
        noise = drawn.unflatten(-1, (-1, dim)).unbind(2)
        seen = obs.unsqueeze(2).expand(*shape, -1).flatten(1, 2)
        action = noise[0]
        for t in reversed(range(self.denoiser.steps)):
            when = torch.full(action.shape[:2], t, dtype=torch.int64, device=action.device)
            more = noise[t] if t else torch.zeros_like(action)
            predicted = self.denoiser(seen, action, when)
            action = diffusion.denoise(action, predicted, more, self.alpha[t], self.kept[t])
        action = action.clamp(-1, 1)
        best = self.score(seen, action).view(shape).argmin(-1)
        chosen = best[..., None, None].expand(*shape[:2], 1, dim)
        return action.view(*shape, dim).gather(2, chosen).squeeze(2)

    def track(self, source: Denoiser, tau: float | Tensor) -> None:
        self.denoiser.track(source, tau)

    def state(self) -> dict[str, Tensor]:
        return self.denoiser.state()


def mish(x: Tensor) -> Tensor:
    """x tanh(log(1 + e^x)), from kernels that treat every element alike."""
    return x * torch.tanh(x.relu() + torch.log1p(torch.exp(-x.abs())))
