"""BestDICE: the three estimates at the saddle point of every regularised Lagrangian, in exact populations.

The problems and the names are those of `off_policy`. L(Q, lam; w) has a multiplier lam of E_D[w c] = 1, alpha_Q on
f(Q), alpha_w on f(w) and alpha_R on the rewards. The table of what is biased was read where google-research/dice_rl
shows it.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.occupancies import GAMMA, action_values, residual_q, total
from fenchel.theory.claims.off_policy import A, S, begin, flow, gradient, leaf, problems, ratio, span, truth
from fenchel.theory.claims.tools import worst
from fenchel.theory.objectives import dual
from fenchel.theory.regularisers import power
from fenchel.theory.rng import Rng


def estimates(p: Problem, Q: Tensor, lam: Tensor, w: Tensor) -> dict[str, Tensor]:
    """BestDICE's three estimates, (n,) each."""
    primal = total(begin(p) * Q) + lam
    error = residual_q(p["mdp"], Q, p["policy"]) - lam[:, None, None] * span(p)
    both = primal + total(p["ref"] * dual.saddle_value(error, w))
    return {"primal": primal, "dual": total(p["ref"] * w * p["mdp"].r), "lagrangian": both}


def _doubly_robust(p: Problem, right: tuple[str, ...] = ("Q", "w")) -> ClaimReport:
    """The Lagrangian's estimate with one of Q and w right and the other arbitrary; lam arbitrary."""
    shift = (p["lam"] / (1 - GAMMA))[:, None, None]
    exact = {"Q": action_values(p["mdp"], p["policy"], p["mdp"].r) - shift, "w": ratio(p)}
    found = [p | {name: exact[name]} for name in right] or [p]
    gaps = [estimates(p, x["Q"], p["lam"], x["w"])["lagrangian"] - truth(p) for x in found]
    return ClaimReport(worst(*(gap.abs() for gap in gaps)), 1e-9)


DOUBLY_ROBUST = Claim(
    paper=2,
    kind="theorem",
    statement="BestDICE (Yang 2020, under Dual RL): (1 - gamma) E Q(s0, pi) + lam + E_D w (r + gamma P Q - Q - lam c) "
    "is the value if w = d^pi / d_D or if Q = Q^pi - lam / (1 - gamma), whatever the other is",
    problems=problems,
    check=_doubly_robust,
    twin=Twin("that one of the two is right", check=lambda p: _doubly_robust(p, ())),
    source="derived",
    n=64,
)

# (alpha_Q, alpha_w, alpha_R, with lam) -> the estimates that are unbiased with w free; of positive w, see PROFILE
TABLE: dict[tuple[int, int, int, bool], tuple[str, ...]] = {
    **{(1, 0, 1, lam): ("primal", "lagrangian") for lam in (False, True)},
    **{(1, 0, 0, lam): ("dual", "lagrangian") for lam in (False, True)},
    **{(0, 1, reward, lam): ("dual", "lagrangian") for reward in (0, 1) for lam in (False, True)},
}


def saddle(p: Problem, case: tuple[int, int, int, bool]) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, lam, w) of the regularised Lagrangian, f(x) = x^2 / 2, w free; an arbitrary lam where none is fixed."""
    alpha_q, _, reward, normalised = case
    mdp, policy, ref = p["mdp"], p["policy"], p["ref"]
    w, lam = ratio(p), p["lam"] * normalised
    if not alpha_q:
        return action_values(mdp, policy, reward * mdp.r - w - lam[:, None, None] * span(p)), lam, w
    Q = action_values(mdp, policy, reward * mdp.r)
    lam = (1 - GAMMA) * total(ref * Q) / total(ref) * normalised  # moves Q to mean 0
    Q = Q - (lam / (1 - GAMMA))[:, None, None]
    d = torch.linalg.solve(flow(p), (begin(p) + ref * Q).flatten(1))
    return Q, lam, d.unflatten(-1, (S, A)) / ref


def stationary(p: Problem, case: tuple[int, int, int, bool], Q: Tensor, lam: Tensor, w: Tensor) -> Tensor:
    """(n,) the largest derivative of our two losses at (Q, lam, w)."""
    alpha_q, alpha_w, reward, normalised = case
    Q, lam, w = leaf(Q), leaf(lam), leaf(w)
    error = residual_q(p["mdp"], Q, p["policy"], reward * p["mdp"].r) - lam[:, None, None] * span(p)
    value_loss = total(begin(p) * Q) + lam + total(p["ref"] * (dual.saddle_value(error, w) + alpha_q * Q.square() / 2))
    ratio_loss = total(p["ref"] * dual.saddle_ratio(w, error, divergence=power(2.0), temperature=alpha_w))
    found = [gradient(value_loss, Q), gradient(ratio_loss, w)]
    return worst(*found, *([gradient(value_loss, lam)] if normalised else []))


def _profile(p: Problem, table: dict[tuple[int, int, int, bool], tuple[str, ...]] = TABLE) -> ClaimReport:
    """At every regularisation's saddle point, where w >= 0 is not binding, the unbiased estimates are the value."""
    results = []
    for case, unbiased in table.items():
        Q, lam, w = saddle(p, case)
        found = estimates(p, Q, lam, w)
        results += [stationary(p, case, Q, lam, w), *((found[name] - truth(p)).abs() for name in unbiased)]
    return ClaimReport(worst(*results), 1e-8)


PROFILE = Claim(
    paper=2,
    kind="theorem",
    statement="BestDICE's table (Yang 2020, under Dual RL), unbiased cells, with or without lam: regularising w leaves "
    "the dual and the Lagrangian estimate unbiased, as does regularising Q without rewards; with rewards it leaves the "
    "primal and the Lagrangian one, if w is free",
    problems=problems,
    check=_profile,
    twin=Twin(
        "alpha_R = 0 (the dual estimate, Q regularised, with rewards)",
        check=lambda p: _profile(p, {(1, 0, 1, True): ("dual",)}),
    ),
    source="text",
    n=32,
)


def positive(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, 0, w) with Q regularised, rewards, w >= 0 and no lam, by trying every set of pairs on which w > 0.

    The dual in x = ref w: max over x >= 0 of r x - E_ref Q^2 / 2, ref Q = M x - begin, M the flow's matrix.
    """
    M, ref, r, first = flow(p), p["ref"].flatten(1), p["mdp"].r.flatten(1), begin(p).flatten(1)
    H = M.mT @ (M / ref[..., None])
    slope = r + (M.mT @ (first / ref)[..., None])[..., 0]
    best = torch.zeros_like(ref)
    for chosen in itertools.product((0.0, 1.0), repeat=S * A):
        keep = torch.tensor(chosen).to(ref)
        system = H * keep * keep[:, None] + torch.diag(1 - keep)
        x = torch.linalg.solve(system, slope * keep)
        rest = slope - (H @ x[..., None])[..., 0]
        optimal = (x >= -1e-9).all(-1) & (rest * (1 - keep) <= 1e-9).all(-1)
        best = torch.where(optimal[:, None], x, best)
    Q = ((M @ best[..., None])[..., 0] - first) / ref
    return Q.unflatten(-1, (S, A)), torch.zeros_like(p["lam"]), (best / ref).unflatten(-1, (S, A))


def _fixed(rng: Rng, n: int) -> Problem:
    """One problem, the same for every seed."""
    return problems(Rng(3, "off_policy", rng.device), 1)


def _biased(p: Problem) -> ClaimReport:
    """Every cell that the table calls biased is off by more than 0.03."""
    cells = [(estimates(p, *saddle(p, case)), unbiased) for case, unbiased in TABLE.items()]
    cells.append((estimates(p, *positive(p)), ()))
    gaps = [(found[name] - truth(p)).abs() for found, unbiased in cells for name in found.keys() - set(unbiased)]
    return ClaimReport(0.03 - torch.stack(gaps).amin(0), 0.0)


BIASED = Claim(
    paper=2,
    kind="counterexample",
    statement="BestDICE's table (Yang 2020, under Dual RL), biased cells: the primal estimate except with Q "
    "regularised, rewards and free w; there the dual one; and all three with w >= 0 added",
    problems=_fixed,
    check=_biased,
    source="text",
    n=1,
)
