"""OfflineDataset: the audit catches each planted fault, constructors keep boundaries, formats go round."""

import h5py
import numpy as np
import pytest
import torch

from fenchel.envs.dataset import DataWarning, OfflineDataset
from fenchel.errors import UserError

COLUMNS = ("obs", "action", "reward", "terminal", "timeout", "next_obs")


def arrays(episodes=12, length=20, seed=0, terminal_every=3):
    """Random walks of `length` (time-outs) or shorter (terminals)."""
    rng = np.random.default_rng(seed)
    rows = {name: [] for name in COLUMNS}
    for k in range(episodes):
        ends_early = k % terminal_every == 0
        n = length - 3 - k % 5 if ends_early else length
        walk = np.cumsum(rng.normal(size=(n + 1, 3)), 0)
        rows["obs"].append(walk[:-1])
        rows["next_obs"].append(walk[1:])
        rows["action"].append(rng.uniform(-1, 1, (n, 2)))
        rows["reward"].append(rng.uniform(-1, 0, n))
        last = np.arange(n) == n - 1
        rows["terminal"].append(last & ends_early)
        rows["timeout"].append(last & (not ends_early))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


META = {"max_steps": 20, "reward_range": (-1.0, 0.0)}


def load(**changes):
    return OfflineDataset.from_arrays(**(arrays() | changes), meta=META)


def test_clean_data_have_no_findings_and_right_episodes():
    columns = arrays()
    data = load()
    assert data.findings == []
    ends = np.flatnonzero(columns["terminal"] | columns["timeout"]) + 1
    assert data.episode_ends.tolist() == ends.tolist()
    assert data.episode_starts.tolist() == [0, *ends[:-1]]
    sums = [columns["reward"][a:b].sum() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    torch.testing.assert_close(data.episode_returns(), torch.tensor(sums, dtype=torch.float32))


def planted(kind):
    columns = arrays()
    ends = np.flatnonzero(columns["terminal"] | columns["timeout"])
    flag = columns["terminal"] | columns["timeout"]
    match kind:
        case "nan":
            columns["reward"][5] = np.nan
        case "inf":
            columns["next_obs"][7, 1] = np.inf
        case "overlap":
            columns["timeout"] = flag
            columns["terminal"][ends[1]] = True
        case "reward":
            columns["reward"][3] = 0.5
        case "stitch":
            columns["timeout"][ends[4]] = columns["terminal"][ends[4]] = False
        case "timeout":
            columns["terminal"], columns["timeout"] = flag, np.zeros_like(flag)
        case "late" | "early":
            by = 1 if kind == "late" else -1
            columns["terminal"], columns["timeout"] = np.roll(columns["terminal"], by), np.roll(columns["timeout"], by)
        case "long":
            columns["timeout"][:] = False
            columns["terminal"][:] = False
            walk = np.cumsum(np.ones((len(flag) + 1, 3)), 0)
            columns["obs"], columns["next_obs"] = walk[:-1], walk[1:]
    return columns


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "1 rows of reward are not finite"),
        ("inf", "1 rows of next_obs are not finite"),
        ("overlap", "both terminal and time-out"),
        ("reward", "1 rewards lie outside the declared range"),
        ("stitch", "1 rows inside an episode do not lead to the next row"),
        ("timeout", "a time-out was recorded as terminal"),
        ("late", "off by one"),
        ("early", "off by one"),
        ("long", "longer than the limit of 20 steps"),
    ],
)
def test_audit_refuses_each_planted_fault(kind, message):
    columns = planted(kind)
    with pytest.raises(UserError, match=message):
        OfflineDataset.from_arrays(**columns, meta=META)
    data = OfflineDataset.from_arrays(**columns, meta=META, check=False)
    assert len(data) == len(columns["obs"])


def test_rows_of_a_late_resetting_collector_are_refused():
    """gymnasium's default autoreset writes one row per episode from the last state to the next start."""
    columns = arrays(terminal_every=1)
    ends = np.flatnonzero(columns["terminal"])
    at = ends[:-1] + 1
    bridge = {name: value[at].copy() for name, value in columns.items()}
    bridge["next_obs"] = columns["obs"][at]
    bridge["obs"] = columns["next_obs"][ends[:-1]]
    bridge["terminal"] = bridge["timeout"] = np.zeros(len(at), dtype=bool)
    glued = {name: np.insert(value, at, bridge[name], axis=0) for name, value in columns.items()}
    with pytest.raises(UserError, match="off by one"):
        OfflineDataset.from_arrays(**glued, meta=META)


def test_undeclared_suspicions_warn_only():
    columns = planted("timeout")
    with pytest.warns(DataWarning, match="recorded as terminal"):
        data = OfflineDataset.from_arrays(**columns)
    assert [f.kind for f in data.findings] == ["timeout"]
    columns = arrays() | {"reward": np.zeros(len(arrays()["reward"]))}
    columns["terminal"][:] = False
    columns["timeout"] = arrays()["terminal"] | arrays()["timeout"]
    with pytest.warns(DataWarning, match="all rewards are equal"):
        OfflineDataset.from_arrays(**columns)


def test_missing_next_obs_is_taken_from_the_next_row_and_never_across_a_boundary():
    columns = arrays()
    full = load()
    del columns["next_obs"]
    data = OfflineDataset.from_arrays(**columns, meta=META)
    kept = ~full.timeout
    assert len(data) == int(kept.sum())
    inside = ~data.terminal
    assert torch.equal(data.next_obs[inside], full.next_obs[kept][inside])
    assert torch.equal(data.terminal, full.terminal[kept])
    assert len(data.episode_ends) == len(full.episode_ends)


def test_derived_successors_show_glued_episodes_as_a_jump():
    rng = np.random.default_rng(0)
    obs = np.cumsum(rng.normal(size=(4000, 2)) * 0.01, 0)
    obs[2000:] += 500
    zeros = np.zeros(4000)
    with pytest.raises(UserError, match="times longer"):
        OfflineDataset.from_arrays(obs, rng.normal(size=(4000, 1)), rng.normal(size=4000), zeros)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs": np.zeros(5)}, "column obs must have shape"),
        ({"reward": np.zeros(5)}, "column reward must have"),
        ({"next_obs": np.zeros((3, 3))}, "column next_obs"),
        ({"terminal": np.full(len(arrays()["obs"]), 0.5)}, "0 or 1"),
        ({"action": np.full(len(arrays()["obs"]), -1)}, "negative integer"),
        ({"action": np.array(["left"] * len(arrays()["obs"]))}, "not an array of numbers"),
    ],
)
def test_wrong_arrays_are_refused_in_one_sentence(change, message):
    with pytest.raises(UserError, match=message) as caught:
        load(**change)
    assert "\n" not in str(caught.value)


def test_hash_depends_on_every_column_and_on_nothing_else():
    data = load()
    assert data.hash == load().hash
    for name in COLUMNS:
        columns = arrays()
        if columns[name].dtype == bool:
            columns[name] = ~columns[name]
        else:
            columns[name][0] += 0.25
        assert OfflineDataset.from_arrays(**columns, check=False).hash != data.hash, name


def test_discrete_actions_and_extras():
    n = len(arrays()["obs"])
    columns = arrays() | {"action": np.arange(n)[:, None] % 4}
    data = OfflineDataset.from_arrays(**columns, extras={"cost": np.ones(n)})
    assert data.action.shape == (n,)
    assert data.action.dtype == torch.int64
    spec = data.spec()
    assert spec.discrete
    assert spec.action.n == 4
    assert spec.extras == {"cost": ()}
    assert torch.equal(data.to("cpu").extras["cost"], torch.ones(n))


@pytest.mark.parametrize("discrete", [False, True])
def test_minari_round_trip(tmp_path, monkeypatch, discrete):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    columns = arrays()
    n = len(columns["obs"])
    if discrete:
        columns["action"] = np.arange(n) % 3
    data = OfflineDataset.from_arrays(**columns, meta=META, extras={"cost": np.linspace(0, 1, n)})
    data.to_minari("fenchel/walk-v0")
    back = OfflineDataset.from_minari("fenchel/walk-v0")
    for name, column in data.columns().items():
        assert torch.equal(column, back.columns()[name]), name
    assert back.hash == data.hash
    assert back.meta["max_steps"] == 20


def test_minari_contents_that_changed_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    load().to_minari("fenchel/walk-v0")
    (path,) = tmp_path.rglob("*.hdf5")
    with h5py.File(path, "r+") as file:
        file["episode_0/rewards"][2] = -0.123
    with pytest.raises(UserError, match="damaged"):
        OfflineDataset.from_minari("fenchel/walk-v0")
    with pytest.raises(UserError, match="not on this machine"):
        OfflineDataset.from_minari("fenchel/other-v0")


def write_d4rl(path, drop=(), **changes):
    names = dict(obs="observations", action="actions", reward="rewards", terminal="terminals")
    names |= dict(timeout="timeouts", next_obs="next_observations")
    with h5py.File(path, "w") as file:
        for key, value in (arrays() | changes).items():
            if key not in drop:
                file[names[key]] = value
    return path


def test_d4rl_files(tmp_path):
    whole = OfflineDataset.from_d4rl_hdf5(write_d4rl(tmp_path / "a.hdf5"))
    assert torch.equal(whole.next_obs, load().next_obs)
    assert torch.equal(whole.timeout, load().timeout)
    derived = OfflineDataset.from_d4rl_hdf5(write_d4rl(tmp_path / "b.hdf5", drop=["next_obs"]))
    assert len(derived) == int((~load().timeout).sum())
    counted = OfflineDataset.from_d4rl_hdf5(write_d4rl(tmp_path / "c.hdf5", drop=["timeout"]), max_steps=20)
    assert torch.equal(counted.timeout, load().timeout)
    with pytest.raises(UserError, match="stitched"):
        OfflineDataset.from_d4rl_hdf5(write_d4rl(tmp_path / "d.hdf5", drop=["timeout"]))
    both = arrays()["terminal"] | arrays()["timeout"]
    overlapping = write_d4rl(tmp_path / "e.hdf5", timeout=both)
    with pytest.raises(UserError, match="both terminal and time-out"):
        OfflineDataset.from_d4rl_hdf5(overlapping)
    assert torch.equal(OfflineDataset.from_d4rl_hdf5(overlapping, repair=True).timeout, load().timeout)


def test_d4rl_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        OfflineDataset.from_d4rl_hdf5(tmp_path / "none.hdf5")
    (tmp_path / "text.hdf5").write_text("not hdf5")
    with pytest.raises(UserError, match="cannot be read"):
        OfflineDataset.from_d4rl_hdf5(tmp_path / "text.hdf5")
    with pytest.raises(UserError, match="no column rewards"):
        OfflineDataset.from_d4rl_hdf5(write_d4rl(tmp_path / "r.hdf5", drop=["reward"]))
