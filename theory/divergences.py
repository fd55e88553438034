"""f-divergences: D_f(p || q) = E_q f(p / q), and everything that a dual method needs of f.

Convention. f is convex on w = p / q >= 0 with f(1) = f'(1) = 0 (for TV, 0 is a subgradient), so that f >= 0, f*(0) = 0
and w*(0) = 1: a residual of 0 leaves the data as they are. A paper that writes f + c (w - 1) has the same divergence;
its conjugate at y is ours at y - c, plus c (for w log w, c = 1).

    name        f(w)                                 of p = learned, q = reference: also known as
    kl          w log w - w + 1                      KL(p || q); "reverse KL" of f-DVL, DPO and f-DPO; XQL
    reverse_kl  - log w + w - 1                      KL(q || p); "forward KL" of f-DPO
    chi2        (w - 1)^2                            Pearson; f-DVL, ODICE; OptiDICE and SMODICE write half of it
    soft_chi2   f_kl below 1, (w - 1)^2 / 2 above    OptiDICE's default
    tv          |w - 1| / 2                          f-DVL
    hellinger   (sqrt(w) - 1)^2                      squared, not halved
    js          (w log w - (1 + w) log((1 + w) / 2)) / 2    at most log 2; f-DPO, f-DPG and f-GAN write twice it
    alpha:a     (w^a - 1 - a (w - 1)) / (a (a - 1))  f'' = w^(a - 2): 1 kl, 0 reverse_kl, 2 chi2 / 2, 1/2 2 hellinger

Numbers. f* grows like exp or a power, so w is bounded by W = (largest float)^0.45: beyond y = f'(W) a conjugate goes on
as its tangent (it is the supremum over w <= W), which keeps value and gradient finite and never zero. Where f* is
infinite (y beyond f'(inf), the slope of f at infinity) the value is +inf with gradient 0; no input gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.special import entr

from fenchel.errors import UserError, unknown
from fenchel.theory.numerics import softplus

Function = Callable[[Tensor], Tensor]


def _largest(x: Tensor) -> float:
    return torch.finfo(x.dtype).max ** 0.45


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, continued as its tangent beyond log W."""
    cap = math.log(_largest(x))
    return torch.expm1(x.clamp(max=cap)) + (x - cap).relu() * math.exp(cap)


@dataclass(frozen=True, repr=False, eq=False)
class Divergence:
    """One f. Every method is elementwise, for any shape and floating dtype, and differentiable twice.

    f, f_prime, f_second: of w >= 0; +inf for w < 0 unless `signed`.
    score: f'(exp(log_w)) of log_w, in log space: the implicit reward of f-DPO, the pseudo-reward of f-DPG.
    slope: f'(inf), where the domain of f* ends.
    lowest: f'(0), below which w* = 0.
    signed: f is finite for w < 0, so that `conjugate` and `conjugate_nonneg` differ.
    """

    name: str
    f: Function
    f_prime: Function
    f_second: Function
    score: Function
    _conjugate: Function  # closed forms for y <= f'(W), over w >= 0
    _ratio: Function
    slope: float = math.inf
    lowest: float = -math.inf
    signed: bool = False
    _steepest: Callable[[float], float] = lambda largest: math.inf  # f'(W), when the slope is infinite
    _signed_conjugate: Function | None = None

    def _cap(self, y: Tensor) -> float:
        """f'(W), or the last number below the slope."""
        below = self.slope if self.signed else self.slope * (1 - torch.finfo(y.dtype).eps)
        return min(self._steepest(_largest(y)), below)

    def _finite(self, y: Tensor) -> Tensor:
        return y <= self.slope if self.signed else y < self.slope

    def conjugate(self, y: Tensor) -> Tensor:
        """f*(y) = sup over every w where f is finite (for chi2 and TV also w < 0) of w y - f(w)."""
        return self._signed_conjugate(y) if self._signed_conjugate else self.conjugate_nonneg(y)

    def conjugate_nonneg(self, y: Tensor) -> Tensor:
        """sup over w >= 0 of w y - f(w): never decreasing, with `ratio` as its gradient."""
        cap = self._cap(y)
        value = self._conjugate(y.clamp(max=cap)) + (y - cap).relu() * self._ratio(y.new_full((), cap))
        return torch.where(self._finite(y), value, math.inf)

    def ratio(self, y: Tensor) -> Tensor:
        """w*(y) = argmax over w >= 0 of w y - f(w) = max(0, (f')^{-1}(y)); +inf where f*(y) is infinite."""
        return torch.where(self._finite(y), self._ratio(y.clamp(max=self._cap(y))), math.inf)

    def saturated(self, y: Tensor) -> Tensor:
        """Whether w* is beyond W there, so that conjugates go on as tangents."""
        return y > self._steepest(_largest(y))

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """D_f(p || q) over the last axis, for measures p, q >= 0; where q = 0 an atom counts p f'(inf)."""
        covered = q > 0
        inside = q * self.f(torch.where(covered, p, 1) / torch.where(covered, q, 1))
        outside = p * self.slope if math.isfinite(self.slope) else torch.zeros_like(p).masked_fill(p > 0, math.inf)
        return torch.where(covered, inside, outside).sum(-1)

    def __repr__(self) -> str:
        return self.name


KL = Divergence(
    name="kl",
    f=lambda w: 1 - w - entr(w),
    f_prime=lambda w: w.log(),
    f_second=lambda w: 1 / w,
    score=lambda log_w: log_w,
    _conjugate=torch.expm1,
    _ratio=torch.exp,
    _steepest=math.log,
)

REVERSE_KL = Divergence(
    name="reverse_kl",
    f=lambda w: torch.where(w >= 0, w - 1 - w.clamp(min=0).log(), math.inf),
    f_prime=lambda w: 1 - 1 / w,
    f_second=lambda w: w.pow(-2),
    score=lambda log_w: -_expm1(-log_w),
    _conjugate=lambda y: -torch.log1p(-y),
    _ratio=lambda y: 1 / (1 - y),
    slope=1.0,
)


def _parabola(y: Tensor) -> Tensor:
    return y + y.square() / 4


CHI2 = Divergence(
    name="chi2",
    f=lambda w: (w - 1).square(),
    f_prime=lambda w: 2 * (w - 1),
    f_second=lambda w: torch.full_like(w, 2.0),
    score=lambda log_w: 2 * _expm1(log_w),
    _conjugate=lambda y: _parabola(y.clamp(min=-2)),
    _ratio=lambda y: (1 + y / 2).clamp(min=0),
    lowest=-2.0,
    signed=True,
    _steepest=lambda largest: 2 * (largest - 1),
    _signed_conjugate=_parabola,
)

SOFT_CHI2 = Divergence(
    name="soft_chi2",
    f=lambda w: torch.where(w < 1, 1 - w - entr(w), (w - 1).square() / 2),
    f_prime=lambda w: torch.where(w < 1, w.clamp(max=1).log(), w - 1),
    f_second=lambda w: 1 / w.clamp(max=1),
    score=lambda log_w: torch.where(log_w < 0, log_w, _expm1(log_w)),
    _conjugate=lambda y: torch.where(y < 0, torch.expm1(y.clamp(max=0)), y + y.square() / 2),
    _ratio=lambda y: torch.where(y < 0, y.clamp(max=0).exp(), 1 + y),
    _steepest=lambda largest: largest - 1,
)

TV = Divergence(  # f_prime, score and ratio pick one subgradient: 0 at w = 1, w = 1 at y = -1/2 and 1/2
    name="tv",
    f=lambda w: (w - 1).abs() / 2,
    f_prime=lambda w: (w - 1).sign() / 2,
    f_second=torch.zeros_like,
    score=lambda log_w: log_w.sign() / 2,
    _conjugate=lambda y: y.clamp(min=-0.5),
    _ratio=lambda y: (y >= -0.5).to(y.dtype),
    slope=0.5,
    lowest=-0.5,
    signed=True,
    _signed_conjugate=lambda y: torch.where(y.abs() <= 0.5, y, math.inf),
)

HELLINGER = Divergence(
    name="hellinger",
    f=lambda w: torch.where(w >= 0, (w.clamp(min=0).sqrt() - 1).square(), math.inf),
    f_prime=lambda w: 1 - w.rsqrt(),
    f_second=lambda w: w.pow(-1.5) / 2,
    score=lambda log_w: -_expm1(-log_w / 2),
    _conjugate=lambda y: y / (1 - y),
    _ratio=lambda y: (1 / (1 - y)).square(),
    slope=1.0,
)

_JS_SLOPE = math.log(2) / 2


def _js_conjugate(y: Tensor) -> Tensor:
    """- log(2 - exp(2 y)) / 2: one form is exact near 0, the other near the slope."""
    near = y > 0.15
    top, low = torch.where(near, y, 0.15), torch.where(near, 0.15, y)
    return (
        -torch.where(near, torch.log(-2 * torch.expm1(2 * (top - _JS_SLOPE))), torch.log1p(-torch.expm1(2 * low))) / 2
    )


JS = Divergence(
    name="js",
    f=lambda w: -(entr(w) + (1 + w) * torch.log1p((w.clamp(min=0) - 1) / 2)) / 2,
    f_prime=lambda w: (w.log() - torch.log1p((w - 1) / 2)) / 2,
    f_second=lambda w: 1 / (2 * w * (1 + w)),
    score=lambda log_w: _JS_SLOPE - softplus(-log_w) / 2,
    _conjugate=_js_conjugate,
    _ratio=lambda y: (2 * y).exp() / (-2 * torch.expm1(2 * (y - _JS_SLOPE))),
    slope=_JS_SLOPE,
)


def alpha(a: float | int) -> Divergence:
    """Cressie and Read's family; f-DPO's alpha is 1 - a, TRL's f_alpha_divergence_coef is a."""
    if a in (0.0, 1.0):
        return KL if a else REVERSE_KL

    def log_ratio(y: Tensor) -> tuple[Tensor, Tensor]:
        """Where w* > 0, and its logarithm there."""
        positive = (a - 1) * y > -1
        return positive, torch.log1p((a - 1) * torch.where(positive, y, 0)) / (a - 1)

    def conjugate(y: Tensor) -> Tensor:
        positive, log_w = log_ratio(y)
        return torch.where(positive, torch.expm1(a * log_w), -1) / a

    def ratio(y: Tensor) -> Tensor:
        positive, log_w = log_ratio(y)
        return torch.where(positive, log_w.exp(), 0)

    return Divergence(
        name=f"alpha:{a:g}",
        f=lambda w: torch.where(w >= 0, (w.clamp(min=0).pow(a) - 1 - a * (w - 1)) / (a * (a - 1)), math.inf),
        f_prime=lambda w: torch.expm1((a - 1) * w.log()) / (a - 1),
        f_second=lambda w: w.pow(a - 2),
        score=lambda log_w: _expm1((a - 1) * log_w) / (a - 1),
        _conjugate=conjugate,
        _ratio=ratio,
        slope=1 / (1 - a) if a < 1 else math.inf,
        lowest=1 / (1 - a) if a > 1 else -math.inf,
        _steepest=lambda largest: math.expm1((a - 1) * min(1, 2 / abs(a)) * math.log(largest)) / (a - 1),
    )


DIVERGENCES = {d.name: d for d in (KL, REVERSE_KL, CHI2, SOFT_CHI2, TV, HELLINGER, JS)}


def get_divergence(name: str | Divergence) -> Divergence:
    """The divergence of that name; `alpha:<number>` takes any finite order. Raises UserError otherwise."""
    if isinstance(name, Divergence):
        return name
    if name in DIVERGENCES:
        return DIVERGENCES[name]
    key, _, order = name.partition(":")
    if key != "alpha":
        raise unknown("divergence", name, [*DIVERGENCES, "alpha:<order>"])
    try:
        a = float(order)
    except ValueError:
        a = math.nan
    if not math.isfinite(a):
        raise UserError(f"divergence={name} is not valid; alpha takes a finite order, such as alpha:0.5.")
    return alpha(a)
