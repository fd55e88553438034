"""Evaluators on a small table, every recorded row in every batch, against linear systems in NumPy.

Sixty episodes of a random MDP with four states, of which some end by a terminal and the others by a time-out; rewards
and transitions are random, first states are other than later ones. The answers below are the empirical MDP's own, and
know neither `theory` nor a learner.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch

from fenchel.algorithms import checkpoint, get_algorithm
from fenchel.algorithms.ope import common
from fenchel.algorithms.ope.target import of_replica
from fenchel.algorithms.training import TrainConfig, train
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP

S, A, GAMMA = 4, 2, 0.8
PAIRS = S * A
SPEC = Spec(S, Discrete(A))
PI = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.3, 0.7]])
LEARNERS = ("bestdice", "dualdice", "fqe")


@cache
def model():
    rng = np.random.default_rng(12)
    successors = rng.dirichlet(np.ones(S), (S, A))
    reward = np.arange(S)[:, None] + 0.5 * rng.normal(size=(S, A))
    return successors, reward, np.where(rng.random((S, A)) < 0.5, 0.3, 0.0)


@cache
def record(deterministic=False, lacking=False):
    """Columns s, a, r, s', terminal, time-out; `lacking`: action 1 is never taken in state 1."""
    (P, R, end), rng, rows = model(), np.random.default_rng(2), []
    for _ in range(60):
        s = rng.integers(2)
        for t in range(6):
            a = rng.integers(A) if rng.random() < 0.5 else s % A
            a = 0 if lacking and s == 1 else a
            following = P[s, a].argmax() if deterministic else rng.choice(S, p=P[s, a])
            terminal = bool(end[s, a] > 0) if deterministic else rng.random() < end[s, a]
            rows.append((s, a, R[s, a] + 0.3 * rng.normal(), following, terminal, t == 5 and not terminal))
            if terminal:
                break
            s = following
    return [np.array(column) for column in zip(*rows, strict=True)]


def dataset(**options):
    s, a, r, following, terminal, timeout = record(**options)
    eye = np.eye(S)
    return OfflineDataset.from_arrays(eye[s], a, r, terminal, timeout, eye[following], dtype=torch.float64, check=False)


def exact(stops=None, **options):
    """(w (S, A), normalised value, Q (S, A)) of the empirical MDP; stops: which rows end it, by default terminals."""
    s, a, r, following, terminal, timeout = record(**options)
    ended = terminal if stops is None else stops(terminal, timeout)
    pair, n = s * A + a, len(s)
    counts = np.bincount(pair, minlength=PAIRS).astype(float)
    kernel, reward = np.zeros((PAIRS, PAIRS)), np.bincount(pair, r, PAIRS) / counts
    for i in np.flatnonzero(~ended):
        kernel[pair[i], following[i] * A : following[i] * A + A] += GAMMA * PI[following[i]] / counts[pair[i]]
    first = s[np.r_[0, np.flatnonzero(terminal | timeout)[:-1] + 1]]
    start = np.zeros((S, A))
    for state in first:
        start[state] += PI[state] / len(first)
    d = (1 - GAMMA) * np.linalg.solve(np.eye(PAIRS) - kernel.T, start.ravel())
    Q = np.linalg.solve(np.eye(PAIRS) - kernel, reward)
    assert d @ reward == pytest.approx((1 - GAMMA) * start.ravel() @ Q)
    return (d * n / counts).reshape(S, A), d @ reward, Q.reshape(S, A)


def build(key, **options):
    """A learner of tables whose target is PI."""
    base = {"hidden": (), "gamma": GAMMA, "target": "optimal"} | ({} if key == "fqe" else {"resamples": 40})
    learner = get_algorithm(key)(SPEC, base | options, dtype=torch.float64)
    learner.policy.table.copy_(torch.from_numpy(PI))
    return learner


def learn(key, data, steps=800, **options):
    """(learner, source) after full-batch updates with smaller and smaller steps."""
    learner = build(key, **options)
    source = learner.sampler(data)
    rows = source.unpack(source.rows[None]) | {"start_obs": source.start.unpack(source.start.rows[None])["obs"]}
    if key == "fqe":
        rows["count"] = source.resampled[:, :, source.episode]
    for part in (1.0, 0.3, 0.1):
        for optimiser in learner.optimisers():
            optimiser.lr = [part * lr for lr in optimiser.lr]
            optimiser.freeze(set())
        for _ in range(steps // 3):
            learner.update(rows)
    return learner, source


def weights(learner, source):
    """w (S, A) of a ratio learner, whose weight is the same for all rows of a pair."""
    own = learner.weights if learner.__class__.__name__ == "DualDICE" else lambda batch, _: learner.weights(batch)
    w = common.over(source, own)[0].detach().numpy()
    s, a = (column.numpy() for column in (source.data.obs.argmax(-1), source.data.action))
    return np.array([[w[(s == i) & (a == j)].mean() for j in range(A)] for i in range(S)])


def near(ours, answer, scale):
    """Within 2 % of `scale`."""
    return np.abs(np.asarray(ours) - answer).max() <= 0.02 * scale


DICE = [
    ("dualdice", {}),
    ("dualdice", {"regulariser": "power:2"}),
    ("dualdice", {"regulariser": "chi2", "self_normalised": False}),
    ("bestdice", {}),
    ("bestdice", {"alpha_r": 0.0, "normalise": False, "positive": False}),
    ("bestdice", {"regulariser": "soft_chi2", "self_normalised": False}),
]


@pytest.mark.parametrize(("key", "options"), DICE)
def test_ratios_reach_the_occupancy_s_and_the_estimate_the_value(key, options):
    learner, source = learn(key, dataset(), lr=0.03, ratio_lr=0.1, **options)
    w, value, _ = exact()
    found, report = weights(learner, source), learner.report(source)
    assert near(found, w, np.ptp(w)), (found, w)
    assert near(report["estimate"], value, np.ptp(model()[1]))
    assert report["mass"][0] == pytest.approx(1, abs=0.01)
    s, a, _, following, terminal, _ = record()  # Bellman's flow of w d_D, pair by pair
    n, first = len(s), source.data.obs[source.data.episode_starts].argmax(-1).numpy()
    inflow = (1 - GAMMA) * np.bincount(first, minlength=S) / len(first)
    inflow = inflow + np.bincount(following, GAMMA * ~terminal * found[s, a], S) / n
    out = np.array([[found[i, j] * ((s == i) & (a == j)).sum() / n for j in range(A)] for i in range(S)])
    np.testing.assert_allclose(out, inflow[:, None] * PI, atol=0.005)


def test_what_would_be_wrong_is_far_away():
    """The start states, gamma, terminals and time-outs each move the answer by more than what the tests allow."""
    value, scale = exact()[1], np.ptp(model()[1])
    s, _, r, *_ = record()
    wrong = {
        "time-outs are terminals": exact(lambda terminal, timeout: terminal | timeout)[1],
        "terminals are time-outs": exact(lambda terminal, timeout: terminal & False)[1],
        "the data's own average": r.mean(),
        "starts from the data": (1 - GAMMA) * (PI * exact()[2])[s].sum(1).mean(),
    }
    assert not [what for what, other in wrong.items() if near(other, value, scale)], (value, wrong)


def test_the_convex_form_is_right_where_transitions_are_deterministic_only():
    options = {"form": "convex", "lr": 0.03, "regulariser": "power:2"}
    for deterministic in (True, False):
        learner, source = learn("dualdice", dataset(deterministic=deterministic), **options)
        _, value, _ = exact(deterministic=deterministic)
        gap = abs(learner.report(source)["estimate"][0] - value)
        assert (gap <= 0.005) == deterministic


# regularised Q: Q^2 fast, w slow
FREE_Q, FREE_W = {"alpha_q": 0.0, "alpha_w": 1.0}, {"alpha_q": 1.0, "alpha_w": 0.0}
PROFILES = [
    ({**FREE_W, "alpha_r": 0.0, "ratio_lr": 0.01}, {"dual", "lagrangian"}),
    ({**FREE_W, "alpha_r": 1.0, "positive": False, "ratio_lr": 0.05}, {"primal", "lagrangian"}),
    ({**FREE_W, "alpha_r": 1.0, "ratio_lr": 0.01}, set()),
    ({**FREE_Q, "alpha_r": 1.0, "ratio_lr": 0.1}, {"dual", "lagrangian"}),
]


@pytest.mark.parametrize(("options", "unbiased"), PROFILES)
def test_bestdice_is_biased_where_its_table_says_so(options, unbiased):
    learner, source = learn("bestdice", dataset(), steps=1200, lr=0.03, **options)
    report, value = learner.report(source), exact()[1]
    found = {name for name in ("dual", "primal", "lagrangian") if near(report[name], value, np.ptp(model()[1]))}
    assert found == unbiased, (value, {name: report[name] for name in ("dual", "primal", "lagrangian")})
    assert report["estimate"] == report["dual"]


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_fqe_reaches_the_empirical_mdp_s_value(loss):
    learner, source = learn("fqe", dataset(), lr=0.03, tau=0.1, loss=loss, delta=10.0, members=3)
    _, value, Q = exact()
    q = learner.critic.table(torch.eye(S, dtype=torch.float64)[None])[0, 0].detach().numpy() / (1 - GAMMA)
    report = learner.report(source)
    assert near(q, Q, np.ptp(Q))
    assert near(report["estimate"], value, np.ptp(model()[1]))
    low, high = report["interval"][0]
    assert low < value < high


def test_fqe_s_members_are_the_values_of_their_resamples():
    """Each member is the empirical MDP of its own episodes: their spread is that of refitting."""
    data = dataset()
    learner, source = learn("fqe", data, lr=0.03, tau=0.1, members=3)
    start = common.over(source.start, lambda b, _: common.average(learner.critic, learner, b["obs"], "start", 0))
    counts = source.resampled[0]
    assert counts.sum(-1).tolist() == [60.0] * 4
    assert counts[0].unique().tolist() == [1.0]
    for member in range(4):
        rows = torch.cat([torch.arange(i, j).repeat(int(c)) for i, j, c in zip(
            data.episode_starts, data.episode_ends, counts[member], strict=True)])  # fmt: skip
        own = tuple(np.asarray(column)[rows] for column in record())
        found = (counts[member] * start[0, member]).sum() / 60
        assert near(found, value_of(own), np.ptp(model()[1]))


def value_of(columns):
    """The normalised value of PI by 200 backups of recorded rows (episodes one after the other)."""
    s, a, r, following, terminal, timeout = columns
    pair, Q = s * A + a, np.zeros((S, A))
    counts = np.bincount(pair, minlength=PAIRS)
    for _ in range(200):
        y = r + GAMMA * ~terminal * (PI * Q).sum(1)[following]
        Q = (np.bincount(pair, y, PAIRS) / counts).reshape(S, A)
    first = s[np.r_[0, np.flatnonzero(terminal | timeout)[:-1] + 1]]
    return (1 - GAMMA) * (PI * Q).sum(1)[first].mean()


# --- what is reported -------------------------------------------------------------------------------------------------


def tabular(mdp=None):
    """A task of the true model, with the data above."""
    P, R, end = model()
    mdp = mdp or TabularMDP(
        torch.from_numpy(P), torch.from_numpy(R), torch.tensor([0.5, 0.5, 0, 0]).double(),
        torch.from_numpy(GAMMA * (1 - end)),
    )  # fmt: skip
    return Task("table", SPEC, None, dataset, mdp=mdp)


def true_value(policy, gamma=GAMMA):
    """V at the start distribution and the occupancy before an end, by 4000 steps of the chain."""
    P, R, end = model()
    state, value, visits = np.array([0.5, 0.5, 0, 0]), 0.0, np.zeros((S, A))
    for t in range(4000):
        pair = state[:, None] * policy
        value, visits = value + gamma**t * (pair * R).sum(), visits + gamma**t * pair
        state = np.einsum("sa,sa,sat->t", pair, 1 - end, P)
    return value, visits


@pytest.mark.parametrize("key", LEARNERS)
def test_the_report_is_in_both_units_with_the_truth_beside_it(key):
    gammas = [0.5, GAMMA]
    options = {"hidden": (5,), "gamma": gammas, "target": "uniform"} | ({} if key == "fqe" else {"resamples": 5})
    learner = get_algorithm(key)(SPEC, options, [3, 5])
    source = learner.source(tabular())
    report = learner.report(source)
    for i, gamma in enumerate(gammas):
        truth, _ = true_value(np.full((S, A), 1 / A), gamma)
        estimate = report["estimate"][i]
        assert report["exact_value"][i] == pytest.approx(truth)
        assert report["exact"][i] == pytest.approx((1 - gamma) * truth)
        assert report["error"][i] == pytest.approx(estimate - (1 - gamma) * truth)
        assert report["value"][i] == pytest.approx(estimate / (1 - gamma))
        assert report["covered"][i] == 1
    single = get_algorithm(key)(SPEC, options | {"gamma": GAMMA}, [5])
    alone = single.report(single.source(tabular()))
    for name in ("estimate", "interval", "error"):
        np.testing.assert_allclose(report[name][1], alone[name][0], rtol=1e-5)


def test_without_coverage_the_report_says_so():
    """Action 1 is never taken in state 1, and no method can know. DualDICE's weights no longer add up, while its
    interval goes by them all the same; FQE stays where its networks began, and its members disagree."""
    data, (_, visits) = dataset(lacking=True), true_value(PI)
    options = {"dualdice": {"lr": 0.03, "ratio_lr": 0.1}, "fqe": {"lr": 0.03, "tau": 0.1, "members": 3}}
    reports = {}
    for key, sizes in options.items():
        learner, source = learn(key, data, **sizes)
        learner.exact = common.exact(learner, tabular().mdp)
        reports[key] = learner.report(source)
        assert reports[key]["covered"][0] == pytest.approx(1 - visits[1, 1] / visits.sum())
    assert reports["dualdice"]["covered"][0] < 0.7
    assert abs(reports["dualdice"]["mass"][0] - 1) > 0.3
    low, high = reports["dualdice"]["interval"][0]
    assert not low - 0.3 <= reports["dualdice"]["exact"][0] <= high + 0.3
    assert abs(reports["fqe"]["error"][0]) > 0.1 * np.ptp(model()[1])
    low, high = reports["fqe"]["interval"][0]
    assert high - low > 1


def test_where_an_episode_has_ended_needs_no_coverage():
    """State 1 is over: reward and discount 0; recorded episodes end on the way into it."""
    P = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
    going = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    mdp = TabularMDP(P, going, torch.tensor([1.0, 0.0]).double(), GAMMA * going)
    obs, following = np.eye(2)[[0, 0, 0, 0]], np.eye(2)[[0, 1, 1, 1]]
    data = OfflineDataset.from_arrays(
        obs, [0, 1, 0, 1], np.ones(4), np.array([0, 1, 1, 1]), None, following, check=False
    )
    learner = get_algorithm("fqe")(Spec(2, Discrete(2)), {"hidden": (5,), "gamma": GAMMA})
    report = learner.report(learner.source(Task("over", learner.spec, None, lambda: data, mdp=mdp)))
    assert report["covered"] == [1.0]
    assert report["exact_value"][0] == pytest.approx(1 / (1 - GAMMA / 2))


def test_intervals_come_from_whole_episodes():
    """As wide as the clusters' standard error says; writing every episode's rows twice changes nothing."""
    torch.manual_seed(0)
    widths = []
    for times in (1, 2):
        s, a, r, following, terminal, timeout = (np.repeat(column, times) for column in record())
        if times == 2:
            terminal, timeout = terminal & (np.arange(len(s)) % 2 == 1), timeout & (np.arange(len(s)) % 2 == 1)
        eye = np.eye(S)
        data = OfflineDataset.from_arrays(eye[s], a, r, terminal, timeout, eye[following], check=False)
        learner = build("dualdice", resamples=1000, self_normalised=False)
        source = learner.sampler(data)
        parts, _ = common.weighted(source, torch.ones(1, len(s), dtype=torch.float64), self_normalised=False)
        ((low, high),) = common.resampled(learner, parts, 1000)
        above, below = (part[0].numpy() for part in parts[0])
        error = np.sqrt(((above - above.sum() / below.sum() * below) ** 2).sum()) / below.sum()
        assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)
        assert low < r.mean() < high
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1])


class Still:
    """One state, and a reward of 1 for action 0."""

    def __init__(self, n):
        self.n = n

    def reset(self, seeds, mask=None):
        self.t = 0
        return torch.eye(S)[torch.zeros(self.n, dtype=torch.long)]

    def step(self, action):
        self.t += 1
        never = torch.zeros(self.n, dtype=torch.bool)
        return Step(self.reset_obs(), (action == 0).float(), never, never | (self.t >= 20), {})

    def reset_obs(self):
        return torch.eye(S)[torch.zeros(self.n, dtype=torch.long)]


def test_evaluation_draws_a_stochastic_target_afresh_at_every_step():
    """Twenty coins per episode: the returns' variance is a binomial one, not that of one coin thrown once."""
    learner = get_algorithm("fqe")(SPEC, {"hidden": (5,)})
    task = Task("still", SPEC, lambda n, seed, device="cpu": Still(n), dataset, max_steps=20)
    row = train(task, learner, TrainConfig(steps=0, final_episodes=400))["final"][0]
    assert row["return_mean"] == pytest.approx(10, abs=4 * np.sqrt(5 / 400))
    assert row["return_std"] ** 2 == pytest.approx(5, rel=0.3)


# --- targets ----------------------------------------------------------------------------------------------------------


def target_of(name, spec=SPEC, task=None, **options):
    learner = get_algorithm("fqe")(spec, {"hidden": (5,), "target": name} | options)
    learner.bind(task or tabular())
    return learner


def test_tabular_targets(tmp_path):
    best = max(
        (np.eye(A)[np.array([i >> s & 1 for s in range(S)])] for i in range(A**S)),
        key=lambda policy: true_value(policy)[0],
    )
    P, R, end = model()
    Q = np.zeros((S, A))
    for _ in range(500):
        Q = R + GAMMA * (1 - end) * (P @ Q.max(1))
    soft = np.exp(Q / 0.3) / np.exp(Q / 0.3).sum(1, keepdims=True)
    expected = {"optimal": best, "mixed:0.4": 0.6 * best + 0.2, "soft:0.3": soft, "uniform": np.full((S, A), 0.5)}
    for name, policy in expected.items():
        learner = target_of(name)
        learner.obs_mean, learner.obs_std = torch.full((S,), 0.3), torch.full((S,), 0.1)  # as if normalised
        found = learner.policy.probs(learner.normalise(torch.eye(S)[None]))[0]
        np.testing.assert_allclose(found, policy, atol=1e-5)
    learner = target_of("soft:0.3")
    learner.save(tmp_path / "learner")
    loaded = get_algorithm("fqe").load(tmp_path / "learner")  # knows its target without the task
    assert torch.equal(loaded.act(torch.eye(S)[None], False), learner.act(torch.eye(S)[None], False))
    assert torch.equal(loaded.policy.table, learner.policy.table)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unifrom",
            "target=unifrom is unknown; valid are .*optimal, soft:<temperature>, uniform.*Did you mean 'uniform'",
        ),
        ("soft:0", "target=soft:0 is not valid; soft takes a temperature above 0"),
        ("soft", "target=soft is not valid; soft takes"),
        ("mixed:1.5", "target=mixed:1.5 is not valid; mixed takes a share from 0 to 1"),
        ("nowhere/last.safetensors", "nowhere/last.safetensors is not there"),
        ("hopper-medium", "target=hopper-medium observes 11 numbers and gives 3, which the task does not"),
    ],
)
def test_targets_that_are_none(name, message):
    with pytest.raises(UserError, match=message):
        target_of(name)


def test_tabular_targets_need_their_task():
    box = Spec(2, Box((-1.0,), (1.0,)))
    with pytest.raises(UserError, match="target=optimal is known on tabular tasks only; valid here are uniform"):
        get_algorithm("fqe")(box, {"target": "optimal"})
    with pytest.raises(UserError, match="target=optimal is known on tabular tasks only"):
        target_of("optimal", task=Task("data", SPEC, None, dataset))
    with pytest.raises(UserError, match=r"known only with its task: call bind\(task\) before fit"):
        get_algorithm("fqe")(SPEC, {"target": "optimal"}).fit(dataset(), 1)


@pytest.mark.parametrize("kind", ["discrete", "box"])
@pytest.mark.parametrize("name", ["awac", "iql"])
def test_a_checkpoint_s_policy_is_the_target(name, kind, make, tasks, tmp_path):
    """The second of three replicas, by its mode and by its probabilities, also for several replicas of an evaluator."""
    options = {"expectile": [0.6, 0.7, 0.8]} if name == "iql" else {}
    stored = make(name, kind, [3, 5, 7], **options)
    stored.obs_mean, stored.obs_std = stored.obs_mean + 0.2, stored.obs_std * 0.7
    stored.save(tmp_path / "policy.safetensors")
    target = {"target": str(tmp_path / "policy.safetensors"), "replica": 1}
    obs = torch.randn(1, 6, stored.spec.obs_dim).expand(3, -1, -1)
    learner = make("fqe", kind, [1, 2], **target)
    learner.observe(tasks[kind].dataset())
    mine, theirs = learner.act(obs[:2]), stored.act(obs)
    for i in range(2):
        torch.testing.assert_close(mine[i], theirs[1])
    loose = make("fqe", kind, [1, 2], greedy=False, **target)
    if kind == "discrete":
        expected = stored.policy.log_probs(stored.normalise(obs)).exp()[1]
        torch.testing.assert_close(loose.policy.probs(obs[:2])[0], expected)
    else:
        noise = torch.randn(2, 6, 2)
        expected, _ = stored.policy.sample(stored.normalise(obs), noise[:1].expand(3, -1, -1))
        torch.testing.assert_close(loose.policy.sample(obs[:2], noise)[0][0], expected[1].clamp(-1, 1))
    if name == "iql":
        config = checkpoint.read(tmp_path / "policy.safetensors")[1]["config"]
        assert of_replica(type(stored.config), config, 1, 3) == config | {"expectile": 0.7}
    with pytest.raises(UserError, match=r"replica=3 is not in .*; valid are 0 to 2"):
        make("fqe", kind, **target | {"replica": 3})
    with pytest.raises(UserError, match="acts on other observations or actions"):
        make("fqe", "box" if kind == "discrete" else "discrete", **target)


def test_an_actor_of_the_data_sets_is_a_target():
    from fenchel.envs.mujoco import Actor, members

    spec, obs = Spec(11, Box((-1.0,) * 3, (1.0,) * 3)), torch.randn(2, 5, 11)
    learner = get_algorithm("fqe")(spec, {"hidden": (5,), "target": "hopper-expert"}, [0, 1])
    actor = Actor("hopper", members("hopper", "expert"), 10, noise=0.0)
    torch.testing.assert_close(learner.act(obs).flatten(0, 1), actor(obs.flatten(0, 1)))
    loose = get_algorithm("fqe")(spec, {"hidden": (5,), "target": "hopper-expert", "greedy": False}, [0, 1])
    mean, std = actor.law(obs.flatten(0, 1)[None])
    drawn = torch.stack([loose.act(obs, deterministic=False) for _ in range(300)])
    assert (
        drawn.std(0).max()
        < 1.3 * Actor("hopper", members("hopper", "expert"), 10).law(obs.flatten(0, 1)[None])[1].max()
    )
    assert std.max() == 0
    assert mean.shape == (1, 10, 3)


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        ("fqe", {"gamma": 1.0}, "gamma=1.0 is not valid; an evaluator takes it from 0 to below 1"),
        ("dualdice", {"regulariser": "kl"}, "regulariser=kl is not valid where a ratio may be negative"),
        ("bestdice", {"regulariser": "js"}, "regulariser=js is not valid: it lets ratios grow without bound"),
    ],
)
def test_options_that_do_not_fit(key, options, message):
    with pytest.raises(UserError, match=message):
        get_algorithm(key)(SPEC, options)


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_run_says_estimate_interval_and_truth(tmp_path, monkeypatch, capsys):
    from fenchel.cli.run import main

    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path / "data"))
    line = "env=garnet-mixed task.transitions=600 algo=bestdice algo.target=soft:0.5 algo.gamma=0.9 seed=0:2 steps=20"
    line += f" algo.hidden=[8] eval_episodes=0 final_episodes=3 out={tmp_path}/run"
    assert main(line.split()) == 0
    shown = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    keys = {"estimate", "interval", "value", "exact", "exact_value", "error", "covered", "mass", "effective"}
    for row in summary["final"]:
        assert keys | {"return_mean"} <= row.keys()
        assert row["error"] == pytest.approx(row["estimate"] - 0.1 * row["exact_value"])
        assert "gap" not in row
    evals = [row for row in rows if row["kind"] == "eval"]
    assert len(evals) == 10
    assert keys <= evals[0].keys()
    assert evals[-1]["estimate"] == [row["estimate"] for row in summary["final"]]
    assert "(1 - gamma) V" in shown
    assert all(f"{row['exact']:.4g}" in shown for row in summary["final"])


def test_a_target_that_the_task_does_not_know_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    from fenchel.cli.run import main

    (tmp_path / "unknown_mdp.py").write_text(
        "from dataclasses import replace\nfrom fenchel import envs\n"
        "def make():\n    return replace(envs.make('garnet-mixed'), mdp=None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["env=unknown_mdp:make", "algo=fqe", "algo.target=optimal", f"out={tmp_path}/run"]) == 2
    assert "target=optimal is known on tabular tasks only" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
