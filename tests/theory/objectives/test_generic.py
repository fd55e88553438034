"""What every objective owes: shape, dtype, detached targets, broadcast hyper-parameters, vmap, finite extremes."""

import inspect
from importlib import import_module

import pytest
import torch

R, B, K = 2, 5, 4
MODULES = (
    "value",
    "policy",
    "dual",
    "preference",
    "policy_gradient",
    "kl",
    "constraint",
    "advantage",
    "regression",
    "ratio",
)
HELPERS = {  # not losses of one element; each has a test of its own
    "value": {"bellman_backup", "two_hot", "hl_gauss", "expectile_weight", "categorical_projection"},
    "policy": {"awr_weight", "cfpi_action", "nearest_action", "ascend"},
    "dual": {
        "check_lam",
        "check_temperature",
        "check_unbounded",
        "dual_v_weight",
        "forward_residual",
        "backward_residual",
        "orthogonal",
        "report_overflow",
    },
    "preference": {"wpo_weight"},
    "policy_gradient": {"group_advantage", "sequence_log_ratio", "truncated_ratio", "entropy"},
    "kl": {"reward_with_kl", "categorical_kl"},
    "constraint": {"projected_ascent", "pid_multiplier"},
    "advantage": {
        "weighted_baseline",
        "signed",
        "whiten",
        "return_to_go",
        "length_adaptive_lambda",
        "soft_value",
        "beta_tracker",
    },
    "regression": {"discriminative"},
    "ratio": set(),
}
# name: (hyper-parameters per replica, shapes of arguments that are not (R, B), arguments without a gradient by nature)
CASES = {
    "value.td": ({}, {}, ()),
    "value.huber": ({"delta": (0.3, 1.0)}, {}, ()),
    "value.expectile": ({"expectile": (0.7, 0.9)}, {}, ()),
    "value.quantile": ({"level": (0.2, 0.9)}, {}, ()),
    "value.quantile_huber": ({}, {"quantiles": (K,), "atoms_target": (3,)}, ()),
    "value.gumbel": ({"temperature": (0.5, 2.0)}, {}, ()),
    "value.cql_penalty": ({"temperature": (0.5, 2.0)}, {"q_sampled": (K,)}, ()),
    "value.ensemble_similarity": ({}, {"gradient": (K, 3)}, ()),
    "ratio.logistic_ratio": ({}, {}, ()),
    "value.categorical": ({}, {"logits": (K,), "probs_target": (K,)}, ()),
    "policy.nll": ({}, {}, ()),
    "policy.mse": ({}, {"action": (3,), "action_target": (3,)}, ()),
    "policy.weighted_nll": ({}, {}, ()),
    "policy.awr": ({"inverse_temperature": (1.0, 3.0)}, {}, ()),
    "policy.information_projection": ({}, {}, ()),
    "policy.deterministic_q": ({}, {}, ()),
    "policy.td3_bc": ({"alpha": (1.0, 2.5)}, {"action": (3,), "action_target": (3,)}, ()),
    "policy.ddpg_bc": ({"alpha": (0.1, 1.0)}, {}, ()),
    "policy.sac_actor": ({"temperature": (0.2, 1.0)}, {}, ()),
    "policy.sac_temperature": ({"target_entropy": (-1.0, -3.0)}, {}, ()),
    "dual.dual_v": ({"divergence": "chi2", "lam": (0.5, 0.8), "temperature": (0.3, 1.0)}, {}, ()),
    "dual.ivl": ({"expectile": (0.7, 0.9)}, {}, ()),
    "dual.residual_dual": ({"divergence": "kl", "temperature": (0.5, 2.0)}, {}, ()),
    "dual.normalised_dual": (
        {"divergence": "soft_chi2", "temperature": (0.5, 2.0), "mass": (1.0, 3.0)},
        {},
        (),
    ),
    "dual.log_ratio": ({"divergence": "soft_chi2"}, {}, ()),
    "dual.donsker_varadhan": ({"temperature": (0.5, 2.0)}, {}, ()),
    "dual.mixture_dual": ({"divergence": "chi2", "share": (0.3, 0.7)}, {}, ()),
    "dual.ls_iq": ({"ceiling": (2.0, 20.0)}, {}, ()),
    "dual.saddle_value": ({}, {}, ()),
    "dual.saddle_ratio": ({"divergence": "chi2", "temperature": (0.5, 2.0)}, {}, ()),
    "dual.odice_value": ({"divergence": "chi2", "lam": (0.4, 0.6)}, {}, ()),
    "preference.bradley_terry": ({"margin": (0.0, 0.5)}, {}, ()),
    "preference.dpo": ({"beta": (0.1, 1.0), "label_smoothing": (0.0, 0.1)}, {}, ()),
    "preference.robust_dpo": ({"beta": (0.1, 1.0), "flip_rate": (0.1, 0.3)}, {}, ()),
    "preference.length_dpo": (
        {"beta": (0.1, 1.0), "penalty": (0.01, 0.1)},
        {},
        ("chosen_length", "rejected_length"),
    ),
    "preference.hinge": ({"beta": (0.1, 0.3)}, {}, ()),
    "preference.ipo": ({"tau": (0.1, 1.0)}, {}, ()),
    "preference.simpo": ({"beta": (1.0, 2.0), "margin": (0.5, 1.0)}, {}, ()),
    "preference.f_dpo": ({"beta": (0.1, 1.0), "divergence": "js"}, {}, ()),
    "preference.h_dpo": ({"beta": (0.1, 1.0), "alpha": (0.8, 1.1)}, {}, ()),
    "preference.modpo": ({"beta": (0.1, 1.0), "weight": (0.3, 0.9)}, {}, ()),
    "preference.rpo": ({"beta": (0.1, 1.0), "eta": (0.01, 0.1)}, {}, ()),
    "preference.exo": (
        {"policy_beta": (0.5, 1.0), "reward_beta": (0.5, 1.0)},
        {"log_ratios": (K,), "rewards_target": (K,)},
        (),
    ),
    "preference.kto": ({"beta": (0.1, 1.0)}, {}, ("desirable",)),
    "preference.cpl": ({"alpha": (0.1, 1.0), "conservative": (0.5, 1.0)}, {}, ()),
    "preference.dno": ({"eta": (0.5, 2.0)}, {}, ()),
    "preference.sppo": ({"eta": (1.0, 10.0)}, {}, ()),
    "preference.rebel": ({"eta": (0.5, 1.0)}, {}, ()),
    "policy_gradient.reinforce": ({}, {}, ()),
    "policy_gradient.ppo_clip": ({"clip": (5.0, 9.0), "dual_clip": (20.0, 30.0)}, {}, ()),
    "policy_gradient.cispo": ({"high": (1.5, 3.0)}, {}, ("log_ratio",)),
    "policy_gradient.ppo_value": ({"clip": (0.2, 0.5)}, {}, ()),
    "kl.k1": ({}, {}, ()),
    "kl.k2": ({}, {}, ()),
    "kl.k3": ({}, {}, ()),
    "kl.kl": ({}, {}, ()),
    "kl.f_policy_gradient": ({"divergence": "js", "baseline": (0.0, 0.3)}, {}, ()),
    "regression.group_variance": ({"beta": (0.1, 1.0)}, {}, ()),
    "regression.optimal_advantage": ({"beta": (0.1, 1.0)}, {}, ()),
    "regression.contrastive": ({"beta": (0.1, 1.0)}, {}, ()),
    "regression.negative_aware": ({"floor": (0.1, 0.5)}, {}, ()),
    "regression.implicit_critic": ({"beta": (0.5, 1.0)}, {}, ()),
    "ratio.gradient_penalty": ({"norm": (0.5, 2.0)}, {"gradient": (3,)}, ()),
    "constraint.lagrangian": ({"budget": (0.1, 0.3)}, {}, ()),
    "constraint.multiplier_loss": ({"budget": (0.1, 0.3)}, {}, ()),
    "constraint.hinge": ({"budget": (-0.1, -0.3)}, {}, ()),
    "constraint.squared_hinge": ({"budget": (-0.1, -0.3)}, {}, ()),
    "constraint.log_barrier": ({"budget": (0.1, 0.3), "sharpness": (5.0, 20.0)}, {}, ()),
    "constraint.cvar": ({"level": (0.5, 0.9)}, {}, ()),
}

# estimators and losses whose gradient is not that of their value
BY_DESIGN = {
    "kl.kl",
    "kl.f_policy_gradient",
    "policy.td3_bc",
    "policy.ddpg_bc",
    "policy_gradient.cispo",
    "regression.negative_aware",
}


def function(name):
    module, _, attribute = name.partition(".")
    return getattr(import_module(f"fenchel.theory.objectives.{module}"), attribute)


def tensors(name):
    signature = inspect.signature(function(name)).parameters.values()
    return [p.name for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD]


def arguments(name, dtype=torch.float64, scale=1.0):
    """Distinct, deterministic numbers around 0."""
    shapes = CASES[name][1]
    out = {}
    for i, key in enumerate(tensors(name)):
        shape = (R, B, *shapes.get(key, ()))
        count = torch.Size(shape).numel()
        grid = torch.arange(count, dtype=torch.float64) * (0.754877 + 0.1 * i)
        value = (((grid + 0.137 * i) % 1.0) * 1.6 - 0.8).reshape(shape) * scale
        if key == "desirable":
            value = (value > 0).double()
        if key == "probs_target":
            value = value.softmax(-1)
        if key.endswith("length"):
            value = (value.abs() * 10).round()
        out[key] = value.to(dtype)
    return out


def hypers(name, dtype=torch.float64, replica=None):
    """(R, 1) tensors, or the floats of one replica; names stay names."""
    return {
        key: value
        if isinstance(value, str)
        else value[replica]
        if replica is not None
        else torch.tensor(value, dtype=dtype)[:, None]
        for key, value in CASES[name][0].items()
    }


def test_every_objective_is_in_the_table():
    for module in MODULES:
        code = import_module(f"fenchel.theory.objectives.{module}")
        names = {
            n for n, f in vars(code).items() if inspect.isfunction(f) and f.__module__ == code.__name__ and n[0] != "_"
        }
        listed = {case.split(".")[1] for case in CASES if case.startswith(module + ".")}
        assert names == listed | HELPERS[module]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_per_element_shape_and_dtype(name, dtype):
    loss = function(name)(**arguments(name, dtype), **hypers(name, dtype))
    assert loss.shape == (R, B)
    assert loss.dtype == dtype


@pytest.mark.parametrize("name", CASES)
def test_only_targets_are_detached(name):
    inputs = {key: value.requires_grad_() for key, value in arguments(name).items()}
    loss = function(name)(**inputs, **hypers(name))
    weights = torch.linspace(0.5, 1.5, R * B, dtype=torch.float64).reshape(R, B)
    gradients = torch.autograd.grad((loss * weights).sum(), list(inputs.values()), allow_unused=True)
    for (key, value), gradient in zip(inputs.items(), gradients, strict=True):
        if key.endswith("_target"):
            assert gradient is None, key
        elif key not in CASES[name][2]:
            assert gradient is not None, key
            assert gradient.abs().sum() > 0, key
            assert gradient.isfinite().all(), key
        else:
            assert gradient is None or value.shape == gradient.shape


@pytest.mark.parametrize("name", CASES)
def test_a_replica_of_a_list_equals_its_own_run(name):
    """(R, 1) hyper-parameters give row i exactly what the float gives, and rows do not see each other."""
    inputs = arguments(name)
    together = function(name)(**inputs, **hypers(name))
    for i in range(R):
        alone = function(name)(**{k: v[i : i + 1] for k, v in inputs.items()}, **hypers(name, replica=i))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)
        alone = function(name)(**{k: v[i] for k, v in inputs.items()}, **hypers(name, replica=i))
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_vmap_equals_the_loop(name):
    inputs, options = arguments(name), hypers(name)
    fixed = {k: v for k, v in options.items() if isinstance(v, str)}
    mapped = {k: v for k, v in options.items() if k not in fixed}
    result = torch.func.vmap(lambda a, h: function(name)(**a, **h, **fixed))(inputs, mapped)
    torch.testing.assert_close(result, function(name)(**inputs, **options), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradient_by_finite_differences(name):
    """Of the arguments that carry one; estimators whose value and gradient differ by design are tested apart."""
    if name in BY_DESIGN:
        pytest.skip("its gradient is not that of its value, by design")
    inputs = arguments(name)
    free = [k for k in inputs if not k.endswith("_target") and k not in CASES[name][2]]
    fixed = {k: v for k, v in inputs.items() if k not in free}
    leaves = tuple((inputs[k] + 0.0137).requires_grad_() for k in free)

    def call(*values):
        return function(name)(**dict(zip(free, values, strict=True)), **fixed, **hypers(name))

    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize("scale", [1e-30, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_extremes_are_finite(name, dtype, scale):
    inputs = {key: value.requires_grad_() for key, value in arguments(name, dtype, scale).items()}
    loss = function(name)(**inputs, **hypers(name, dtype))
    assert loss.isfinite().all()
    for gradient in torch.autograd.grad(loss.sum(), list(inputs.values()), allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_no_host_synchronisation(name):
    """Runs on fake tensors: no .item(), no shape that depends on data, so that a CUDA graph can hold it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        inputs = {key: mode.from_tensor(value).requires_grad_() for key, value in arguments(name).items()}
        options = {k: v if isinstance(v, str) else mode.from_tensor(v) for k, v in hypers(name).items()}
        assert function(name)(**inputs, **options).shape == (R, B)
