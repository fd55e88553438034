"""Population minimisers of the value losses, against closed forms and roots of stationarity conditions in numpy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from fenchel.errors import UserError
from fenchel.theory.objectives import value as losses

Q = np.array([-2.0, -0.5, 0.1, 0.4, 1.0, 1.3, 4.0])
P = np.array([0.1, 0.2, 0.15, 0.05, 0.25, 0.2, 0.05])
MEAN = P @ Q


def minimiser(loss, **hyper):
    """argmin over one number v of E_P loss(v, Q)."""
    q, p = torch.tensor(Q), torch.tensor(P)

    def risk(v):
        return (p * loss(torch.full_like(q, v), q, **hyper)).sum().item()

    return minimize_scalar(risk, bounds=(-10, 10), method="bounded", options={"xatol": 1e-12}).x


def test_bellman_backup_keeps_the_discount_of_a_time_out():
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0])
    assert losses.bellman_backup(reward, discount, torch.tensor([10.0, 10.0])).tolist() == [10.0, 2.0]


def test_td_is_minimised_by_the_mean():
    assert minimiser(losses.td) == pytest.approx(MEAN, abs=1e-6)


@pytest.mark.parametrize("delta", [0.5, 1.0, 50.0])
def test_huber_is_minimised_by_the_huber_location(delta):
    root = brentq(lambda m: P @ np.clip(Q - m, -delta, delta), -5, 5)
    assert minimiser(losses.huber, delta=delta) == pytest.approx(root, abs=1e-5)
    u = torch.tensor([0.1, -3.0], dtype=torch.float64)
    torch.testing.assert_close(
        losses.huber(u, torch.zeros_like(u), delta=delta),
        torch.nn.functional.huber_loss(u, 0 * u, reduction="none", delta=delta),
    )


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.9, 0.999])
def test_expectile(tau):
    root = brentq(lambda m: tau * P @ np.maximum(Q - m, 0) - (1 - tau) * P @ np.maximum(m - Q, 0), -5, 5)
    assert minimiser(losses.expectile, expectile=tau) == pytest.approx(root, abs=1e-5)
    if tau == 0.5:
        assert root == pytest.approx(MEAN)
    if tau == 0.999:
        assert 3.5 < root < Q.max()


@pytest.mark.parametrize(("level", "expected"), [(0.05, -2.0), (0.2, -0.5), (0.6, 1.0), (0.99, 4.0)])
def test_quantile(level, expected):
    assert minimiser(losses.quantile, level=level) == pytest.approx(expected, abs=1e-5)
    assert expected == Q[np.searchsorted(np.cumsum(P), level)]


def test_quantile_huber_finds_the_quantiles_of_its_levels():
    torch.manual_seed(0)
    atoms = torch.linspace(0, 1, 401, dtype=torch.float64)[None]
    quantiles = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([quantiles], max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = losses.quantile_huber(quantiles, atoms, delta=1e-3).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(
        quantiles.detach()[0], torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64), atol=3e-3, rtol=0
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_gumbel_is_minimised_by_the_log_mean_exp(temperature):
    exact = temperature * math.log(P @ np.exp(Q / temperature))
    assert minimiser(losses.gumbel, temperature=temperature) == pytest.approx(exact, abs=1e-6)
    assert minimiser(losses.gumbel, temperature=temperature, clip=40.0) == pytest.approx(exact, abs=1e-6)


def test_gumbel_clip_of_released_code_loses_the_best_actions():
    """q uniform on [0, 10], temperature 1/2: exactly 8.5; a clip at 2 gives 2.6, its tangent more than 7."""
    q = torch.linspace(0, 10, 2001, dtype=torch.float64)
    exact = 0.5 * math.log(np.mean(np.exp(2 * q.numpy())))

    def argmin(**hyper):
        return minimize_scalar(
            lambda v: losses.gumbel(torch.full_like(q, v), q, temperature=0.5, **hyper).mean().item(),
            bounds=(-5, 12),
            method="bounded",
        ).x

    # without its rescaling, a positive factor of the whole batch, the official loss is the clipped one
    def clipped(v):
        z = np.minimum((q.numpy() - v) / 0.5, 2.0)
        return np.mean(np.exp(z) - z - 1)

    official_gradient_root = minimize_scalar(clipped, bounds=(-5, 12), method="bounded").x
    assert exact == pytest.approx(8.50, abs=0.01)
    assert official_gradient_root == pytest.approx(2.65, abs=0.1)
    v = torch.tensor([official_gradient_root], dtype=torch.float64, requires_grad=True)
    losses.gumbel(v.expand(len(q)), q, temperature=0.5, clip=2.0, variant="official").mean().backward()
    assert abs(v.grad.item()) < 1e-3
    v = torch.tensor([exact], dtype=torch.float64, requires_grad=True)
    losses.gumbel(v.expand(len(q)), q, temperature=0.5, clip=2.0, variant="official").mean().backward()
    assert v.grad.item() > 0.05
    assert argmin(clip=20.0) == pytest.approx(exact, abs=1e-3)
    assert argmin(clip=2.0) > 7.0


def test_gumbel_official_is_the_released_formula():
    value, q = torch.tensor([[0.1, -0.4, 2.0]]).double(), torch.tensor([[3.0, 0.2, -1.0]]).double()
    z = torch.clamp((q - value) / 0.7, max=1.5)
    top = max(z.max().item(), -1.0)
    expected = torch.exp(z - top) - z * math.exp(-top) - math.exp(-top)
    torch.testing.assert_close(losses.gumbel(value, q, temperature=0.7, clip=1.5, variant="official"), expected)
    low = losses.gumbel(value + 50, q, temperature=0.7, variant="official")
    torch.testing.assert_close(low, torch.exp((q - value - 50) / 0.7 + 1) - (q - value - 50) / 0.7 * math.e - math.e)


@pytest.mark.unchecked
def test_gumbel_does_not_overflow():
    value = torch.zeros(3, requires_grad=True)
    loss = losses.gumbel(value, torch.tensor([1e3, 1e5, -1e5]), temperature=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), value)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[:2] < -1e8).all()  # the best actions still pull
    with pytest.raises(UserError, match="variant=fast is unknown"):
        losses.gumbel(value, value, temperature=1.0, variant="fast")


def test_cql_penalty_of_all_actions():
    q = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    data = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    loss = sum(data[a] * losses.cql_penalty(q, q[:, a], temperature=0.7) for a in range(3))
    expected = 0.7 * math.log(sum(math.exp(v / 0.7) for v in (1.0, 2.0, 0.5))) - float(data @ q[0].detach())
    assert loss.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(loss.sum(), q)
    torch.testing.assert_close(
        gradient[0], (q[0] / 0.7).softmax(-1).detach() - data
    )  # 0 where softmax(q / T) is the data


def test_cql_penalty_of_samples_estimates_the_integral():
    """a ~ Normal(0, 2), q = - a^2: the integral of exp(q / T) is sqrt(pi T)."""
    actions = torch.tensor(norm.ppf((np.arange(20000) + 0.5) / 20000, scale=2.0))
    log_prob = torch.tensor(norm.logpdf(actions.numpy(), scale=2.0))
    for temperature in (1.0, 0.5):
        loss = losses.cql_penalty(
            -actions.square()[None], torch.zeros(1).double(), temperature=temperature, log_prob=log_prob[None]
        )
        assert loss.item() == pytest.approx(temperature * 0.5 * math.log(math.pi * temperature), abs=1e-3)


def test_two_hot_keeps_the_mean():
    support = torch.tensor([-2.0, -1.0, 0.5, 3.0], dtype=torch.float64)
    value = torch.tensor([[-2.0, -1.7, 0.5], [0.0, 2.9, 3.0]], dtype=torch.float64)
    weights = losses.two_hot(value, support)
    torch.testing.assert_close(weights @ support, value)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(value))
    assert (weights >= 0).all()
    assert ((weights > 0).sum(-1) <= 2).all()
    assert (losses.two_hot(torch.tensor([9.0]).double(), support) @ support).item() == 3.0
    torch.testing.assert_close(torch.func.vmap(lambda v: losses.two_hot(v, support))(value), weights)


def test_hl_gauss_bins_hold_the_gaussian_mass():
    edges = torch.linspace(-3, 3, 13, dtype=torch.float64)
    value = torch.tensor([0.3, -1.1], dtype=torch.float64)
    weights = losses.hl_gauss(value, edges, sigma=0.4)
    cdf = norm.cdf(edges.numpy()[None], loc=value.numpy()[:, None], scale=0.4)
    torch.testing.assert_close(weights, torch.tensor(np.diff(cdf) / (cdf[:, -1:] - cdf[:, :1])))
    centres = (edges[1:] + edges[:-1]) / 2
    torch.testing.assert_close(weights @ centres, value, atol=2e-3, rtol=0)
    outside = losses.hl_gauss(torch.tensor([50.0]), edges.float(), sigma=0.1)
    assert outside.isfinite().all()
    assert outside.argmax() == 11


def test_categorical_is_minimised_by_the_mean_distribution():
    targets = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], dtype=torch.float64)
    logits = targets.mean(0).log().expand(2, 3).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses.categorical(logits, targets).sum(), logits)
    torch.testing.assert_close(gradient.sum(0), torch.zeros(3).double())
    entropy = losses.categorical(targets.log(), targets)
    torch.testing.assert_close(entropy, -(targets * targets.log()).sum(-1))


def test_an_expectile_is_the_mean_under_the_policy_that_it_implies():
    v = minimiser(losses.expectile, expectile=0.8)
    weight = losses.expectile_weight(torch.tensor(Q - v), expectile=0.8).numpy()
    np.testing.assert_allclose(weight, np.where(Q < v, 0.2, 0.8))
    assert np.average(Q, weights=P * weight) == pytest.approx(v, abs=1e-5)


def test_ensemble_similarity_of_known_directions():
    """Alike: N. At right angles: 0. Spread evenly in the plane: - N / (N - 1). A dead critic counts as orthogonal."""
    angles = torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    even = torch.stack([angles.cos(), angles.sin()], -1)
    scales = torch.tensor([[1.0], [20.0], [0.01]])
    found = losses.ensemble_similarity(
        torch.stack([even[:1].expand(3, 2) * scales, even * scales, torch.tensor([[1.0, 0], [0, 2], [0, 0]])])
    )
    torch.testing.assert_close(found, torch.tensor([3.0, -1.5, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_in_one_dimension_similarity_has_no_gradient():
    gradient = torch.tensor([[[0.5], [-2.0], [1.0]]], dtype=torch.float64, requires_grad=True)
    similarity = losses.ensemble_similarity(gradient)
    assert similarity.item() == pytest.approx(-1.0)  # signs + - +: (2 - 4) / 2
    assert torch.autograd.grad(similarity.sum(), gradient)[0].abs().max() < 1e-8


def test_categorical_projection_shares_every_atom():
    """Bellemare 2017, alg. 1, written as its loop over atoms."""
    support = torch.linspace(-2, 2, 9, dtype=torch.float64)
    probs = torch.rand(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    atoms = torch.tensor([[0.3], [-1.0], [1.9]], dtype=torch.float64) + 0.7 * support
    exact = np.zeros((3, 9))
    for i in range(3):
        for p, z in zip(probs[i].numpy(), atoms[i].numpy(), strict=True):
            b = (min(max(z, -2.0), 2.0) + 2.0) / 0.5
            low, high = math.floor(b), math.ceil(b)
            exact[i, low] += p * (high - b + (low == high))
            exact[i, high] += p * (b - low)
    torch.testing.assert_close(losses.categorical_projection(probs, atoms, support), torch.tensor(exact))
