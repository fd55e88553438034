"""What a data set says about itself is checked before anybody learns from it.

`audit` reads the columns once and returns findings. A *fault* means that learning from the data would be wrong (the
caller refuses it); a *warning* is worth a line on the screen. Faults that released data sets have had, each of which
the tests plant: time-outs recorded as terminals, episodes glued together, flags one row early or late, rewards out of
the declared range, numbers that are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.budgets import UNITS

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset

JUMP = 20.0  # a step this many times larger than the 99.9 % quantile of all steps is no motion of the environment


@dataclass(frozen=True)
class Finding:
    level: str  # "fault" or "warning"
    kind: str  # "nan", "overlap", "stitch", "boundary", "reward", "timeout", "end", "action", "constant", "cost"
    message: str
    rows: tuple[int, ...] = ()  # the first few row numbers

    def __str__(self) -> str:
        where = f" (rows {', '.join(map(str, self.rows))}, ...)" if self.rows else ""
        return f"{self.message}{where}"


def refuse(name: str, findings: list[Finding]) -> None:
    """Raises UserError with the first fault, if there is one."""
    faults = [f for f in findings if f.level == "fault"]
    if faults:
        more = f" and {len(faults) - 1} further faults" if len(faults) > 1 else ""
        raise UserError(f"data set {name} is refused: {faults[0]}{more}; repair it or pass check=False.")


def audit(data: OfflineDataset) -> list[Finding]:
    """All findings of the checks below, in a fixed order; O(rows) with a few passes over the columns."""
    found = not_finite(data)
    if found:  # comparisons below mean nothing with NaN in the columns
        return found
    found = overlap(data) + continuity(data) + rewards(data) + costs(data) + lengths(data) + actions(data)
    return [f for f in found if f is not None]


def not_finite(data: OfflineDataset) -> list[Finding]:
    found = []
    for name, column in data.columns().items():
        if column.is_floating_point():
            bad = ~torch.isfinite(column.flatten(1) if column.dim() > 1 else column[:, None]).all(-1)
            if bool(bad.any()):
                found.append(_finding("fault", "nan", f"{_count(bad)} rows of {name} are not finite", bad))
    return found


def overlap(data: OfflineDataset) -> list[Finding]:
    both = data.terminal & data.timeout
    if not bool(both.any()):
        return []
    text = f"{_count(both)} rows are both terminal and time-out: a row ends the problem or stops watching it, not both"
    return [_finding("fault", "overlap", text, both)]


def continuity(data: OfflineDataset) -> list[Finding]:
    """Inside an episode the successor is the next row's observation; across a boundary it is not."""
    n = len(data)
    if n < 2:
        return []
    end = data.ends
    same = (data.next_obs[:-1] == data.obs[1:]).all(-1)
    torn = ~same & ~end[:-1]
    found = []
    if bool(torn.any()):
        beside = torch.zeros_like(torn)
        beside[1:] |= end[:-2]
        beside[:-1] |= end[1:-1]
        if _count(torn & beside) * 2 > _count(torn):
            text = f"the episode flags are off by one: {_count(torn)} episodes break one row beside their flag"
            found.append(_finding("fault", "boundary", text, torn))
        else:
            text = f"{_count(torn)} rows inside an episode do not lead to the next row: episodes were stitched"
            found.append(_finding("fault", "stitch", text, torn))
    found += _running_on(data, same & end[:-1])
    if not found and not data.meta.get("jumps"):
        found += _jumps(data)
    return found


def _running_on(data: OfflineDataset, runs_on: Tensor) -> list[Finding]:
    """End flags after which the same trajectory goes on: late resets of vector environments, or flags set early.

    Discrete observations may coincide with the next start by chance, so they are only mentioned."""
    ends = _count(data.ends[:-1])
    if _count(runs_on) * 2 <= ends or ends == 0:
        return []
    whole = bool((data.obs[:1000] == data.obs[:1000].round()).all())
    terminal = bool((runs_on & data.terminal[:-1]).any())
    level = "fault" if not whole and terminal else "warning"
    text = f"after {_count(runs_on)} of {ends} episode ends the next row goes on from the same state"
    text += ": the flags are off by one" if level == "fault" else ""
    return [_finding(level, "boundary", text, runs_on)]


def _jumps(data: OfflineDataset) -> list[Finding]:
    """Where successors were derived from the following row, a glued episode shows only as a huge step."""
    step = (data.next_obs - data.obs).float().norm(dim=-1)
    sample = step if len(step) <= 1_000_000 else step[:: len(step) // 1_000_000 + 1]
    usual = float(torch.quantile(sample, 0.999))
    far = step > JUMP * max(usual, 1e-8)
    if usual == 0 or not bool(far.any()):
        return []
    level = "fault" if data.meta.get("derived_next_obs") else "warning"
    text = f"{_count(far)} steps are more than {JUMP:.0f} times longer than 99.9 % of all: episodes may be stitched"
    return [_finding(level, "stitch", text, far)]


def rewards(data: OfflineDataset) -> list[Finding]:
    reward = data.reward
    declared = data.meta.get("reward_range")
    if declared is not None:
        low, high = declared
        slack = 1e-4 * max(1.0, abs(low), abs(high))
        out = (reward < low - slack) | (reward > high + slack)
        out = out.flatten(1).any(-1) if out.dim() > 1 else out
        if bool(out.any()):
            text = f"{_count(out)} rewards lie outside the declared range [{low:g}, {high:g}]"
            return [_finding("fault", "reward", text, out)]
    silent = len(reward) > 1 and bool((reward == reward[:1]).all()) and not bool(data.terminal.any())
    if silent and not data.meta.get("goals"):
        return [Finding("warning", "constant", "all rewards are equal and no row is terminal: nothing can be learned")]
    return []


def costs(data: OfflineDataset) -> list[Finding]:
    """A declared budget (meta "budget_kind", one of `UNITS`) needs a column cost: one number per row, at least 0."""
    kind, cost = data.meta.get("budget_kind"), data.extras.get("cost")
    if kind is not None and kind not in UNITS:
        return [Finding("fault", "cost", f"budget_kind={kind} is no unit of budgets; valid are {', '.join(UNITS)}")]
    if cost is None:
        return [] if kind is None else [Finding("fault", "cost", "a budget is declared, and there is no column cost")]
    if cost.dim() != 1:
        return [Finding("fault", "cost", f"column cost must have shape (rows,), and it has {tuple(cost.shape)}")]
    if bool((cost < 0).any()):
        return [_finding("fault", "cost", f"{_count(cost < 0)} costs are negative", cost < 0)]
    return []


def lengths(data: OfflineDataset) -> list[Finding]:
    """Episodes that end exactly at the step limit ended because of it."""
    length = data.episode_ends - data.episode_starts
    terminal = data.terminal[data.episode_ends - 1]
    limit: Any = data.meta.get("max_steps")
    found = []
    if limit is not None and bool((length > limit).any()):
        rows = data.episode_starts[length > limit]
        text = f"{len(rows)} episodes are longer than the limit of {limit} steps: an end flag is missing"
        found.append(Finding("fault", "timeout", text, tuple(rows[:5].tolist())))
    longest = int(length.max()) if limit is None else int(limit)
    at_limit = (length == longest) & terminal
    k = _count(at_limit)
    if limit is None:  # undeclared: a spike at the greatest length, which no other length comes near
        others = torch.bincount(length[length < longest], minlength=1)
        suspicious = longest >= 10 and k >= 3 and k > 4 * int(others.max())
    else:
        suspicious = k >= 2 and longest > 1 and k * 20 >= len(length)
    if suspicious:
        rows = data.episode_ends[at_limit] - 1
        level = "fault" if limit is not None else "warning"
        text = f"{k} of {len(length)} episodes end as terminal exactly after {longest} steps"
        text += ": a time-out was recorded as terminal"
        found.append(Finding(level, "timeout", text, tuple(rows[:5].tolist())))
    return found


def actions(data: OfflineDataset) -> list[Finding]:
    box = data.meta.get("action_range")
    if box is None or not data.action.is_floating_point():
        return []
    low, high = (torch.tensor(b, dtype=data.action.dtype, device=data.action.device) for b in box)
    out = ((data.action < low - 1e-4) | (data.action > high + 1e-4)).any(-1)
    if not bool(out.any()):
        return []
    return [_finding("warning", "action", f"{_count(out)} actions lie outside the action box", out)]


def _count(mask: Tensor) -> int:
    return int(mask.sum())


def _finding(level: str, kind: str, text: str, mask: Tensor) -> Finding:
    return Finding(level, kind, text, tuple(mask.nonzero()[:5, 0].tolist()))
