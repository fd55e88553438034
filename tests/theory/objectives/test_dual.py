"""Dual losses against their primal programs in cvxpy and scipy, and the measured faults of released forms."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from fenchel.errors import UserError
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import dual

Q = np.array([-1.0, 0.3, 0.5, 2.0, 6.0])
P = np.array([0.1, 0.4, 0.2, 0.2, 0.1])
CONVEX = {  # sum_i q_i f(p_i / q_i) as a cvxpy expression, for measures of mass 1
    "kl": lambda p, q: cp.sum(cp.kl_div(p, q)),
    "chi2": lambda p, q: cp.sum(cp.multiply(1 / q, cp.square(p - q))),
    "hellinger": lambda p, q: cp.sum(p + q - 2 * cp.multiply(np.sqrt(q), cp.sqrt(p))),
    "reverse_kl": lambda p, q: cp.sum(cp.kl_div(q, p)),
}


def risks(v, q, p, **hyper):
    """E_p of dual_v at every number of v."""
    q, p, v = torch.tensor(q), torch.tensor(p), torch.tensor(v)
    return (p * dual.dual_v(v[:, None].expand(-1, len(q)), q.expand(len(v), -1), **hyper)).sum(-1).numpy()


def argmin(q=Q, p=P, bounds=(-60.0, 1100.0), **hyper):
    """The minimiser over one number, by zooming into the best cell of a grid."""
    low, high = bounds
    for _ in range(9):
        grid = np.linspace(low, high, 201)
        best = int(np.argmin(risks(grid, q, p, **hyper)))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 200)]
    return grid[best]


@pytest.mark.parametrize("temperature", [0.7, 3.0])
@pytest.mark.parametrize("name", ["kl", "chi2", "hellinger", "reverse_kl"])
def test_dual_v_at_one_half_is_the_regularised_maximum(name, temperature):
    pi = cp.Variable(len(Q), nonneg=True)
    problem = cp.Problem(cp.Maximize(Q @ pi - temperature * CONVEX[name](pi, P)), [cp.sum(pi) == 1])
    exact = problem.solve(solver=cp.CLARABEL)
    v = argmin(divergence=name, temperature=temperature, bounds=(-5.0, 12.0))
    (minimum,) = risks([v], Q, P, divergence=name, temperature=temperature)
    assert 2 * minimum == pytest.approx(exact, abs=2e-5)
    weight = dual.dual_v_weight(torch.tensor([v] * len(Q)), torch.tensor(Q), divergence=name, temperature=temperature)
    np.testing.assert_allclose(P * weight.numpy(), pi.value, atol=2e-3)
    assert P @ weight.numpy() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("lam", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", ["kl", "chi2", "soft_chi2"])
def test_a_constant_q_is_its_own_value_unless_as_printed(name, lam):
    """As printed the loss moves V off a constant q by - T f'((1 - lam) / lam) at every backup."""
    q = np.full(3, 1.7)
    p = np.full(3, 1 / 3)
    assert argmin(q, p, bounds=(-9, 12), divergence=name, lam=lam, temperature=0.8) == pytest.approx(1.7, abs=1e-5)
    shift = get_divergence(name).f_prime(torch.tensor((1 - lam) / lam, dtype=torch.float64)).item()
    printed = argmin(q, p, bounds=(-9, 12), divergence=name, lam=lam, temperature=0.8, variant="paper")
    assert printed == pytest.approx(1.7 - 0.8 * shift, abs=1e-5)
    if name == "chi2":
        assert shift == pytest.approx(-2 * (2 * lam - 1) / lam)  # 1.78 T per backup at lam = 0.9


@pytest.mark.parametrize("name", ["chi2", "alpha:3", "tv"])
def test_dual_v_grows_with_lam_to_the_largest_q(name):
    values = [argmin(bounds=(-3, 9), divergence=name, lam=lam) for lam in (0.55, 0.7, 0.9, 0.999)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(6.0, abs=0.05)


def test_kl_does_not_depend_on_lam():
    exact = np.log(P @ np.exp(Q))
    for lam in (0.2, 0.5, 0.9):
        assert argmin(bounds=(-3, 9), divergence="kl", lam=lam) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(("spread", "official"), [(1, 0.99), (3, 2.97), (10, 6.98), (100, 51.98), (1000, 501.96)])
def test_official_chi2_tends_to_mean_plus_two(spread, official):
    """max(y + y^2 / 4, 0) rises again below -4: lam = 0.99, q uniform on [0, spread]."""
    q, p = np.linspace(0, spread, 2001), np.full(2001, 1 / 2001)
    assert argmin(q, p, bounds=(0.0, spread + 3.0), divergence="chi2", lam=0.99, variant="official") == pytest.approx(
        official, abs=0.05
    )
    corrected = argmin(q, p, bounds=(0.0, spread + 3.0), divergence="chi2", lam=0.99)
    root = brentq(lambda v: np.mean(np.maximum(1 / 99 + (q - v) / 2, 0)) - 1 / 99, 0, spread + 3)
    assert corrected == pytest.approx(root, abs=1e-4)
    assert 0.8 * spread < corrected <= spread


def test_official_losses_are_the_released_formulas():
    d = torch.tensor([-9.0, -5.0, -1.0, 0.2, 3.0], dtype=torch.float64)
    zero = torch.zeros_like(d)
    chi2 = 0.7 * torch.clamp(d + d**2 / 4, min=0) - 0.3 * d
    tv = 0.7 * torch.clamp(d, min=0) - 0.3 * d
    # ours holds (1 - lam) v in place of - (1 - lam) (q - v): the same up to a constant
    torch.testing.assert_close(dual.dual_v(zero, d, divergence="chi2", lam=0.7, variant="official") - 0.3 * d, chi2)
    for variant in dual.VARIANTS:
        torch.testing.assert_close(dual.dual_v(zero, d, divergence="tv", lam=0.7, variant=variant) - 0.3 * d, tv)
    z = torch.clamp(d / 0.7, max=7.0)
    kl = torch.exp(z - z.max()) - z * torch.exp(-z.max()) - torch.exp(-z.max())
    torch.testing.assert_close(dual.dual_v(zero, d, divergence="kl", lam=0.7, variant="official"), kl)


@pytest.mark.parametrize("lam", [0.6, 0.8, 0.9])
def test_tv_is_a_quantile(lam):
    q, p = np.linspace(0, 10, 2001), np.full(2001, 1 / 2001)
    level = 2 - 1 / lam
    assert argmin(q, p, bounds=(-5, 15), divergence="tv", lam=lam) == pytest.approx(10 * level, abs=0.01)
    weight = dual.dual_v_weight(torch.full((len(q),), 10 * level), torch.tensor(q), divergence="tv", lam=lam)
    assert p @ weight.numpy() == pytest.approx(1, abs=5e-3)


@pytest.mark.unchecked
def test_tv_with_lam_up_to_one_half_has_no_minimum_and_is_refused():
    v, q = torch.zeros(2), torch.ones(2)
    for lam in (0.5, 0.4):
        with pytest.raises(
            UserError, match=r"lam=0.[45] is not valid; it lies strictly between 0.5 and 1 with divergence=tv"
        ):
            dual.dual_v(v, q, divergence="tv", lam=lam)
    low = [
        dual.dual_v(torch.full((2,), x), q, divergence="tv", lam=torch.tensor(0.4)).sum() for x in (-1.0, -10.0, -100.0)
    ]
    # a tensor is not looked at, which would synchronise with the host: `check_lam` is for the caller
    assert low[0] > low[1] > low[2]
    with pytest.raises(UserError, match=r"strictly between 0\.5 and 1"):
        dual.check_lam([0.8, 0.5], "tv")
    with pytest.raises(UserError, match="strictly between 0 and 1"):
        dual.check_lam(1.0, "chi2")
    with pytest.raises(UserError, match="variant=literal is unknown"):
        dual.dual_v(v, q, divergence="chi2", variant="literal")
    with pytest.raises(UserError, match="no official f-DVL loss; valid are chi2, kl, tv"):
        dual.dual_v(v, q, divergence="js", variant="official")


def test_sql_of_ivr_is_dual_v_with_chi2():
    """E[1(1 + y / 2 > 0) (1 + y / 2)^2 + v / alpha], y = (q - v) / alpha."""
    v, q, alpha = torch.linspace(-3, 6, 5).double(), torch.tensor(Q), 0.6
    w = 1 + (q - v) / (2 * alpha)
    sql = torch.where(w > 0, w**2, 0) + v / alpha
    torch.testing.assert_close(2 / alpha * dual.dual_v(v, q, divergence="chi2", temperature=alpha) + 1, sql)


# ---- Bellman residuals: a random MDP whose primal is solved by cvxpy ----

S, A, GAMMA = 4, 2, 0.9
RNG = np.random.default_rng(7)
TRANSITION = RNG.dirichlet(np.ones(S), size=(S, A))
REWARD = RNG.normal(size=(S, A)) * 3
START = np.array([0.7, 0.1, 0.1, 0.1])
DATA = RNG.dirichlet(np.ones(S * A)).reshape(S, A)


def flow(d):
    """sum_a d(s, a) - gamma sum P d - (1 - gamma) start."""
    return (
        cp.sum(d, axis=1)
        - GAMMA * sum(d[s, a] * TRANSITION[s, a] for s in range(S) for a in range(A))
        - (1 - GAMMA) * START
    )


def residual(v, reward=REWARD):
    return torch.tensor(reward) + GAMMA * torch.tensor(TRANSITION) @ v - v[:, None]


def minimise(loss, size=S):
    v = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [v], max_iter=3000, max_eval=6000, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        total = loss(v)
        total.backward()
        return total

    optimiser.step(closure)
    return v.detach(), loss(v).item()


@pytest.mark.parametrize(("name", "nonneg"), [("kl", True), ("chi2", True), ("chi2", False)])
def test_residual_dual_is_the_occupancy_program(name, nonneg):
    temperature = 0.3
    d = cp.Variable((S, A), nonneg=nonneg)
    penalty = sum(CONVEX[name](d[s], DATA[s]) for s in range(S))
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(REWARD, d)) - temperature * penalty), [flow(d) == 0])
    exact = problem.solve(solver=cp.CLARABEL)

    def loss(v):
        e = residual(v)
        inner = dual.residual_dual(e, divergence=name, temperature=temperature, nonneg=nonneg)
        return (1 - GAMMA) * torch.tensor(START) @ v + (torch.tensor(DATA) * inner).sum()

    v, value = minimise(loss)
    assert value == pytest.approx(exact, abs=1e-6)
    if nonneg:
        weight = get_divergence(name).ratio(residual(v) / temperature)
        np.testing.assert_allclose(DATA * weight.numpy(), d.value, atol=1e-4)
    else:
        assert d.value.min() < -1e-3  # the signed program leaves the occupancies: the two differ on this MDP


def test_smodice_without_the_bound_rises_for_bad_transitions():
    """y^2 / 2 + y for half of chi2, as released; with w >= 0 it stays at - 1/2 below -1."""
    e = torch.tensor([-10.0, -1.0, 0.4], dtype=torch.float64)
    released = dual.residual_dual(e, divergence="chi2", temperature=0.5, nonneg=False)
    torch.testing.assert_close(released, e**2 / 2 + e)
    assert released[0] == 40
    assert dual.residual_dual(e, divergence="chi2", temperature=0.5)[0] == -0.5


def test_normalised_dual_enforces_mean_one():
    e = torch.tensor(Q)
    p = torch.tensor(P)
    for name in ("chi2", "soft_chi2", "kl"):
        mu, value = minimise(
            lambda m, name=name: (p * dual.normalised_dual(e, m, divergence=name, temperature=0.8)).sum(), size=1
        )
        weight = get_divergence(name).ratio((e - mu) / 0.8)
        assert (p * weight).sum().item() == pytest.approx(1, abs=1e-6)
        if name == "kl":
            exact = 0.8 * np.log(P @ np.exp(Q / 0.8))
            assert mu.item() == pytest.approx(exact, abs=1e-6)
            assert value == pytest.approx(exact, abs=1e-9)
    uniform = dual.donsker_varadhan(e, temperature=0.8)
    torch.testing.assert_close(uniform, torch.full_like(e, 0.8 * np.log(np.mean(np.exp(Q / 0.8)))))


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_mixture_dual_is_the_imitation_program(share):
    """max over flow-feasible d of - D_chi2(share d + (1 - share) offline || share expert + (1 - share) offline)."""
    expert, offline = RNG.dirichlet(np.ones(S * A)).reshape(S, A), DATA
    mixture = share * expert + (1 - share) * offline
    d = cp.Variable((S, A))
    mixed = share * d + (1 - share) * offline
    penalty = sum(CONVEX["chi2"](mixed[s], mixture[s]) for s in range(S))
    exact = cp.Problem(cp.Maximize(-penalty), [flow(d) == 0, mixed >= 0]).solve(solver=cp.CLARABEL)

    def loss(v):
        y = residual(v, np.zeros((S, A)))
        zero = torch.zeros_like(y)
        on_mixture = dual.mixture_dual(y, zero, share=share, divergence="chi2")
        on_offline = dual.mixture_dual(zero, y, share=share, divergence="chi2")
        total = (torch.tensor(mixture) * on_mixture).sum() + (torch.tensor(offline) * on_offline).sum()
        return share * (1 - GAMMA) * torch.tensor(START) @ v + total

    assert minimise(loss)[1] == pytest.approx(exact, abs=1e-6)


def test_the_mass_of_a_flow_that_terminals_leak_is_enforced_by_span():
    """minimising over m alone gives E[c w] = 1, c = (1 - discount) / (1 - gamma)."""
    e, p, span = torch.tensor(Q), torch.tensor(P), torch.tensor([1.0, 1.0, 10.0, 1.0, 1.0], dtype=torch.float64)
    m, _ = minimise(lambda m: (p * dual.normalised_dual(e, m, divergence="soft_chi2", mass=span)).sum(), size=1)
    weight = get_divergence("soft_chi2").ratio(e - span * m)
    assert (p * span * weight).sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["kl", "soft_chi2", "chi2", "alpha:3"])
def test_log_ratio_is_the_logarithm_of_the_ratio_down_to_its_floor(name):
    y = torch.tensor([-90.0, -3.0, -1.0, 0.0, 0.7, 5.0], dtype=torch.float64, requires_grad=True)
    found = dual.log_ratio(y, divergence=name, floor=1e-2)
    ratio = get_divergence(name).ratio(y.detach())
    floor = 1e-2 if name in ("chi2", "alpha:3") else 0.0
    torch.testing.assert_close(found.detach(), ratio.clamp(min=floor).log())
    gradient = torch.autograd.grad(found.sum(), y)[0]
    assert gradient.isfinite().all()
    assert (gradient[0] == 0) == (floor > 0)


def test_overflow_is_reported_per_replica():
    for dtype in (torch.float32, torch.float64):
        top = 0.45 * np.log(torch.finfo(dtype).max)
        y = torch.tensor([[0.0, top - 1], [top + 1, 0.0], [0.0, np.inf]], dtype=dtype)
        assert get_divergence("kl").ratio(y)[0].square().isfinite().all()
        assert dual.report_overflow(torch.ones(3, dtype=dtype), y, "kl").tolist() == [1.0, np.inf, np.inf]
        assert dual.report_overflow(torch.ones(3, dtype=dtype), y.clamp(max=1e9), "chi2").tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["chi2", "kl"])
def test_mixture_dual_with_its_floor_keeps_the_occupancy_positive(name):
    """The same program with d >= 0; the expert's data show one pair alone, so that without the floor d leaves it."""
    share, expert, offline = 0.6, np.zeros((S, A)), DATA
    expert[2, 1] = 1.0
    mixture = share * expert + (1 - share) * offline
    values, floor = {}, torch.tensor((1 - share) * offline / mixture)
    for nonneg in (True, False):
        d = cp.Variable((S, A), nonneg=nonneg)
        mixed = share * d + (1 - share) * offline
        penalty = sum(CONVEX[name](mixed[s], mixture[s]) for s in range(S))
        values[nonneg] = cp.Problem(cp.Maximize(-penalty), [flow(d) == 0, mixed >= 0]).solve(solver=cp.CLARABEL)

    def loss(v, floor):
        y = residual(v, np.zeros((S, A)))
        each = dual.mixture_dual(y, y * torch.tensor(offline / mixture), share=share, divergence=name, floor=floor)
        return share * (1 - GAMMA) * torch.tensor(START) @ v + (torch.tensor(mixture) * each).sum()

    assert values[False] > values[True] + 1e-3
    for nonneg, bound in ((True, floor), (False, None)):
        assert minimise(lambda v, bound=bound: loss(v, bound))[1] == pytest.approx(values[nonneg], abs=1e-6)


def test_saddle_ratio_needs_one_next_state_per_sample():
    """The minimiser is w*(E e): residuals of +4 and -2 at one pair give w*(1), not the mean of w*(4) and w*(-2)."""
    e = torch.tensor([4.0, -2.0], dtype=torch.float64)
    for name in ("chi2", "kl", "soft_chi2"):
        w, _ = minimise(
            lambda log_w, name=name: dual.saddle_ratio(
                log_w.exp().expand(2), e, divergence=name, temperature=2.0
            ).mean(),
            size=1,
        )
        expected = {"chi2": 1.25, "kl": np.exp(0.5), "soft_chi2": 1.5}[name]
        assert w.exp().item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(dual.saddle_value(e, torch.tensor([2.0, 3.0]).double()), torch.tensor([8.0, -6.0]).double())


def test_ivl_and_ls_iq_minimisers():
    q, advantage = torch.tensor(Q), torch.tensor([-1.0, 2.0, 0.5, -0.1, 0.0])
    weights = P * np.where(advantage.numpy() < 0, 0.1, 0.9)
    v, _ = minimise(lambda v: (torch.tensor(P) * dual.ivl(v.expand(5), q, advantage, expectile=0.9)).sum(), size=1)
    assert v.item() == pytest.approx(weights @ Q / weights.sum(), abs=1e-6)
    v, _ = minimise(lambda v: (torch.tensor(P) * dual.ls_iq(v.expand(5), v.expand(5), q, ceiling=20.0)).sum(), size=1)
    assert v.item() == pytest.approx((20 + P @ Q) / 2, abs=1e-6)


def test_odice_gradients():
    value, successor = (torch.tensor([[0.3, -1.0]], dtype=torch.float64, requires_grad=True) for _ in range(2))
    reward, discount = torch.tensor([[1.0, 0.5]]).double(), torch.tensor([[0.9, 0.0]]).double()
    forward = dual.forward_residual(value, successor, reward, discount)
    backward = dual.backward_residual(value, successor, reward, discount)
    expected = reward + discount * successor - value
    torch.testing.assert_close(forward, expected)
    torch.testing.assert_close(backward, expected)
    assert torch.autograd.grad(forward.sum(), [value, successor], allow_unused=True)[1] is None
    assert torch.autograd.grad(backward.sum(), [value, successor], allow_unused=True)[0] is None
    y = torch.tensor([0.7, -3.0]).double()
    w = (y / 2 + 1).clamp(min=0)
    torch.testing.assert_close(dual.odice_value(0 * y, y, lam=1.0, divergence="chi2"), y * w - (w - 1) ** 2)


def test_orthogonal_removes_the_forward_component_per_replica():
    torch.manual_seed(1)
    forward = [torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)]
    backward = [torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)]
    forward = [torch.cat([g[:2], torch.zeros_like(g[:1])]) for g in forward]
    result = dual.orthogonal(backward, forward)
    for i in range(3):
        f, b, o = (torch.cat([g[i].flatten() for g in gs]) for gs in (forward, backward, result))
        assert (o @ f).abs() < 1e-12
        expected = b - (f @ b) / (f @ f) * f if i < 2 else b
        torch.testing.assert_close(o, expected)


def test_odice_weight_of_released_code_is_not_the_ratio_of_its_dual():
    y = torch.tensor([0.5, -0.5, -3.0], dtype=torch.float64, requires_grad=True)
    (ratio,) = torch.autograd.grad(dual.residual_dual(y, divergence="chi2").sum(), y)
    assert ratio.tolist() == [1.25, 0.75, 0.0]
    assert y.relu().tolist() == [0.5, 0.0, 0.0]  # the released weight
