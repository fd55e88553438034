"""Losses of the convex-dual family: one divergence, one multiplier (the value), one inequality w >= 0.

Shapes: values and residuals are (..., B); a hyper-parameter is a float or broadcasts to (..., B), such as (R, 1).
Arguments named `*_target` are detached, nothing else is. `divergence` is a name or a Divergence in the convention of
`theory.divergences` (f'(1) = 0). Where a divergence has a finite slope (reverse_kl, js, hellinger, tv), a dual loss is
+inf at values that are not dual feasible.

| method | here |
|---|---|
| f-DVL [2] | `dual_v` (paper, official, corrected) |
| XQL, EQL; SQL (IVR) | `dual_v` with kl; with chi2: its loss times 2 / temperature is SQL's up to a constant |
| ODICE [72] | `odice_value` on `forward_residual` and `backward_residual`, gradients joined by `orthogonal` |
| OptiDICE; DemoDICE | `normalised_dual`; with kl, or `donsker_varadhan` |
| SMODICE; dual-Q, DualDICE; IQ-Learn | `residual_dual` + (1 - gamma) v(s0): log-ratio as reward; v = Q(s, pi); r = 0 |
| ReCOIL [2], SMORe [154] | `mixture_dual`; the released least-squares form is `ls_iq` |
| DualDICE, GenDICE as saddle | `saddle_value` against `saddle_ratio` |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.divergences import Divergence, get_divergence
from fenchel.theory.objectives.value import bellman_backup, expectile_weight, gumbel

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Variant = Literal["corrected", "paper", "official"]
VARIANTS = ("corrected", "paper", "official")


def check_lam(lam: Hyper | Sequence[float], divergence: str | Divergence) -> None:
    """Raises UserError unless every lam lies in (0, 1), and for TV above 1/2 (below it the loss has no minimum)."""
    values = torch.as_tensor(lam).flatten().tolist()
    low = 0.5 if get_divergence(divergence).name == "tv" else 0.0
    if not all(low < value < 1 for value in values):
        why = " with divergence=tv, since the loss is a quantile loss of level 2 - 1/lam" if low else ""
        raise UserError(f"lam={lam} is not valid; it lies strictly between {low:g} and 1{why}.")


def check_temperature(temperature: Hyper | Sequence[float]) -> None:
    """Raises UserError unless every temperature is above 0: residuals are divided by it."""
    if not all(value > 0 for value in torch.as_tensor(temperature).flatten().tolist()):
        raise UserError(f"temperature={temperature} is not valid; it lies above 0.")


def check_unbounded(divergence: str | Divergence) -> None:
    """Raises UserError where f'(inf) is finite: the loss is then infinite at values that are not dual feasible."""
    d = get_divergence(divergence)
    if math.isfinite(d.slope):
        why = f"where a residual exceeds {d.slope:.3g} the loss is infinite and without gradient"
        raise UserError(f"divergence={d.name} is not valid: {why}; valid are chi2, kl, soft_chi2, alpha:<1 or more>.")


def _centre(value: Values, lam: Hyper, divergence: Divergence, variant: str) -> Tensor:
    """f'((1 - lam) / lam), the residual at which the paper's loss is stationary on a constant q; 0 for the paper."""
    if variant == "paper":
        return value.new_zeros(())
    return divergence.f_prime((1 - lam) / lam * value.new_ones(()))


def dual_v(
    value: Values,
    q_target: Values,
    *,
    divergence: str | Divergence,
    lam: Hyper = 0.5,
    temperature: Hyper = 1.0,
    variant: Variant = "corrected",
) -> Values:
    """(1 - lam) v + lam T phi((q - v) / T): the implicit maximiser of f-DVL. (Dual RL, Sikchi 2024 [2]; IVR, Xu 2023.)

    corrected: phi(y) = f*_+(y + f'((1 - lam) / lam)). At lam = 1/2 twice the minimum is the regularised maximum,
        max over pi of E_pi q - T D_f(pi || beta), `dual_v_weight` is pi / beta and the minimiser its multiplier of
        sum pi = 1 (equal to the maximum for kl). For every lam a constant q gives v = q. v never falls as lam grows: up
        to the largest q of the support if f'(0) is finite (chi2, tv); for kl it is T log E exp(q / T) at every lam.
    paper: phi = f*_+. The same minimiser shifted by - T f'((1 - lam) / lam): with chi2 by 2 T (2 lam - 1) / lam.
    official (hari-sikchi/DVL): chi2 max(y + y^2 / 4, 0), which rises again below y = -4, so that v tends to
        mean(q) + 2 T, not max(q), once the spread of q is large; kl is XQL's `gumbel` with temperature lam T.
    TV in every variant is max(y, 0), w in {0, 1}: the minimiser is the quantile of level 2 - 1/lam.
    """
    d = get_divergence(divergence)
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    if not isinstance(lam, Tensor):
        check_lam(lam, d)
    if variant == "official" and d.name == "kl":
        return gumbel(value, q_target, temperature=lam * temperature, clip=7.0, variant="official")
    y = (q_target.detach() - value) / temperature
    if d.name == "tv":
        phi = y.relu()
    elif variant != "official":
        phi = d.conjugate_nonneg(y + _centre(value, lam, d, variant))
    elif d.name == "chi2":
        phi = (y + y.square() / 4).relu()
    else:
        raise UserError(f"divergence={d.name} has no official f-DVL loss; valid are chi2, kl, tv.")
    return (1 - lam) * value + lam * temperature * phi


def dual_v_weight(
    value: Values,
    q: Values,
    *,
    divergence: str | Divergence,
    lam: Hyper = 0.5,
    temperature: Hyper = 1.0,
    variant: Literal["corrected", "paper"] = "corrected",
) -> Values:
    """phi'((q - v) / T) lam / (1 - lam) >= 0: pi(a|s) / beta(a|s) of the policy that `dual_v` implies.

    Its mean over the data's actions is 1 where `dual_v` is minimal.
    """
    d = get_divergence(divergence)
    y = (q - value) / temperature
    weight = (y > 0).to(y.dtype) if d.name == "tv" else d.ratio(y + _centre(value, lam, d, variant))
    return weight * lam / (1 - lam)


def ivl(value: Values, q_target: Values, advantage_target: Values, *, expectile: Hyper) -> Values:
    """|expectile - 1(A < 0)| (q - v)^2, with the advantage A of the target networks and q of one head.

    Minimiser given A: the mean of q with those weights. (HIQL, Park 2023, eq. 4; OGBench GCIVL.)
    """
    weight = expectile_weight(advantage_target.detach(), expectile=expectile)
    return weight * (q_target.detach() - value).square()


def residual_dual(
    residual: Values, *, divergence: str | Divergence, temperature: Hyper = 1.0, nonneg: bool = True
) -> Values:
    """T f*(e / T), the conjugate of T E f(w) at the Bellman residual e; nonneg=False drops w >= 0.

    Added to (1 - gamma) v(s0), with e = r + gamma v(s') - v(s), its minimum over v is the largest
    E_d r - T D_f(d || d_D) over occupancies d (with nonneg=False, over signed flows), and w*(e / T) = d / d_D.
    Without w >= 0 a chi2 loss rises for very negative residuals, as released SMODICE does. (AlgaeDICE, Nachum 2019;
    OptiDICE, Lee 2021.)
    """
    d = get_divergence(divergence)
    y = residual / temperature
    return temperature * (d.conjugate_nonneg(y) if nonneg else d.conjugate(y))


def normalised_dual(
    residual: Values,
    multiplier: Float[Tensor, "*other"],
    *,
    divergence: str | Divergence,
    temperature: Hyper = 1.0,
    mass: Hyper = 1.0,
) -> Values:
    """T f*_+((e - c m) / T) + m: `residual_dual` with E[c w] = 1, whose multiplier m broadcasts to (..., B).

    Minimiser over m: E[c w*((e - c m) / T)] = 1; with kl and c = 1 it is m = T log E exp(e / T). (OptiDICE, Lee 2021.)
    mass is c: 1 where no episode ends by a terminal. The flow of an occupancy sums to E[(1 - discount) w] = 1 - gamma,
    which is c = (1 - discount) / (1 - gamma), so that a terminal step stands for all the steps that it saves.
    """
    return residual_dual(residual - mass * multiplier, divergence=divergence, temperature=temperature) + multiplier


def log_ratio(y: Values, *, divergence: str | Divergence, floor: float = 1e-3) -> Values:
    """log w*(y), y = e / T; where w* can be 0 (f'(0) is finite, as for chi2) it ends at log `floor`, and so does its
    gradient 1 / (w f''(w)), which has no bound as w falls."""
    d = get_divergence(divergence)
    ratio = d.ratio(y)
    return ratio.clamp(min=floor if math.isfinite(d.lowest) else torch.finfo(ratio.dtype).tiny).log()


def report_overflow(loss: Float[Tensor, " replicas"], y: Tensor, divergence: str | Divergence) -> Tensor:
    """`loss`, +inf in replicas where a w*(y), y (R, B, ...), is more than the dtype can square.

    There losses go on as tangents, finite but with gradients after which Adam stands still for very long: a replica to
    be reported and frozen, as one that is not finite.
    """
    return loss.masked_fill(get_divergence(divergence).saturated(y).flatten(1).any(1), math.inf)


def donsker_varadhan(residual: Values, *, temperature: Hyper = 1.0) -> Values:
    """T log mean exp(e / T) along the last axis, at every element: DemoDICE (Kim 2022), SMODICE with kl.

    `normalised_dual` with kl, minimised over m on this batch; a batch's value is biased low, the population's is exact.
    """
    temperature = torch.as_tensor(temperature, dtype=residual.dtype, device=residual.device)
    total = (residual / temperature).logsumexp(-1, keepdim=True) - math.log(residual.shape[-1])
    return (temperature * total).expand_as(residual)


def mixture_dual(
    residual_mixture: Values,
    residual_offline: Values,
    *,
    share: Hyper,
    divergence: str | Divergence,
    nonneg: bool = True,
    floor: Hyper | None = None,
) -> Values:
    """f*(y_mixture) - (1 - share) y_offline, y = gamma v(s') - v(s): ReCOIL's dual without share (1 - gamma) v(s0).

    The mixture is share * expert + (1 - share) * offline. Minimum of the sum: the largest - D_f(share d + (1 - share)
    d_offline || mixture); nonneg bounds that mixed density, not d itself, by 0. (Dual RL [2]; SMORe [154].)
    floor = (1 - share) d_offline / mixture at the mixture's pairs is what the mixed density is where d = 0: with it the
    conjugate is the supremum over w >= floor, and d >= 0.
    """
    if floor is None:
        dual = residual_dual(residual_mixture, divergence=divergence, nonneg=nonneg)
    else:  # below f'(floor) the conjugate goes on with slope floor
        d = get_divergence(divergence)
        y = torch.maximum(residual_mixture, d.f_prime(residual_mixture.new_ones(()) * floor))
        dual = d.conjugate_nonneg(y) + floor * (residual_mixture - y)
    return dual - (1 - share) * residual_offline


def ls_iq(q_expert: Values, q_offline: Values, backup_target: Values, *, ceiling: Hyper) -> Values:
    """((Q_expert - ceiling)^2 + (Q_offline - y)^2) / 2, released with ReCOIL: ceiling 200, y = -2 + gamma v(s').

    Minimiser: (p_expert ceiling + p_offline E[y]) / (p_expert + p_offline). (LS-IQ, Al-Hafez 2023.)
    """
    return 0.5 * ((q_expert - ceiling).square() + (q_offline - backup_target.detach()).square())


def saddle_value(residual: Values, ratio_target: Values) -> Values:
    """w e: the value's side of min over v, max over w of E[w e - T f(w)]. (DualDICE, Nachum 2019.)"""
    return ratio_target.detach() * residual


def saddle_ratio(
    ratio: Values, residual_target: Values, *, divergence: str | Divergence, temperature: Hyper = 1.0
) -> Values:
    """T f(w) - w e: the ratio's side. Minimiser: w*(E[e | s, a] / T), so that one next state per sample is enough."""
    return temperature * get_divergence(divergence).f(ratio) - ratio * residual_target.detach()


def forward_residual(value: Values, next_value_target: Values, reward: Values, discount: Values) -> Values:
    """r + discount v'(target) - v: the gradient reaches v(s) only. (ODICE [72].)"""
    return bellman_backup(reward, discount, next_value_target.detach()) - value


def backward_residual(value_target: Values, next_value: Values, reward: Values, discount: Values) -> Values:
    """r + discount v' - v(target): the gradient reaches v(s') only. (ODICE [72].)"""
    return bellman_backup(reward, discount, next_value) - value_target.detach()


def odice_value(value: Values, residual: Values, *, lam: Hyper, divergence: str | Divergence) -> Values:
    """(1 - lam) v + lam f*_+(e): the true gradient with e = r + gamma v(s') - v(s), semi with `forward_residual`.

    The orthogonal one adds `orthogonal` of the gradient of lam eta f*_+(`backward_residual`). (ODICE [72].)
    """
    return (1 - lam) * value + lam * residual_dual(residual, divergence=divergence)


def orthogonal(backward: Sequence[Tensor], forward: Sequence[Tensor]) -> list[Tensor]:
    """The part of the gradient `backward` orthogonal to `forward`, over all parameters (R, ...) of a replica together.

    backward - (<forward, backward> / |forward|^2) forward: a step along it leaves the forward loss as it is to first
    order. A zero `forward` leaves `backward` unchanged. (ODICE [72].)
    """

    def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        return torch.stack([(a * b).flatten(1).sum(1) for a, b in zip(first, second, strict=True)]).sum(0)

    norm = dot(forward, forward)
    share = dot(forward, backward) / torch.where(norm > 0, norm, 1)
    return [b - share.view(-1, *[1] * (b.ndim - 1)) * f for b, f in zip(backward, forward, strict=True)]
