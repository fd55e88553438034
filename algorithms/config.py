"""Options that every learner has. A field declared `float | list[float]` may differ between replicas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Config:
    lr: float | list[float] = field(default=3e-4, metadata={"range": (0, None)})
    """Adam's step size, of every network unless an option says otherwise"""
    batch_size: int = field(default=256, metadata={"range": (1, None)})
    """transitions per update and replica"""
    gamma: float | list[float] = field(default=0.99, metadata={"range": (0, 1)})
    """discount factor"""
    hidden: tuple[int, ...] = field(default=(256, 256), metadata={"range": (1, None)})
    """widths of the hidden layers of every network"""
    layer_norm: bool = False
    """LayerNorm after every hidden layer's affine map"""
    clip_grad: float | None = field(default=None, metadata={"range": (0, None)})
    """largest norm of one replica's gradient per optimiser; null: no clipping"""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """how every step size falls, from its full size at the first update towards 0 at the lr_steps-th"""
    lr_steps: int | None = field(default=None, metadata={"range": (1, None)})
    """updates of the learner over which step sizes fall; null: the steps of the run"""
