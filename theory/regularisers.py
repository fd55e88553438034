"""Convex functions of a ratio that are no divergence: 1 is not their minimum, and a ratio below 0 has a value too.

A DICE estimator regularises the ratio w = d / d_D so that its saddle point can be found; in tables the flow constraints
alone fix w, and any strictly convex f gives the same one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.divergences import DIVERGENCES, Divergence, get_divergence


def power(p: float) -> Divergence:
    """|w|^p / p for p > 1, whose conjugate is |y|^q / q, q = p / (p - 1). (DualDICE, Nachum 2019.)"""
    q = p / (p - 1)
    return Divergence(
        name=f"power:{p:g}",
        f=lambda w: _power(w, p) / p,
        f_prime=lambda w: _power(w, p - 1) * w.sign(),
        f_second=lambda w: (p - 1) * _power(w, p - 2),
        score=lambda log_w: ((p - 1) * log_w).exp(),
        _conjugate=lambda y: _power(y.clamp(min=0), q) / q,
        _ratio=lambda y: _power(y.clamp(min=0), q - 1),
        lowest=0.0,
        signed=True,
        _steepest=lambda largest: math.exp((p - 1) * min(1.0, 2 / p) * math.log(largest)),
        _signed_conjugate=lambda y: _power(y, q) / q,
    )


def _power(x: Tensor, p: float) -> Tensor:
    """|x|^p, from kernels that treat every element of a tensor alike; torch.pow does not."""
    if p == 2:
        return x.square()
    return (p * x.abs().clamp(min=torch.finfo(x.dtype).tiny).log()).exp()


def get_regulariser(name: str) -> Divergence:
    """`power:<p>` with p > 1, or the divergence of that name. Raises UserError otherwise."""
    key, _, order = name.partition(":")
    if key != "power":
        if key != "alpha" and name not in DIVERGENCES:
            raise unknown("regulariser", name, ["power:<p>", *DIVERGENCES, "alpha:<order>"])
        return get_divergence(name)
    try:
        p = float(order)
    except ValueError:
        p = math.nan
    if not 1 < p < math.inf:
        raise UserError(f"regulariser={name} is not valid; power takes a number above 1, such as power:2.")
    return power(p)
