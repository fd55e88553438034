"""Imitation data: whole demonstrations that are marked, the rest of the stated kind, and what is refused."""

import pytest
import torch

from fenchel.envs import DATASETS, make
from fenchel.envs.imitation import MIDDLE
from fenchel.envs.tabular import states_of
from fenchel.errors import UserError
from fenchel.theory.instances import grids

IDS = [id for id, row in DATASETS.items() if row.startswith("imitation:")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))


def returns(data):
    """Of demonstrations and of other episodes."""
    expert, total = data.extras["expert"][data.episode_starts].bool(), data.episode_returns()
    return total[expert], total[~expert]


@pytest.mark.parametrize("id", IDS)
def test_demonstrations_are_whole_episodes_and_come_first(id):
    if id.startswith(("hopper", "halfcheetah", "walker2d")):
        pytest.importorskip("mujoco")
    task = make(id, expert_episodes=2, transitions=500)
    data = task.dataset()
    expert = data.extras["expert"]
    marked = int(expert.sum())
    assert task.spec.extras == {"expert": ()}
    assert len(data) == marked + 500
    assert expert[:marked].all()
    ends = data.episode_ends[data.episode_ends <= marked]
    assert len(ends) == 2
    assert ends[-1] == marked
    assert all(length <= task.max_steps for length in torch.diff(ends, prepend=torch.zeros(1)).tolist())
    assert not data.findings


@pytest.mark.parametrize("id", ["fourrooms-imitation", "pendulum-imitation"])
def test_the_rest_is_of_its_kind(id):
    mean = {}
    for offline in ("random", "medium"):
        expert, others = returns(make(id, offline=offline, transitions=6000, expert_episodes=20).dataset())
        mean[offline], best = float(others.mean()), float(expert.mean())
    assert mean["random"] < mean["medium"] < best
    _, pure = returns(make(id, expert_fraction=0.0, transitions=6000).dataset())
    _, mixed = returns(make(id, expert_fraction=0.5, transitions=6000).dataset())
    assert pure.mean() < mixed.mean()
    alone = make(id, offline="none", expert_episodes=3).dataset()
    assert bool(alone.extras["expert"].all())
    assert len(alone.episode_ends) == 3


def test_unmarked_episodes_of_the_expert_are_other_ones():
    data = make("pendulum-imitation", expert_fraction=1.0, expert_episodes=5, transitions=2000).dataset()
    starts = data.obs[data.episode_starts]
    assert len(starts.unique(dim=0)) == len(starts)


def test_the_seed_of_the_data_draws_everything():
    first, again, other = (make("fourrooms-imitation", transitions=600, data_seed=s).dataset() for s in (0, 0, 1))
    assert first.hash == again.hash != other.hash


def test_uncovered_data_touch_the_demonstrations_in_one_state():
    task = make("stitchmaze-uncovered", transitions=3000)
    data = task.dataset()
    expert = data.extras["expert"].bool()
    shown, seen = set(states_of(data.obs[expert]).tolist()), set(states_of(data.obs[~expert]).tolist())
    reached = set(states_of(data.next_obs[~expert]).tolist())
    begin = grids.cells(grids.STITCHING_MAZE)[len(grids.STITCHING_MAZE) // 2, MIDDLE]
    assert not shown & seen
    assert shown & reached == {begin} == {int(states_of(data.obs[:1]))}
    starts = set(task.mdp.mu0.nonzero()[:, 0].tolist())
    assert set(states_of(data.obs[data.episode_starts[1:]]).tolist()) == starts
    assert data.reward[expert].sum() == 1
    entered = states_of(data.next_obs) == begin
    assert bool(data.timeout[entered & ~expert].all())  # stopped watching: the value goes on


@pytest.mark.parametrize(
    ("id", "options", "sentence"),
    [
        (
            "pendulum-imitation",
            {"offline": "mediun"},
            "task.offline=mediun is unknown; valid are .*Did you mean 'mediu",
        ),
        ("pendulum-imitation", {"offline": "expert"}, "task.offline=expert is unknown; valid are medium, none, random"),
        (
            "pendulum-imitation",
            {"expert_fraction": 2.0},
            "task.expert_fraction=2.0 is not valid; it lies between 0 and",
        ),
        ("fourrooms-imitation", {"expert_episodes": 0}, "task.expert_episodes=0 is not valid; it is at least 1"),
        ("stitchmaze-uncovered", {"offline": "random"}, "task.offline is not an option of env=stitchmaze-uncovered"),
    ],
)
def test_what_is_refused(id, options, sentence):
    with pytest.raises(UserError, match=sentence):
        make(id, **options)
