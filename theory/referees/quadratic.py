"""Linear dynamics with quadratic costs: what offline and soft actor-critics settle at, in closed form.

    s' = A s + B a,   r = - s' Q s - a' R a,   policies a = K s

Every Q-function here is a quadratic form and every actor's optimum a linear law, so that a method is a fixed point in
the gain K alone. NumPy and SciPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass(frozen=True)
class Quadratic:
    """A (n, n), B (n, m), Q (n, n), R (m, m); gamma in [0, 1)."""

    A: np.ndarray
    B: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    gamma: float

    def cost(self, K: np.ndarray, extra: np.ndarray | float = 0.0) -> np.ndarray:
        """W with s' W s = sum of gamma^t (s_t' (Q + extra) s_t + a_t' R a_t) under a = K s."""
        closed = np.sqrt(self.gamma) * (self.A + self.B @ K)
        return scipy.linalg.solve_discrete_lyapunov(closed.T, self.Q + extra + K.T @ self.R @ K)

    def optimum(self) -> np.ndarray:
        """The gain of the least cost, by the Riccati equation."""
        A, B = np.sqrt(self.gamma) * self.A, np.sqrt(self.gamma) * self.B
        P = scipy.linalg.solve_discrete_are(A, B, self.Q, self.R)
        return -np.linalg.solve(self.R + B.T @ P @ B, B.T @ P @ A)

    def curvature(self, W: np.ndarray) -> np.ndarray:
        """H of - Q(s, a) = a' H a + ..., where s' costs s'' W s'."""
        return self.R + self.gamma * self.B.T @ W @ self.B

    def values(self, W: np.ndarray, constant: float, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """(N,): Q of rows (N, n), (N, m), where s' costs s'' W s', plus a constant."""
        following = state @ self.A.T + action @ self.B.T
        costs = ((state, self.Q), (action, self.R), (following, self.gamma * W))
        return constant - sum(np.einsum("ni,ij,nj->n", x, M, x) for x, M in costs)


@dataclass(frozen=True)
class Gain:
    """K (m, n), and the critic as the arguments W, constant of `Quadratic.values`; temperature of a soft policy."""

    K: np.ndarray
    W: np.ndarray
    constant: float = 0.0
    temperature: float = 0.0


def pulled(
    problem: Quadratic, behaviour: np.ndarray, variance: float, state: np.ndarray, *, scale: float = 1.0,
    policy_penalty: float = 1.0, critic_penalty: float = 0.0,
) -> Gain:  # fmt: skip
    """TD3+BC (scale alpha, penalties 1 and 0; one action dimension, where mean and sum agree) and ReBRAC (scale 1).

        K:  max over a of E scale Q(s, a) / mean|Q(s, K s)| - policy_penalty |a - a_data|^2
        Q:  r + gamma (Q(s', K s') - critic_penalty |K s' - a'_data|^2)

    The data's actions are behaviour @ s plus noise of mean 0 and this variance, summed over dimensions; the mean of |Q|
    runs over the states (N, n) of the data. Without noise on target actions.
    """
    K = behaviour
    for _ in range(2000):
        off = K - behaviour
        W = problem.cost(K, critic_penalty * off.T @ off)
        constant = -problem.gamma * critic_penalty * variance / (1 - problem.gamma)
        weight = scale / np.abs(problem.values(W, constant, state, state @ K.T)).mean()
        left = weight * problem.curvature(W) + policy_penalty * np.eye(len(K))
        following = np.linalg.solve(
            left, policy_penalty * behaviour - weight * problem.gamma * problem.B.T @ W @ problem.A
        )
        if np.abs(following - K).max() < 1e-12:
            return Gain(K, W, constant)
        K = (K + following) / 2
    raise RuntimeError("no fixed point of the gain")


def soft(problem: Quadratic, entropy: float) -> Gain:
    """SAC with a learned temperature: the optimal gain, and the temperature whose Gaussian has this entropy in nats.

    pi proportional to exp(Q / temperature) has covariance temperature H^-1 / 2. One action dimension; bounds on actions
    that the policy's mass comes near are not in it.
    """
    K = problem.optimum()
    W = problem.cost(K)
    H = float(problem.curvature(W)[0, 0])
    variance = np.exp(2 * entropy) / (2 * np.pi * np.e)
    temperature = 2 * H * variance
    # at s' the action's spread costs H variance, and its entropy pays temperature * entropy
    constant = problem.gamma * (temperature * entropy - H * variance) / (1 - problem.gamma)
    return Gain(K, W, constant, temperature)
