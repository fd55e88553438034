"""Population minimisers of the preference losses on enumerated answers, against closed forms that do not call them."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from fenchel.errors import UserError
from fenchel.theory.objectives import preference as losses

N = 5
RNG = np.random.default_rng(3)
REF = torch.tensor(RNG.dirichlet(np.ones(N) * 3))
REWARD = torch.tensor(RNG.normal(size=N))
BT = torch.sigmoid(REWARD[:, None] - REWARD[None])
CYCLIC = 0.5 + 0.4 * torch.tensor(np.sin(np.subtract.outer(np.arange(N), np.arange(N)) * 2.1))
FIRST, SECOND = (g.flatten() for g in torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij"))


def normalised(x):
    return x / x.sum()


def tilt(exponent, base=REF):
    return normalised(base * exponent.exp())


def fit(loss):
    """softmax(theta) that minimises loss(log pi), in float64."""
    theta = torch.zeros(N, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=3000, tolerance_grad=1e-13, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = loss(theta.log_softmax(-1))
        value.backward()
        return value

    optimiser.step(closure)
    return theta.detach().softmax(-1)


def paired(per_pair, preference=BT, score=None):
    """E over independent uniform pairs and both labels of per_pair(score_w, score_l, w, l)."""

    def loss(log_pi):
        x = log_pi - REF.log() if score is None else score(log_pi)
        p = preference[FIRST, SECOND]
        won = per_pair(x[FIRST], x[SECOND], FIRST, SECOND)
        lost = per_pair(x[SECOND], x[FIRST], SECOND, FIRST)
        return (p * won + (1 - p) * lost).mean()

    return loss


def close(pi, expected, tolerance=1e-6):
    torch.testing.assert_close(pi, expected, atol=tolerance, rtol=0)


def test_bradley_terry_recovers_the_reward():
    r = fit(paired(lambda w, z, i, j: losses.bradley_terry(w, z), score=lambda logp: logp)).log()
    close(r - r.mean(), REWARD - REWARD.mean(), 1e-5)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_dpo(beta):
    close(fit(paired(lambda w, z, i, j: losses.dpo(w, z, beta=beta))), tilt(REWARD / beta))


def test_smoothed_dpo_has_a_finite_margin_on_certain_labels():
    best = minimize_scalar(
        lambda d: losses.dpo(torch.tensor(d), torch.tensor(0.0), beta=0.5, label_smoothing=0.1).item(),
        bounds=(-20, 40),
        method="bounded",
    )
    assert best.x == pytest.approx(np.log(9) / 0.5, abs=1e-2)


def test_robust_dpo_is_unbiased_under_flips():
    chosen, rejected = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = 0.3
    kept = losses.robust_dpo(chosen, rejected, beta=0.7, flip_rate=eps)
    flipped = losses.robust_dpo(rejected, chosen, beta=0.7, flip_rate=eps)
    clean = -torch.log(torch.sigmoid(0.7 * (chosen - rejected)))
    torch.testing.assert_close((1 - eps) * kept + eps * flipped, clean)
    with pytest.raises(UserError, match=r"flip_rate=0\.5 is not valid"):
        losses.robust_dpo(chosen, rejected, beta=1.0, flip_rate=0.5)


def test_length_dpo_penalises_length():
    length = torch.tensor([1.0, 4.0, 2.0, 9.0, 3.0], dtype=torch.float64)
    pi = fit(paired(lambda w, z, i, j: losses.length_dpo(w, z, length[i], length[j], beta=0.8, penalty=0.1)))
    close(pi, tilt((REWARD - 0.1 * length) / 0.8))


def test_hinge_is_flat_beyond_its_margin():
    gap = torch.tensor([0.0, 0.5, 2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(losses.hinge(gap, 0 * gap, beta=0.5), torch.tensor([1.0, 0.75, 0.0, 0.0]).double())


@pytest.mark.parametrize("preference", [BT, CYCLIC], ids=["bt", "cyclic"])
def test_ipo(preference):
    wins = preference.mean(1)
    close(fit(paired(lambda w, z, i, j: losses.ipo(w, z, tau=0.3), preference)), tilt(wins / 0.3))


def test_ipo_on_log_ratios_per_token_has_another_optimum():
    length = torch.tensor([1.0, 4.0, 2.0, 3.0, 2.0], dtype=torch.float64)
    pi = fit(paired(lambda w, z, i, j: losses.ipo(w, z, tau=0.3), score=lambda logp: (logp - REF.log()) / length))
    assert (pi - tilt(BT.mean(1) / 0.3)).abs().sum() / 2 > 0.05


@pytest.mark.parametrize("margin", [0.0, 0.8])
@pytest.mark.parametrize("preference", [0.5, 0.7, 0.95])
def test_simpo_margin_per_pair(preference, margin):
    gap, decay = 2 * preference - 1, np.exp(-margin)
    closed = np.log(
        (gap + np.sqrt(gap**2 + 4 * preference * (1 - preference) * decay**2)) / (2 * (1 - preference) * decay)
    )

    def risk(z):
        z, zero = torch.tensor(z / 2.0, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        won, lost = (losses.simpo(a, b, beta=2.0, margin=margin) for a, b in ((z, zero), (zero, z)))
        return (preference * won + (1 - preference) * lost).item()

    assert minimize_scalar(risk, bounds=(-9, 9), method="bounded", options={"xatol": 1e-10}).x == pytest.approx(
        closed, abs=1e-5
    )


F_PRIME = {
    "kl": lambda u: u.log(),
    "reverse_kl": lambda u: -1 / u,
    "js": lambda u: 0.5 * (2 * u / (1 + u)).log(),
    "alpha:0.5": lambda u: (1 - u**-0.5) / 0.5,
    "hellinger": lambda u: -(u**-0.5),
}


@pytest.mark.parametrize("name", F_PRIME)
def test_f_dpo_satisfies_the_stationarity_of_its_regulariser(name):
    pi = fit(paired(lambda w, z, i, j: losses.f_dpo(w, z, beta=1.5, divergence=name)))
    implied = 1.5 * F_PRIME[name](pi / REF) - REWARD
    assert (implied - implied.mean()).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["chi2", "tv", "alpha:2"])
def test_f_dpo_refuses_what_a_log_ratio_cannot_reach(name):
    with pytest.raises(UserError, match=r"is not valid for f_dpo; it needs f'\(0\) = -inf"):
        losses.f_dpo(torch.zeros(1), torch.zeros(1), beta=1.0, divergence=name)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.3])
def test_h_dpo(alpha):
    ref = REF.log()
    loss = paired(lambda w, z, i, j: losses.h_dpo(w, z, ref[i], ref[j], beta=0.7, alpha=alpha), score=lambda logp: logp)
    close(fit(loss), normalised(REF ** (1 / alpha) * (REWARD / (alpha * 0.7)).exp()))


def test_modpo_reaches_the_optimum_of_the_weighted_reward():
    other = torch.tensor(RNG.normal(size=N))
    pi = fit(paired(lambda w, z, i, j: losses.modpo(w, z, 0.4 * (other[i] - other[j]), beta=0.5, weight=0.6)))
    close(pi, tilt((0.6 * REWARD + 0.4 * other) / 0.5))


def test_rpo_adds_the_sft_term():
    logp = torch.tensor([-3.0, -7.0], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(losses.rpo(zero, zero, logp, beta=0.5, eta=0.2), np.log(2) - 0.1 * logp)
    # identity of the adversarial reward: with E_base r = 0, max_pi E_pi r - beta KL is - beta E_base log(pi_r / ref)
    centred = REWARD - REF @ REWARD
    value = 0.5 * (REF * (centred / 0.5).exp()).sum().log()
    torch.testing.assert_close(value, -0.5 * (REF * (tilt(centred / 0.5) / REF).log()).sum())


@pytest.mark.parametrize("members", [2, 3])
def test_exo_over_all_subsets(members):
    subsets = torch.combinations(torch.arange(N), members)

    def loss(log_pi):
        rho = log_pi - REF.log()
        return losses.exo(rho[subsets], REWARD[subsets], policy_beta=0.5, reward_beta=0.8).mean()

    close(fit(loss), tilt(REWARD / 0.4), 1e-5)
    q = (0.5 * torch.tensor([0.3, -0.2]).double()).softmax(-1)
    p = (REWARD[:2] / 0.8).softmax(-1)
    value = losses.exo(torch.tensor([0.3, -0.2]).double(), REWARD[:2], policy_beta=0.5, reward_beta=0.8)
    torch.testing.assert_close(value, (q * (q / p).log()).sum())


def test_kto_value_and_direction():
    rho = torch.tensor([0.5, -0.2], dtype=torch.float64, requires_grad=True)
    desirable = torch.tensor([1.0, 0.0], dtype=torch.float64)
    loss = losses.kto(rho, desirable, torch.tensor(0.1).double(), beta=2.0, desirable_weight=1.5)
    s = torch.sigmoid(torch.tensor([2 * 0.5 - 0.1, 0.1 + 2 * 0.2], dtype=torch.float64))
    torch.testing.assert_close(loss, torch.tensor([1.5, 1.0]).double() * (1 - s))
    (gradient,) = torch.autograd.grad(loss.sum(), rho)
    torch.testing.assert_close(gradient, torch.tensor([-1.5, 1.0]).double() * 2 * s * (1 - s))


def test_cpl_recovers_the_soft_optimal_policy():
    """One state: A* = alpha log pi*, pi* = exp(r / alpha) / Z, labels from the regret sigmoid(A*(w) - A*(l))."""
    soft = (REWARD / 0.6).softmax(-1)
    advantage = 0.6 * soft.log()
    regret = torch.sigmoid(advantage[:, None] - advantage[None])
    pi = fit(paired(lambda w, z, i, j: losses.cpl(w, z, alpha=0.6), regret, score=lambda logp: logp))
    close(pi, soft)
    biased = losses.cpl(torch.tensor(-1.0), torch.tensor(-2.0), alpha=0.5, conservative=0.5)
    assert biased.item() == pytest.approx(np.log(1 + np.exp(-0.5 * (-1 + 0.5 * 2))))


def test_sppo_and_rebel_regress_to_the_multiplicative_step():
    wins = CYCLIC @ REF
    target = 2.0 * (wins - 0.5)
    rho = torch.zeros(N, dtype=torch.float64, requires_grad=True)
    loss = losses.sppo(rho, wins, eta=2.0)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), rho)[0], -2 * target)
    assert losses.sppo(target, wins, eta=2.0).abs().max() == 0

    def rebel(log_pi):
        x = log_pi - REF.log()
        return losses.rebel(x[FIRST], x[SECOND], REWARD[FIRST] - REWARD[SECOND], eta=0.7).mean()

    close(fit(rebel), tilt(0.7 * REWARD))


def test_wpo_weight_is_a_geometric_mean_of_real_tokens():
    logp = torch.tensor([[-1.0, -3.0, -50.0]])
    assert losses.wpo_weight(logp, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(np.exp(-2))
