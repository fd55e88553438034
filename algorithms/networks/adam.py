"""Adam over the flat buffers of several networks: zeroing, clipping and the update are one kernel each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fenchel.algorithms.networks.network import Network

# leaves and their gradients are strided alike, one row per replica; autograd expects dense ones and says so once
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
FUSED = ("cpu", "cuda")  # devices whose torch has `_fused_adam_` since 2.8


@dataclass(frozen=True)
class Schedule:
    """Which share of its full size a step has, of the number of updates before it: 1 at 0, and 0 from `steps` on.

    A number on the optimiser's own device, so that a captured graph goes on to fall. (cosine: half a period, as
    Loshchilov and Hutter 2017 without restarts.)
    """

    kind: Literal["linear", "cosine"]
    steps: int

    def __call__(self, before: Tensor) -> Tensor:
        done = (before / self.steps).clamp(max=1)
        return 1 - done if self.kind == "linear" else (1 + torch.cos(math.pi * done)) / 2


class Adam:
    """Minimises per-replica losses (R,). (Kingma and Ba 2015, algorithm 1, as torch.optim.Adam.)

    lr: a float, or one per replica. Replicas with one step size share a kernel that takes it as a number, so that a
    swept replica has the single run's bits.
    clip: largest norm of one replica's gradient over all `networks` together.
    every: updates of the learner per update of these networks (a delayed actor's), by which a `schedule` is told.
    betas: decay of the gradient's two moments; a game wants less of the first, whose momentum turns it in circles.
    """

    def __init__(
        self,
        *networks: Network,
        lr: float | Sequence[float],
        clip: float | None = None,
        every: int = 1,
        betas: tuple[float, float] = (BETA1, BETA2),
    ):
        self.networks, self.clip, self.every, self.betas = networks, clip, every, betas
        self.schedule: Schedule | None = None
        self.replicas = networks[0].replicas
        self.moments = [(torch.zeros_like(net.flat), torch.zeros_like(net.flat)) for net in networks]
        self.count = torch.zeros((), device=networks[0].flat.device)
        self.ones = networks[0].flat.new_ones(self.replicas)
        self.grads = [net.grad for net in networks]
        self.lr = [lr] * self.replicas if isinstance(lr, float) else list(lr)
        self.freeze(set())

    def freeze(self, replicas: set[int]) -> None:
        """The parameters of these replicas move no more."""
        going = [i for i in range(self.replicas) if i not in replicas]
        buffers = [(net.flat, net.grad, m, v) for net, (m, v) in zip(self.networks, self.moments, strict=True)]
        self.groups = []
        for lr in dict.fromkeys(self.lr[i] for i in going):
            rows = [i for i in going if self.lr[i] == lr]
            whole = len(rows) == self.replicas
            pieces = buffers if whole else [tuple(b[i] for b in row) for row in buffers for i in rows]
            self.groups.append((lr, *(list(column) for column in zip(*pieces, strict=True))))

    def step(self, *losses: Tensor) -> None:
        """One update of the sum of `losses`, each (R,); summed over replicas, its gradient is each replica's own."""
        torch._foreach_zero_(self.grads)
        torch.autograd.backward(losses, [self.ones] * len(losses))
        self.apply()

    def apply(self) -> None:
        """One update from the gradients as they lie in the buffers."""
        if self.clip is not None:
            self._clip(self.clip)
        self.count += 1
        update = _fused if self.count.device.type in FUSED else _plain
        with torch.no_grad():
            share = self.schedule((self.count - 1) * self.every) if self.schedule else None
            for lr, params, grads, means, squares in self.groups:
                size = lr if share is None else lr * share
                update(params, grads, means, squares, self.count, size, *self.betas)

    def _clip(self, bound: float) -> None:
        norms = [torch.linalg.vector_norm(grad, dim=1, keepdim=True) for grad in self.grads]
        norm = torch.linalg.vector_norm(torch.cat(norms, dim=1), dim=1, keepdim=True)
        scale = (bound / (norm + 1e-6)).clamp(max=1.0)
        for grad in self.grads:
            grad.mul_(scale)

    def state(self) -> dict[str, Tensor]:
        moments = {
            f"{k}{i}": tensor for i, pair in enumerate(self.moments) for k, tensor in zip("mv", pair, strict=True)
        }
        return {"count": self.count, **moments}


Size = float | Tensor


def _fused(
    params: list, grads: list, means: list, squares: list, count: Tensor, lr: Size, beta1: float, beta2: float
) -> None:
    torch._fused_adam_(
        params, grads, means, squares, [], [count] * len(params),
        lr=lr, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=EPS, amsgrad=False, maximize=False,
    )  # fmt: skip


def _plain(
    params: list, grads: list, means: list, squares: list, count: Tensor, lr: Size, beta1: float, beta2: float
) -> None:
    time = count.to(params[0].dtype)  # expm1: 1 - beta^t without cancellation
    correction1, correction2 = (-torch.expm1(time * math.log(beta)) if beta else 1.0 for beta in (beta1, beta2))
    for param, grad, m, v in zip(params, grads, means, squares, strict=True):
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = (v / correction2).sqrt_().add_(EPS)
        param.sub_(lr * (m / correction1 / denominator))
