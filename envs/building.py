"""Heating and cooling a building of three floors and nine zones: `building-9d`, nine objectives.

The thermal model is BEAR's (Zhang, Shi, Chen 2023), which SustainGym's BuildingEnv (Yeh et al. 2023) and C-MORL's
problem Building-9d use: a network of resistances and capacities. For zone i with temperature T_i,

    C_i dT_i/dt = sum_j U_ij (T_j - T_i) + U_i^E (T_E - T_i) + U_i^G (T_G - T_i) + s_i Q_GHI + P a_i + N_i q(T_mean, m)

    U_ij   walls within a floor, floor and ceiling in series between floors (area x transmittance, W/K)
    U_i^E  outer walls, windows, and on top the roof;  U_i^G  ground floor, half its area counted
    C_i    the zone's air, 1000 J/(kg K) x 1.225 kg/m^3 x volume;   P = 8 kW, a_i in [-1, 1] (below 0 cools)
    s_i    window area x 0.252 x 0.01;   q  sensible heat of a person at activity m = 120 W (EnergyPlus' polynomial)

is stepped exactly with inputs held for 15 minutes: T' = e^{A dt} T + A^{-1} (e^{A dt} - I) B u. Transmittances are
those of ASHRAE 90.1's medium office as the sources list them. Objectives, three for each floor, as in C-MORL's problem:

    comfort  1 - mean |T_i - 22| / 5      energy  1 - mean |a_i|      ramping  1 - | mean |a_i| - mean |previous a_i| |

Departures: a building of our own (three floors of 30 m x 30 m x 3 m, zones west, core and east) and smooth synthetic
days instead of weather files, T_E = mean + 6 cos(2 pi (hour - 15) / 24) with its mean uniform in [0, 25] C; people are
there from 8 to 18 o'clock and their heat is an input held over the step, not a part of A; means instead of sums, and
comfort in units of 5 K, so that all nine have one scale (C-MORL divides comfort and energy by 20); the previous powers
are observed, since ramping pays for them. An episode is one day, 96 steps. Its front is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from scipy.linalg import expm
from torch import Tensor

from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError
from fenchel.theory.fronts import check_reference
from fenchel.theory.rng import Streams

FLOORS, ROOMS = 3, 3  # zone number = 3 * floor + room; west, core, east
WIDTH, DEPTH, HEIGHT = 10.0, 30.0, 3.0  # of a zone, m; rooms stand side by side along their width
U = {"inner": 6.299, "floor": 3.839, "outer": 0.514, "roof": 0.228, "ceiling": 4.488, "ground": 0.319, "window": 2.615}
GLAZED, GROUND_WEIGHT, SOLAR = 0.4, 0.5, 0.252 * 0.01
POWER, PEOPLE, ACTIVITY, T_GROUND = 8000.0, 10.0, 120.0, 14.0
TARGET, COMFORT, SECONDS, MAX_STEPS = 22.0, 5.0, 900.0, 96
ZONES = FLOORS * ROOMS
NAMES = tuple(f"{what}_{floor}" for what in ("comfort", "energy", "ramping") for floor in ("bottom", "middle", "top"))
REFERENCE_POINT = (0.0,) * 9


def network() -> tuple[np.ndarray, ...]:
    """(U_ij (9, 9), U^E (9,), U^G (9,), windows (9,) m^2, C (9,)), from the geometry."""
    between, outside, ground = np.zeros((ZONES, ZONES)), np.zeros(ZONES), np.zeros(ZONES)
    windows, area = np.zeros(ZONES), WIDTH * DEPTH
    series = U["floor"] * U["ceiling"] / (U["floor"] + U["ceiling"])
    for floor in range(FLOORS):
        for room in range(ROOMS):
            i = ROOMS * floor + room
            facade = HEIGHT * (2 * WIDTH + DEPTH * (room != 1))
            windows[i] = GLAZED * facade
            outside[i] = U["window"] * windows[i] + U["outer"] * (facade - windows[i])
            outside[i] += U["roof"] * area * (floor == FLOORS - 1)
            ground[i] = U["ground"] * GROUND_WEIGHT * area * (floor == 0)
            if room + 1 < ROOMS:
                between[i, i + 1] = between[i + 1, i] = U["inner"] * HEIGHT * DEPTH
            if floor + 1 < FLOORS:
                between[i, i + ROOMS] = between[i + ROOMS, i] = series * area
    return between, outside, ground, windows, np.full(ZONES, 1000 * 1.225 * area * HEIGHT)


@cache
def discrete() -> tuple[Tensor, Tensor]:
    """(A_d (9, 9), B_d (9, 13)) for the inputs (T_E, T_G, Q_GHI, heat of a person, a), float32."""
    between, outside, ground, windows, capacity = network()
    A = (between - np.diag(between.sum(1) + outside + ground)) / capacity[:, None]
    inputs = [outside, ground, SOLAR * windows, np.full(ZONES, PEOPLE)]
    B = np.c_[np.stack(inputs, 1), POWER * np.eye(ZONES)] / capacity[:, None]
    A_d = expm(A * SECONDS)
    B_d = np.linalg.solve(A, (A_d - np.eye(ZONES)) @ B)
    return torch.as_tensor(A_d).float(), torch.as_tensor(B_d).float()


def person(T: Tensor, m: float = ACTIVITY) -> Tensor:
    """Sensible heat of one person in W at the mean temperature T in C and activity m in W (EnergyPlus)."""
    constant = 6.461927 + 0.946892 * m + 2.55737e-5 * m**2
    linear = 7.139322 - 0.0627909 * m + 5.89172e-5 * m**2
    return constant + linear * T + (-0.198550 + 9.40018e-4 * m - 1.49532e-6 * m**2) * T.square()


class Building:
    """A BatchedEnv. Observation (16,): (T - 22) / 5 of the zones, (T_E - 22) / 10, Q_GHI / 1000, cosine and sine of the
    time of day, and the floors' previous mean powers. Action (n, 9). Reward (n, 9), in the order of NAMES.
    """

    def __init__(self, n: int, *, device: torch.device | str = "cpu"):
        self.n, self.device, self.max_steps = n, torch.device(device), MAX_STEPS
        self.spec = Spec(ZONES + 7, Box((-1.0,) * ZONES, (1.0,) * ZONES), objectives=9)
        self.A, self.B = (matrix.to(self.device) for matrix in discrete())
        self.temperature = torch.full((n, ZONES), TARGET, device=device)
        self.outdoor = torch.zeros(n, device=device)  # the day's mean
        self.power = torch.zeros(n, FLOORS, device=device)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Zones uniform in [18, 26] C, midnight."""
        u = Streams(seeds.to(self.device)).uniform("building/start", (ZONES + 1,))
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self.temperature = torch.where(mask[:, None], 18 + 8 * u[:, :ZONES], self.temperature)
        self.outdoor = torch.where(mask, 25 * u[:, ZONES], self.outdoor)
        self.power = torch.where(mask[:, None], 0.0, self.power)
        self.t = torch.where(mask, 0, self.t)
        return self._obs()

    def step(self, action: Tensor) -> Step:
        a = action.to(self.temperature).clamp(-1, 1)
        outdoor, sun, there = self.weather()
        heat = there * person(self.temperature.mean(1))
        inputs = torch.cat([torch.stack([outdoor, torch.full_like(sun, T_GROUND), sun, heat], 1), a], 1)
        self.temperature = self.temperature @ self.A.T + inputs @ self.B.T
        error = (self.temperature - TARGET).abs().unflatten(1, (FLOORS, ROOMS)).mean(2)
        power = a.abs().unflatten(1, (FLOORS, ROOMS)).mean(2)
        reward = torch.cat([1 - error / COMFORT, 1 - power, 1 - (power - self.power).abs()], 1)
        self.power, self.t = power, self.t + 1
        over = self.t >= self.max_steps
        return Step(self._obs(), reward, torch.zeros_like(over), over, {})

    def weather(self) -> tuple[Tensor, Tensor, Tensor]:
        """(T_E in C, Q_GHI in W/m^2, people's presence 0 or 1) of the running step, each (n,)."""
        hour = (self.t * (SECONDS / 3600)) % 24
        outdoor = self.outdoor + 6 * torch.cos(2 * math.pi / 24 * (hour - 15))
        sun = 800 * torch.sin(math.pi / 12 * (hour - 6)).clamp(min=0)
        return outdoor, sun, ((hour >= 8) & (hour < 18)).to(outdoor)

    def _obs(self) -> Tensor:
        outdoor, sun, _ = self.weather()
        day = 2 * math.pi * self.t / (24 * 3600 / SECONDS)
        shared = torch.stack([(outdoor - TARGET) / 10, sun / 1000, day.cos(), day.sin()], 1)
        return torch.cat([(self.temperature - TARGET) / COMFORT, shared, self.power], 1)


def env_task(id: str, *, gamma: float = 0.99, reference_point: Sequence[float] = REFERENCE_POINT) -> Task:
    """gamma: the discount of the returns that are compared. reference_point: of the hypervolume."""
    if not 0 < gamma <= 1:
        raise UserError(f"task.gamma={gamma:g} is out of range; valid is a number from 0, excluded, to 1.")
    best = torch.full((1, 9), sum(gamma**t for t in range(MAX_STEPS)), dtype=torch.float64)
    facts = {"discount": gamma, "objectives": 9, "objective_names": NAMES}
    point = check_reference(best, reference_point, "task.reference_point")  # an objective pays at most 1 a step
    facts["reference_point"] = tuple(point.tolist())
    return Task(
        id,
        Building(1).spec,
        lambda n, seed=0, device="cpu": Building(n, device=device),
        max_steps=MAX_STEPS,
        metadata=facts,
    )
