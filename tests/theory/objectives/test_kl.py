"""KL estimators: exact value and gradient over every answer and token sequence, against autograd of the KL itself."""

import itertools

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.divergences import DIVERGENCES
from fenchel.theory.objectives import kl as losses
from fenchel.theory.objectives.policy_gradient import reinforce

LOGITS = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64)
REF = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
PI = LOGITS.softmax(-1)
REVERSE = (PI * (PI / REF).log()).sum()
FORWARD = (REF * (REF / PI).log()).sum()


def exact(divergence_of_pi):
    theta = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(divergence_of_pi(theta.softmax(-1)), theta)[0]


REVERSE_GRADIENT = exact(lambda pi: (pi * (pi / REF).log()).sum())
FORWARD_GRADIENT = exact(lambda pi: (REF * (REF / pi).log()).sum())


def expectation(estimator):
    """(value, gradient) of E_{y ~ sg(pi)} estimator(log pi - log ref): what an average over samples tends to."""
    theta = LOGITS.clone().requires_grad_()
    value = (PI * estimator(theta.log_softmax(-1) - REF.log())).sum() + 0 * theta.sum()
    return value.detach(), torch.autograd.grad(value, theta)[0]


def test_what_each_estimator_is_the_value_and_gradient_of():
    zero = torch.zeros(4, dtype=torch.float64)
    for estimator, value, gradient in (
        (losses.k1, REVERSE, zero),
        (losses.k2, None, REVERSE_GRADIENT),
        (losses.k3, REVERSE, FORWARD_GRADIENT),
    ):
        got = expectation(estimator)
        if value is not None:
            torch.testing.assert_close(got[0], value)
        torch.testing.assert_close(got[1], gradient)
    assert (expectation(losses.k2)[0] - REVERSE).abs() > 1e-3
    assert (FORWARD_GRADIENT - REVERSE_GRADIENT).norm() > 0.1 * REVERSE_GRADIENT.norm()  # k3 is not the reverse KL's
    assert (losses.k3(torch.linspace(-3, 3, 13)) >= 0).all()


@pytest.mark.parametrize(
    ("gradient", "expected"), [("reverse", REVERSE_GRADIENT), ("forward", FORWARD_GRADIENT), ("none", 0 * REF)]
)
@pytest.mark.unchecked
def test_value_and_gradient_are_chosen_apart(gradient, expected):
    for value in ("k1", "k3"):
        got = expectation(lambda r, value=value: losses.kl(r, value=value, gradient=gradient))
        torch.testing.assert_close(got[0], REVERSE)
        torch.testing.assert_close(got[1], expected)
    with pytest.raises(UserError, match="value=k4 is unknown"):
        losses.kl(REF, value="k4")
    with pytest.raises(UserError, match="gradient=back is unknown"):
        losses.kl(REF, gradient="back")


def test_kl_in_the_reward_has_the_whole_gradient():
    theta = LOGITS.clone().requires_grad_()
    log_pi = theta.log_softmax(-1)
    reward = torch.tensor([1.0, 0.0, 0.5, -1.0], dtype=torch.float64)
    loss = (PI * reinforce(log_pi, losses.reward_with_kl(reward, log_pi - REF.log(), beta=0.3))).sum()
    expected = exact(lambda pi: -(pi * reward).sum() + 0.3 * (pi * (pi / REF).log()).sum())
    torch.testing.assert_close(torch.autograd.grad(loss, theta)[0], expected)


def test_token_sums_miss_the_change_of_the_prefixes():
    """Two binary tokens: the sum of per-token k2 has not the gradient of the sequence's KL, k2 of the sum has."""
    generator = torch.Generator().manual_seed(5)
    theta = torch.randn(3, 2, dtype=torch.float64, generator=generator).requires_grad_()  # prefixes: empty, 0, 1
    ref = torch.randn(3, 2, dtype=torch.float64, generator=generator).log_softmax(-1)

    def log_ratios(first, second):
        table = theta.log_softmax(-1)
        return torch.stack([(table - ref)[0, first], (table - ref)[1 + first, second]]), table[0, first] + table[
            1 + first, second
        ]

    total = {"token": 0.0, "sequence": 0.0, "exact": 0.0}
    for first, second in itertools.product(range(2), repeat=2):
        rho, log_prob = log_ratios(first, second)
        p = log_prob.exp()
        total["token"] += p.detach() * losses.k2(rho).sum()
        total["sequence"] += p.detach() * losses.k2(rho.sum())
        total["exact"] += p * rho.sum()
    gradients = {k: torch.autograd.grad(v, theta, retain_graph=True)[0] for k, v in total.items()}
    torch.testing.assert_close(gradients["sequence"], gradients["exact"])
    assert (gradients["token"] - gradients["exact"]).norm() > 0.05 * gradients["exact"].norm()


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "tv"])
def test_f_policy_gradient_is_the_gradient_of_the_divergence(name):
    d = DIVERGENCES[name]
    expected = exact(lambda pi: d.between(pi, REF))
    for baseline in (0.0, 0.7):
        theta = LOGITS.clone().requires_grad_()
        log_pi = theta.log_softmax(-1)
        loss = (PI * losses.f_policy_gradient(log_pi, log_pi - REF.log(), divergence=name, baseline=baseline)).sum()
        torch.testing.assert_close(torch.autograd.grad(loss, theta)[0], expected)


def test_categorical_kl():
    log_p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
    log_q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    expected = torch.tensor(
        [0.5 * torch.tensor(2.5).double().log() + 0.5 * torch.tensor(5 / 3).double().log(), 0.0]
    ).double()
    torch.testing.assert_close(losses.categorical_kl(log_p, log_q.expand_as(log_p)), expected, atol=1e-7, rtol=1e-6)
