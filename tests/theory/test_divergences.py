"""Every divergence against numerical conjugation of f, which is written here a second time from its textbook form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from fenchel.errors import UserError
from fenchel.theory.divergences import DIVERGENCES, alpha, get_divergence

LOG2 = math.log(2)

pytestmark = pytest.mark.usefixtures("checked")


def xlogx(w):
    return w * math.log(w) if w > 0 else 0.0


def power(a):
    return lambda w: (w**a - 1 - a * (w - 1)) / (a * (a - 1)) if w > 0 or a > 0 else math.inf


F = {
    "kl": lambda w: xlogx(w) - w + 1,
    "reverse_kl": lambda w: -math.log(w) + w - 1 if w > 0 else math.inf,
    "chi2": lambda w: (w - 1) ** 2,
    "soft_chi2": lambda w: xlogx(w) - w + 1 if w < 1 else (w - 1) ** 2 / 2,
    "tv": lambda w: abs(w - 1) / 2,
    "hellinger": lambda w: (math.sqrt(w) - 1) ** 2,
    "js": lambda w: (xlogx(w) + xlogx(1.0) - 2 * xlogx((1 + w) / 2)) / 2,
    "alpha:0.5": power(0.5),
    "alpha:-1": power(-1.0),
    "alpha:3": power(3.0),
    "alpha:1.4": power(1.4),
}
SLOPES = {"reverse_kl": 1, "tv": 0.5, "hellinger": 1, "js": LOG2 / 2, "alpha:0.5": 2, "alpha:-1": 0.5}
NAMES = list(F)
SMOOTH = [name for name in NAMES if name != "tv"]
GOLDEN = (math.sqrt(5) - 1) / 2


def golden_section(function, low, high):
    """The maximiser of a concave function on [low, high]."""
    for _ in range(120):
        step = GOLDEN * (high - low)
        if function(high - step) < function(low + step):
            low = high - step
        else:
            high = low + step
    return (low + high) / 2


def sup_conjugate(f, y, low=0.0):
    """(sup over w >= low of w y - f(w), its argmax), from values of f only: a grid of brackets, then golden section."""

    def gain(w):
        return w * y - f(w)

    grid = [low, *(low + 10 ** (k / 4) for k in range(-40, 33))]
    best = max(range(len(grid)), key=lambda i: gain(grid[i]))
    w = golden_section(gain, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return max((gain(v), v) for v in (w, low, 1.0))


def points(name):
    """y where the conjugate is finite: below zero, around the kinks at -2, -1 and -1/2, and near the slope."""
    top = SLOPES.get(name, 4.0)
    return [y for y in (-7.0, -2.5, -2.0, -1.3, -1.0, -0.7, -0.5, -0.2, 0.0, 0.05, 0.2, 0.7, 1.5) if y < top] + [
        0.9 * top
    ]


def column(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def test_the_literal_table_is_what_is_tested_here():
    assert set(DIVERGENCES) == {name for name in NAMES if ":" not in name}


@pytest.mark.parametrize("name", NAMES)
def test_f_is_its_textbook_form_and_normalised(name):
    d, f = get_divergence(name), F[name]
    w = [1e-6, 1e-3, 0.2, 0.9, 1.0, 1.1, 3.0, 50.0]
    torch.testing.assert_close(d.f(column(w)), column([f(v) for v in w]), atol=1e-12, rtol=1e-12)
    one = column([1.0])
    assert d.f(one).abs() < 1e-15
    assert d.f_prime(one).abs() < 1e-15
    zero = column([0.0])
    expected = f(0.0)
    assert d.f(zero).item() == pytest.approx(expected) or (math.isinf(expected) and math.isinf(d.f(zero).item()))


@pytest.mark.parametrize("name", NAMES)
def test_conjugate_nonneg_and_ratio_agree_with_numerical_conjugation(name):
    d, y = get_divergence(name), points(name)
    values, ratios = zip(*(sup_conjugate(F[name], v) for v in y), strict=True)
    torch.testing.assert_close(d.conjugate_nonneg(column(y)), column(values), atol=1e-9, rtol=1e-9)
    if name == "tv":  # the argmax is a set at y = -1/2
        keep = [i for i, v in enumerate(y) if v != -0.5]
        torch.testing.assert_close(d.ratio(column(y))[keep], column(ratios)[keep], atol=1e-6, rtol=1e-6)
    else:
        torch.testing.assert_close(d.ratio(column(y)), column(ratios), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_conjugate_over_signed_w(name):
    d = get_divergence(name)
    if name == "chi2":
        y = points(name)
        values = [sup_conjugate(F[name], v, low=-50.0)[0] for v in y]
        torch.testing.assert_close(d.conjugate(column(y)), column(values), atol=1e-9, rtol=1e-9)
        assert d.conjugate(column([-10.0])) == 15  # far above the bounded -1: the trap of a signed conjugate
        assert d.conjugate_nonneg(column([-10.0])) == -1
        assert d.f(column([-2.0])) == 9
    elif name == "tv":
        assert d.conjugate(column([-0.6])) == math.inf
        assert d.conjugate_nonneg(column([-0.6])) == -0.5
    else:
        y = column(points(name))
        assert torch.equal(d.conjugate(y), d.conjugate_nonneg(y))
        if not name.startswith("alpha"):
            assert d.f(column([-0.5])) == math.inf


@pytest.mark.parametrize("name", NAMES)
@given(y=st.floats(-30, 30), w=st.floats(1e-6, 1e4))
def test_fenchel_young(name, y, w):
    """f(w) + f*(y) >= w y, with equality at w = w*(y)."""
    d = get_divergence(name)
    y, w = column([min(y, 0.99 * SLOPES.get(name, 1e9))]), column([w])
    slack = d.f(w) + d.conjugate_nonneg(y) - w * y
    scale = 1 + (w * y).abs() + d.conjugate_nonneg(y).abs() + d.f(w)
    assert slack >= -1e-12 * scale
    best = d.ratio(y)
    gap = d.f(best) + d.conjugate_nonneg(y) - best * y
    assert gap.abs() <= 1e-11 * (1 + (best * y).abs() + d.f(best))


@pytest.mark.parametrize("name", SMOOTH)
def test_ratio_inverts_f_prime(name):
    d = get_divergence(name)
    w = column([1e-4, 0.01, 0.3, 1.0, 1.7, 20.0, 1e3])
    torch.testing.assert_close(d.ratio(d.f_prime(w)), w, atol=0, rtol=1e-8)
    low = d.f_prime(column([0.0]))
    if torch.isfinite(low):
        assert d.ratio(low - 0.5) == 0


@pytest.mark.parametrize("name", NAMES)
def test_score_is_f_prime_in_log_space(name):
    d = get_divergence(name)
    log_w = column([-6.0, -1.0, -1e-9, 0.0, 1e-9, 0.4, 2.0, 8.0])
    torch.testing.assert_close(d.score(log_w), d.f_prime(log_w.exp()), atol=1e-13, rtol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_by_finite_differences(name):
    d = get_divergence(name)
    w = column([0.05, 0.4, 0.8, 1.3, 2.5, 9.0]).requires_grad_()
    y = column([v for v in points(name) if v not in (-2.0, -0.5) and abs(v) > 1e-9]).requires_grad_()
    log_w = column([-2.0, -0.3, 0.4, 1.9]).requires_grad_()
    for function, at in (
        (d.f, w),
        (d.f_prime, w),
        (d.conjugate_nonneg, y),
        (d.conjugate, y),
        (d.ratio, y),
        (d.score, log_w),
    ):
        assert gradcheck(function, (at,), atol=1e-5, rtol=1e-5)
    assert gradgradcheck(d.conjugate_nonneg, (y,), atol=1e-4, rtol=1e-4)
    step = 1e-5
    numerical = (F[name](2.5 + step) - 2 * F[name](2.5) + F[name](2.5 - step)) / step**2
    assert d.f_second(column([2.5])).item() == pytest.approx(numerical, rel=1e-4)
    slope = torch.autograd.grad(d.f_prime(w).sum(), w)[0]
    torch.testing.assert_close(d.f_second(w), slope, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_conjugate_nonneg_is_the_ratio(name, dtype):
    d = get_divergence(name)
    y = column([*points(name), -1e30, -1e4, 1e-30, 60.0, 1e6, 1e18], dtype).requires_grad_()
    value = d.conjugate_nonneg(y)
    (gradient,) = torch.autograd.grad(value.sum(), y)
    finite = value.isfinite()
    torch.testing.assert_close(gradient[finite], d.ratio(y)[finite].detach(), rtol=1e-5, atol=1e-6)
    assert (gradient[~finite] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_extremes(name, dtype):
    """Finite value and gradient wherever f* is finite, however large y is; +inf beyond; never NaN; monotone."""
    d = get_divergence(name)
    top = SLOPES.get(name, math.inf)
    tiny = torch.finfo(dtype).tiny
    edge = torch.nextafter(column([top], dtype), column([0.0], dtype)).item() if dtype != torch.bfloat16 else 0.98 * top
    y = sorted(
        [
            -1e30,
            -1e9,
            -1e3,
            -90.0,
            -1.0,
            -tiny,
            0.0,
            tiny,
            0.1,
            1.0,
            90.0,
            800.0,
            1e6,
            1e18,
            *([edge] if top < 9 else []),
        ]
    )
    y = column(y, dtype).requires_grad_()
    value, ratio = d.conjugate_nonneg(y), d.ratio(y)
    inside = y < top
    assert value.dtype == ratio.dtype == dtype
    assert value[inside].isfinite().all()
    assert ratio[inside].isfinite().all()
    assert (value[y > top] == math.inf).all()
    assert (ratio[y > top] == math.inf).all()
    assert (value.diff()[value[1:].isfinite()] >= 0).all()
    assert (ratio.diff()[ratio[1:].isfinite()] >= 0).all()
    for output in (value, ratio) if name != "tv" else (value,):
        (gradient,) = torch.autograd.grad(output.sum(), y, retain_graph=True)
        assert not gradient.isnan().any()
    assert torch.autograd.grad(value.sum(), y)[0].isfinite().all()
    w = column([tiny, 1e-6, 1.0, 1e6, 1e15], dtype).requires_grad_()
    assert d.f(w).isfinite().all() or dtype == torch.bfloat16 or "alpha" in name
    assert not torch.autograd.grad(d.f(w).sum(), w)[0].isnan().any()
    log_w = column([-1e30, -1e4, -90.0, 0.0, 90.0, 1e4], dtype).requires_grad_()
    score = d.score(log_w)
    assert not score.isnan().any()
    assert (score.diff() >= 0).all()
    assert not torch.autograd.grad(score.sum(), log_w)[0].isnan().any()


@pytest.mark.parametrize("name", NAMES)
def test_float32_follows_float64(name):
    d = get_divergence(name)
    y = column(points(name))
    for method in (d.conjugate_nonneg, d.ratio):
        torch.testing.assert_close(method(y.float()).double(), method(y), rtol=3e-5, atol=3e-6)


def test_between_measures():
    p, q = column([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), column([[0.25, 0.75, 0.0], [0.4, 0.4, 0.2]])
    rows = torch.stack([d.between(p, q) for d in DIVERGENCES.values()])
    for row, name in zip(rows, DIVERGENCES, strict=True):
        expected = [
            sum(b * F[name](a / b) for a, b in zip(*r, strict=True) if b)
            for r in zip(p.tolist(), q.tolist(), strict=True)
        ]
        torch.testing.assert_close(row, column(expected))
    torch.testing.assert_close(get_divergence("kl").between(p, q)[1], (p[1] * (p[1] / q[1]).log()).sum())
    torch.testing.assert_close(get_divergence("tv").between(p, q)[1], (p[1] - q[1]).abs().sum() / 2)
    disjoint = column([1.0, 0.0]), column([0.0, 1.0])
    assert get_divergence("tv").between(*disjoint) == 1
    assert get_divergence("js").between(*disjoint).item() == pytest.approx(LOG2)
    assert get_divergence("hellinger").between(*disjoint) == 2
    assert get_divergence("kl").between(*disjoint) == math.inf
    assert get_divergence("reverse_kl").between(*disjoint) == math.inf


@pytest.mark.parametrize("name", ["kl", "chi2", "js", "alpha:0.5"])
def test_between_is_the_supremum_of_its_dual(name):
    """D_f(p || q) = sup_y E_p y - E_q f*(y), at y = f'(p / q)."""
    d = get_divergence(name)
    p, q = column([0.2, 0.3, 0.5]), column([0.4, 0.35, 0.25])
    y = d.f_prime(p / q)
    torch.testing.assert_close((p * y).sum() - (q * d.conjugate(y)).sum(), d.between(p, q))
    worse = y - column([0.1, -0.2, 0.03])
    assert (p * worse).sum() - (q * d.conjugate(worse)).sum() < d.between(p, q)


def test_between_has_a_gradient():
    q = column([0.4, 0.35, 0.25])
    for d in DIVERGENCES.values():
        p = column([0.2, 0.3, 0.5]).requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(d.between(p, q), p)[0], d.f_prime(p / q).detach())


def test_alpha_family_members():
    w = column([0.1, 0.7, 1.0, 2.0, 5.0])
    kl, chi2, hellinger = DIVERGENCES["kl"], DIVERGENCES["chi2"], DIVERGENCES["hellinger"]
    assert alpha(1) is kl
    assert get_divergence("alpha:0") is DIVERGENCES["reverse_kl"]
    torch.testing.assert_close(2 * alpha(2).f(w), chi2.f(w))
    torch.testing.assert_close(alpha(0.5).f(w), 2 * hellinger.f(w))
    y = column([-2.0, -0.5, 0.3, 1.5])
    torch.testing.assert_close(alpha(1 + 1e-9).conjugate(y), kl.conjugate(y), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(alpha(1e-9).ratio(y[:3]), DIVERGENCES["reverse_kl"].ratio(y[:3]), atol=1e-7, rtol=1e-7)


def test_vmap_and_broadcast():
    y = torch.linspace(-3, 0.3, 12, dtype=torch.float64).reshape(3, 4)
    for d in DIVERGENCES.values():
        for method in (d.conjugate_nonneg, d.conjugate, d.ratio, d.score):
            torch.testing.assert_close(torch.func.vmap(method)(y), torch.stack([method(row) for row in y]))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("chi", "divergence=chi is unknown; valid are alpha:<order>, chi2,"),
        ("kll", "Did you mean 'kl'?"),
        ("alpha", "such as alpha:0.5"),
        ("alpha:x", "such as alpha:0.5"),
        ("alpha:inf", "such as alpha:0.5"),
        ("kl:2", "divergence=kl:2 is unknown"),
    ],
)
def test_unknown_names_are_refused(name, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        get_divergence(name)
