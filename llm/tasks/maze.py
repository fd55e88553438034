"""Maze moves: the rows of a grid -> moves from S to G. The difficulty is the side of the square grid.

`S.#/..#/#.G=` -> `DRDR`. Cells are free (.) or walls (#); moves are U, D, L, R. Any walk over free cells that ends on G
within `max_answer` is right; the worked solution is a shortest one, the first in the order D, L, R, U.
"""

from __future__ import annotations

from collections import deque

from fenchel.llm.tasks.task import Draws, Problem, TokenTask

MOVES = {"D": (1, 0), "L": (0, -1), "R": (0, 1), "U": (-1, 0)}
WALLS = 4  # one cell in so many
Cell = tuple[int, int]


class Maze(TokenTask):
    """The shortest way has at least 2 and at most 2 * difficulty moves (exactly 2 where enumerable)."""

    TITLE = "moves through a maze"
    DRAWS = 80
    SFT_STEPS = 150
    SYMBOLS = ".#SG/=DLRU"
    LEVELS = (3, 4, 8)
    ENUMERABLE = 3
    ENUMERABLE_SYMBOLS = SYMBOLS

    @property
    def max_prompt(self) -> int:
        return self.difficulty * (self.difficulty + 1)

    @property
    def max_answer(self) -> int:
        return 3 if self.enumerable else 2 * self.difficulty + 1

    def problem(self, draws: Draws) -> Problem | None:
        side = self.difficulty
        cells = [["#" if draws.below(WALLS) == 0 else "." for _ in range(side)] for _ in range(side)]
        start, goal = ((draws.below(side), draws.below(side)) for _ in range(2))
        cells[start[0]][start[1]], cells[goal[0]][goal[1]] = "S", "G"
        grid = tuple("".join(row) for row in cells)
        way = shortest(grid, start, goal)
        if way is None or not 2 <= len(way) < self.max_answer:
            return None
        return Problem(f"{'/'.join(grid)}=", way, (grid, start, goal))

    def right(self, problem: Problem, answer: str) -> bool:
        grid, cell, goal = problem.facts
        for move in answer:
            step = move in MOVES and walk(grid, cell, move)
            if not step:
                return False
            cell = step
        return cell == goal


def walk(grid: tuple[str, ...], cell: Cell, move: str) -> Cell | None:
    """The next cell; None when it is a wall or outside."""
    row, column = cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]
    inside = 0 <= row < len(grid) and 0 <= column < len(grid[0])
    return (row, column) if inside and grid[row][column] != "#" else None


def shortest(grid: tuple[str, ...], start: Cell, goal: Cell) -> str | None:
    """A shortest way by breadth-first search; None when there is none."""
    ways, queue = {start: ""}, deque([start])
    while queue:
        cell = queue.popleft()
        if cell == goal:
            return ways[cell]
        for move in MOVES:
            following = walk(grid, cell, move)
            if following is not None and following not in ways:
                ways[following] = ways[cell] + move
                queue.append(following)
    return None
