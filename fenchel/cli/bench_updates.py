"""`bench updates`: IQL with R replicas against one seed of plain eager PyTorch (bench_reference.py), per seed-update.

Times of both sides are taken in turns, and each is the median over rounds, so that another load on the machine moves
the ratio little. CPU time counts every core's work; wall time is what a person waits.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch

from fenchel.cli.bench_reference import ReferenceIQL
from fenchel.theory.rng import Streams

OBS, ACTION, ROWS, ROUNDS = 11, 3, 100_000, 5  # the shapes of Hopper
PEER = "plain PyTorch, 1 seed"

Row = dict[str, Any]
Updates = Callable[[int], None]  # so many updates in a row


def columns(device: str) -> dict[str, torch.Tensor]:
    rng = Streams([0], device)
    draw = {name: rng.normal(name, (ROWS, width))[0] for name, width in (("obs", OBS), ("next_obs", OBS))}
    action = rng.uniform("action", (ROWS, ACTION))[0] * 2 - 1
    return draw | {"action": action, "reward": rng.normal("reward", (ROWS,))[0], "done": torch.zeros(ROWS).to(device)}


def ours(replicas: int, batch: int, width: int, device: str, data: dict[str, torch.Tensor]) -> Updates:
    from fenchel.algorithms import get_algorithm
    from fenchel.algorithms.runner import Runner
    from fenchel.algorithms.sampler import Sampler
    from fenchel.envs.dataset import OfflineDataset

    arrays = {k: v for k, v in data.items() if k != "done"}
    end = torch.arange(ROWS) % 1000 == 999
    stored = OfflineDataset.from_arrays(
        **arrays, terminal=torch.zeros(ROWS, dtype=torch.bool), timeout=end, check=False, device=device
    )
    options = {"batch_size": batch, "hidden": (width, width)}
    learner = get_algorithm("iql")(stored.spec(), options, seeds=range(replicas), device=device)
    runner = Runner(learner, Sampler(stored, learner))
    return lambda steps: runner.advance(steps) and None


def reference(batch: int, width: int, data: dict[str, torch.Tensor]) -> Updates:
    learner = ReferenceIQL(data, width, batch)

    def run(steps: int) -> None:
        for _ in range(steps):
            learner.update()

    return run


def seconds(run: Updates, clock: Callable[[], float], steps: int) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = clock()
    run(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - started) / steps


def compare(mine: Updates, theirs: Updates, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds per update of each, in turns."""
    for run in (mine, theirs):
        run(20)
    steps = [max(5, int(0.4 / seconds(run, time.perf_counter, 5))) for run in (mine, theirs)]
    times = [[seconds(run, clock, n) for run, n in zip((mine, theirs), steps, strict=True)] for _ in range(ROUNDS)]
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    return first, second


def row(case: str, mine: float | None, peer_value: float | None, unit: str, peer: str = PEER) -> Row:
    ratio = peer_value / mine if mine and peer_value else None
    return {"case": case, "ours": mine, "peer": peer, "peer_value": peer_value, "ratio": ratio, "unit": unit}


def rows() -> Iterator[Row]:
    threads = torch.get_num_threads()
    data = columns("cpu")
    try:
        yield from _cpu(data)
        yield _operators(data)
    finally:
        torch.set_num_threads(threads)
    yield _memory()
    if torch.cuda.is_available():
        yield from _gpu()
    yield from _peers(data)


def _cpu(data: dict[str, torch.Tensor]) -> Iterator[Row]:
    for batch, width, counts in ((8, 8, (1, 8, 32)), (256, 256, (1, 8))):
        for replicas in counts:
            torch.set_num_threads(1)
            pair = ours(replicas, batch, width, "cpu", data), reference(batch, width, data)
            mine, theirs = compare(*pair, time.process_time)
            case = f"CPU time per seed-update, batch {batch}, width {width}, R={replicas}, 1 thread"
            yield row(case, 1e3 * mine / replicas, 1e3 * theirs, "ms")
            if batch == 256:
                torch.set_num_threads(2)
                mine, theirs = compare(*pair, time.perf_counter)
                case = f"wall time per seed-update, batch {batch}, width {width}, R={replicas}, 2 threads"
                yield row(case, 1e3 * mine / replicas, 1e3 * theirs, "ms")


def _operators(data: dict[str, torch.Tensor]) -> Row:
    """Operator calls per seed-update as the profiler sees them; those that an operator itself makes are not counted."""
    torch.set_num_threads(1)
    counts = []
    for run, seeds in ((ours(8, 8, 8, "cpu", data), 8), (reference(8, 8, data), 1)):
        run(64)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run(64)
        calls = [event for event in profile.events() if _operator(event) and not _operator(event.cpu_parent)]
        counts.append(len(calls) / 64 / seeds)
    return row("operator calls per seed-update, R=8", *counts, unit="calls")


def _operator(event: Any) -> bool:
    return event is not None and event.name.startswith("aten::")


MEMORY = """
import resource, sys, tempfile
from fenchel.cli.run import main
with tempfile.TemporaryDirectory() as out:
    words = "env=pointmaze-umaze algo=iql seed=0:8 task.transitions=1e6 steps=200 eval_every=200 final_episodes=10"
    code = main([*words.split(), f"out={out}/run"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
sys.exit(code)
"""


def _memory() -> Row:
    """A whole run in its own process: a million transitions, eight replicas, 256x256 networks."""
    child = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    return row("peak memory of a run, 1M transitions, R=8", float(child.stdout.split()[-1]), None, "MB", "")


def _gpu() -> Iterator[Row]:
    data = columns("cuda")
    for batch, width, counts in ((256, 256, (1, 8, 32)),):
        for replicas in counts:
            mine, theirs = compare(
                ours(replicas, batch, width, "cuda", data), reference(batch, width, data), time.perf_counter
            )
            case = f"wall time per seed-update, batch {batch}, width {width}, R={replicas}, GPU"
            yield row(case, 1e3 * mine / replicas, 1e3 * theirs, "ms")


def _peers(data: dict[str, torch.Tensor]) -> Iterator[Row]:
    """Other libraries, only where they are installed (d3rlpy pins another gymnasium, so it has its own environment)."""
    if find_spec("d3rlpy") is None:
        return
    import d3rlpy
    import numpy as np

    ends = np.arange(ROWS) % 1000 == 999
    arrays = {name: column.numpy() for name, column in data.items()}
    stored = d3rlpy.dataset.MDPDataset(arrays["obs"], arrays["action"], arrays["reward"], 0 * ends, ends)
    learner = d3rlpy.algos.IQLConfig(batch_size=256).create(device="cpu:0")
    learner.build_with_dataset(stored)
    torch.set_num_threads(1)

    def theirs(steps: int) -> None:
        for _ in range(steps):
            learner.update(stored.sample_transition_batch(256))

    for replicas in (1, 8):
        mine, peer = compare(ours(replicas, 256, 256, "cpu", data), theirs, time.process_time)
        case = f"CPU time per seed-update, batch 256, width 256, R={replicas}, 1 thread"
        yield row(case, 1e3 * mine / replicas, 1e3 * peer, "ms", "d3rlpy, 1 seed")
