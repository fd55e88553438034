"""`make`: tables, options, foreign ids, and the sentence for everything that is refused."""

import sys

import numpy as np
import pytest
import torch

import fenchel.envs as envs
from fenchel.envs import DATASETS, ENVS, make, options
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.gym import reference_of
from fenchel.errors import UserError
from tests.envs.test_dataset import META, arrays, write_d4rl


@pytest.mark.parametrize("id", [*ENVS, *DATASETS])
def test_every_row_makes_a_task_whose_environment_steps(id):
    if id.startswith(("hopper", "halfcheetah", "walker2d")):
        pytest.importorskip("mujoco")
    task = make(id)
    assert task.id == id
    assert (task.dataset is not None) == (id in DATASETS)
    if task.make_vec is None:
        return
    env = task.make_vec(3, 0)
    obs = env.reset(torch.arange(3))
    assert obs.shape == (3, task.spec.obs_dim)
    assert torch.equal(obs, env.reset(torch.arange(3)))
    discrete = task.spec.discrete
    action = torch.zeros(3, dtype=torch.int64) if discrete else torch.zeros(3, task.spec.action.dim)
    step = env.step(action)
    assert step.obs.shape == obs.shape
    assert step.reward.shape[0] == 3
    assert step.terminal.dtype == step.timeout.dtype == torch.bool


@pytest.mark.parametrize(
    ("id", "given", "message"),
    [
        ("hoper-medium", {}, "env=hoper-medium is unknown.*Did you mean 'hopper-medium'"),
        ("", {}, "env= is unknown"),
        ("pointmaze-umaze", {"transition": 5}, "task.transition is not an option.*Did you mean 'transitions'"),
        ("pendulum", {"transitions": 5}, "task.transitions is not an option of env=pendulum; it has none"),
        ("gym:Hoper-v5", {}, "env=gym:Hoper-v5.*Did you mean 'Hopper-v5'"),
        ("gym:CartPole-v1", {"data": 5}, "env=gym:CartPole-v1 refuses task.*data"),
        ("gym:Blackjack-v1", {}, "env=gym:Blackjack-v1 has Tuple observations|needs more packages"),
        ("no_such_package:make", {}, "module no_such_package cannot be found"),
        ("math:nothing", {}, "module math has no function nothing"),
        ("d4rl:/no/such/file.hdf5", {}, "does not exist"),
        ("minari:no/such-v0", {}, "not on this machine"),
    ],
)
def test_what_is_refused_and_how(id, given, message):
    with pytest.raises(UserError, match=message) as caught:
        make(id, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("prefix", "module", "extra"), [("mo", "mo_gymnasium", "mo"), ("ogbench", "ogbench", "gc")])
def test_missing_extras_are_named(monkeypatch, prefix, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'fenchel\[{extra}\]'"):
        make(f"{prefix}:anything-v0")


def test_missing_mujoco_is_named(monkeypatch):
    import gymnasium

    def refuse(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gymnasium, "make", refuse)
    for id in ("hopper-medium", "gym:Hopper-v5"):
        with pytest.raises(UserError, match=r"pip install 'fenchel\[data\]'"):
            make(id)


def test_options_are_read_off_the_signature():
    assert options("pointmaze-umaze")["transitions"] == 200_000
    assert options("pendulum") == {}
    assert set(options("hopper-medium")) == {"transitions", "data_seed"}


def test_a_users_module_is_found_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_own_env.py").write_text(
        "from fenchel.envs import make as original\n\ndef make(size=1):\n    return original('pendulum')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert make("my_own_env:make", size=2).spec.obs_dim == 3
    sys.modules.pop("my_own_env")


def test_d4rl_and_minari_tasks(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    n = len(arrays()["obs"])
    wide = {name: np.tile(arrays()[name], 4)[:, :11] for name in ("obs", "next_obs")} | {"action": np.zeros((n, 3))}
    path = write_d4rl(tmp_path / "hopper_medium-v2.hdf5", **wide)
    task = make(f"d4rl:{path}")
    assert task.reference == (-20.272305, 3234.3)
    assert len(task.dataset()) == n
    with pytest.raises(UserError, match="does not fit"):
        make(f"d4rl:{write_d4rl(tmp_path / 'hopper_small.hdf5')}")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    OfflineDataset.from_arrays(**arrays(), meta=META).to_minari("fenchel/walk-v0")
    task = make("minari:fenchel/walk-v0")
    assert task.make_vec is None
    assert task.spec.obs_dim == 3


def test_reference_scores():
    assert reference_of("gym:HalfCheetah-v5") == (-280.178953, 12135.0)
    assert reference_of("mujoco/walker2d/medium-v0") == (1.629008, 4592.3)
    assert reference_of("gym:Ant-v5") is None
    task = make("pointmaze-umaze")
    scores = task.normalized(torch.tensor(task.reference))
    torch.testing.assert_close(scores, torch.tensor([0.0, 100.0]))


def test_import_of_the_tables_needs_no_torch():
    import subprocess

    code = "import sys, fenchel.envs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert envs.FOREIGN.keys() == {"gym", "minari", "d4rl", "mo", "ogbench"}
