"""The flat cache: no damaged file loads, one process builds while the others wait."""

import os
import random
import subprocess
import sys

import pytest
import torch

from fenchel.envs.audit import Finding
from fenchel.envs.cache import build_once, config_hash, load, save
from fenchel.envs.dataset import OfflineDataset
from fenchel.errors import UserError
from tests.envs.test_dataset import META, arrays


@pytest.fixture
def file(tmp_path):
    data = OfflineDataset.from_arrays(**arrays(), extras={"cost": torch.ones(len(arrays()["obs"]))}, meta=META)
    save(data, tmp_path / "set.safetensors")
    return tmp_path / "set.safetensors", data


def test_round_trip_is_exact_and_deterministic(file, tmp_path):
    path, data = file
    back = load(path)
    for name, column in data.columns().items():
        assert torch.equal(column, back.columns()[name]), name
    assert (back.meta, back.hash) == (data.meta, data.hash)
    save(data, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob("*.tmp*"))


def corrupt(content: bytes, rng: random.Random) -> bytes:
    """One of: a flipped bit, a changed, lost or added byte, a truncation, zeros, two blocks exchanged."""
    data = bytearray(content)
    at = rng.randrange(len(data))
    if rng.random() < 0.4:
        at = rng.randrange(1200)  # the header, where a change can be read as something else
    match rng.randrange(7):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = (data[at] + rng.randrange(1, 256)) % 256
        case 2:
            del data[at]
        case 3:
            data.insert(at, rng.randrange(256))
        case 4:
            del data[at:]
        case 5:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        case 6:
            to = rng.randrange(len(data) - 64)
            data[at : at + 16], data[to : to + 16] = data[to : to + 16], data[at : at + 16]
    return bytes(data)


def silent_loads(path, content, trials, seed):
    rng, silent, made = random.Random(seed), [], 0
    while made < trials:
        damaged = corrupt(content, rng)
        if damaged == content:
            continue
        made += 1
        path.write_bytes(damaged)
        try:
            load(path)
        except UserError:
            continue
        silent.append(made)
    return silent


def test_no_corrupted_file_loads(file):
    path, _ = file
    assert silent_loads(path, path.read_bytes(), 200, seed=0) == []


@pytest.mark.slow
def test_no_corrupted_file_loads_in_a_thousand(file):
    path, _ = file
    assert silent_loads(path, path.read_bytes(), 1000, seed=1) == []


def test_a_flipped_bit_at_every_byte_of_the_header_is_seen(file):
    path, _ = file
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for at in range(0, header, 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(UserError):
            load(path)


def test_an_intact_file_with_faulty_data_is_refused(tmp_path):
    columns = arrays()
    columns["obs"][3] += 1
    save(OfflineDataset.from_arrays(**columns, meta=META, check=False), tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="do not lead to the next row"):
        load(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.safetensors")


def test_findings_print_their_rows():
    assert str(Finding("fault", "nan", "two rows are bad", (3, 5))) == "two rows are bad (rows 3, 5, ...)"


def test_configurations_have_their_own_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    calls = []

    def build():
        calls.append(1)
        return OfflineDataset.from_arrays(**arrays())

    for config in ({"n": 1}, {"n": 2}, {"n": 1}):
        build_once("walk", 1, config, build)
    build_once("walk", 2, {"n": 1}, build)
    assert len(calls) == 3
    assert (tmp_path / f"walk-v1-{config_hash({'n': 1})}.safetensors").exists()


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path / "taken"))
    with pytest.raises(UserError, match=r"FENCHEL_DATA=.*cannot be written"):
        build_once("walk", 1, {}, lambda: OfflineDataset.from_arrays(**arrays()))


def test_remains_of_a_killed_builder_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    stale = tmp_path / f"walk-v1-{config_hash({})}.safetensors.tmp123"
    stale.write_bytes(b"half a file")
    build_once("walk", 1, {}, lambda: OfflineDataset.from_arrays(**arrays()))
    assert not stale.exists()


BUILDER = """
import sys, time
from pathlib import Path
from fenchel.envs import cache, make
import fenchel.envs.pendulum as pendulum
collect = pendulum.collect
def slow(*args, **options):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    return collect(*args, **options)
pendulum.collect = slow
print(make("pendulum-mixed", transitions=400).dataset().hash)
"""


def test_two_processes_that_ask_at_once_build_once(tmp_path):
    environment = os.environ | {"FENCHEL_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "log")]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    hashes = [process.communicate(timeout=60)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    assert hashes[0] == hashes[1]
    assert (tmp_path / "log").read_text() == "built\n"
