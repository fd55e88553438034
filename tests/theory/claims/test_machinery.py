"""Patterns, rows, exit codes and messages of `verify`, and the reducer of failures."""

import json
import sys

import pytest
import torch

from fenchel.cli.verify import main, tables
from fenchel.errors import UserError
from fenchel.theory.claims.claim import Claim, ClaimReport, Twin
from fenchel.theory.claims.problem import leaves, rebuild, source_code, take
from fenchel.theory.claims.shrink import is_distribution, quantise, shrink
from fenchel.theory.claims.verify import resolve, run, select, smallest
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng

KEYS = "claim paper kind source holds expected as_expected twin_fails residual tolerance seconds".split()
MODULE = __name__


def _numbers(rng, n):
    return dict(x=rng.normal(n, 3), shared=torch.tensor(2.0))


def _squares(p):
    return ClaimReport(-p["x"].square().sum(-1), 0.0)


def _claim(check=_squares, **changes) -> Claim:
    settings = dict(paper=1, kind="identity", statement="squares are not negative", problems=_numbers, check=check, n=8)
    return Claim(**settings | changes)


TRUE = _claim()
FALSE = _claim(lambda p: ClaimReport(p["x"].sum(-1) - 1, 0.0), statement="x_1 + x_2 + x_3 <= 1", n=64)
BROKEN = _claim(lambda p: ClaimReport(p["missing"]))
WEAK = _claim(twin=Twin("nothing at all"))


def test_a_row_has_the_contracted_keys():
    row = run("a.b", TRUE)
    assert set(KEYS) <= row.keys()
    assert row["holds"]
    assert row["as_expected"]
    assert row["twin_fails"] is None
    assert row["n"] == 8


@pytest.mark.parametrize(("claim", "part"), [(FALSE, "problem"), (BROKEN, "error")])
def test_a_claim_that_fails_or_raises_is_not_as_expected_and_says_why(claim, part):
    row = run("a.b", claim)
    assert not row["holds"]
    assert not row["as_expected"]
    assert row[part]


def test_a_large_batch_runs_in_blocks_of_fresh_problems():
    sizes, seen = [], []

    def problems(rng, n):
        sizes.append(n)
        return dict(x=rng.normal(n, 3))

    def check(p):
        seen.append(p["x"])
        return _squares(p)

    row = run("a.b", _claim(check, problems=problems), batch=20)
    assert sizes == [8, 8, 4]
    assert row["n"] == 20
    assert torch.cat(seen).unique().numel() == 60


def test_the_worst_block_is_the_one_that_is_shown():
    def check(p):  # fails in the second block only
        return ClaimReport((p["x"].sum(-1) == rare).double() - 0.5, 0.0)

    rare = Rng(0, "claim/8").normal(8, 3).sum(-1).max()
    row = run("a.b", _claim(check), batch=24)
    assert row["violations"] == 1
    assert row["residual"] == 0.5


def test_nan_is_a_violation():
    assert not run("a.b", _claim(lambda p: ClaimReport(p["x"][:, 0] * torch.nan)))["holds"]


def test_a_twin_that_holds_is_not_as_expected():
    assert run("a.b", WEAK)["as_expected"]
    row = run("a.b", WEAK, twins=True)
    assert row["twin_fails"] is False
    assert not row["as_expected"]


def test_an_expected_failure_must_fail_on_random_and_stored_problems():
    stored = dict(x=torch.ones(1, 3))
    assert run("a.b", _claim(FALSE.check, n=64, expected=False, counterexample=stored))["as_expected"]
    assert not run("a.b", _claim(FALSE.check, n=64, expected=False, counterexample=dict(x=-stored["x"])))["as_expected"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(kind="theorem"), "needs a twin"),
        (dict(expected=False), "give a counterexample"),
        (dict(kind="theorm"), "Did you mean 'theorem'?"),
        (dict(source="blog"), "valid are abstract, derived, text"),
    ],
)
def test_an_incomplete_claim_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        _claim(**changes)


NAMES = ["kl.a", "kl.b", "games.a"]


def test_patterns_pick_names_in_table_order():
    assert select(["*.a"], NAMES) == ["kl.a", "games.a"]
    assert select(["games", "kl.b"], NAMES) == ["kl.b", "games.a"]


def test_a_pattern_without_a_match_is_refused_with_a_hint():
    with pytest.raises(
        UserError, match=r"claim=game\.\* matches nothing; the groups are games, kl\. Did you mean 'games"
    ):
        select(["game.*"], NAMES)


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_json_and_ends_with_0(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert main(["kl_regularised.variational", "--twins", "--json", str(file), "--batch", "5"]) == 0
    (row,) = json.loads(file.read_text())
    assert row["n"] == 5
    assert row["twin_fails"] is True
    assert "1 of 1 claims as expected" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "status"), [("TRUE", 0), ("FALSE", 1), ("BROKEN", 1)])
def test_a_users_claim(name, status, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "users_claims", sys.modules[MODULE])
    assert main(["--user", f"users_claims:{name}"]) == status
    if name == "FALSE":
        assert "a small one:" in capsys.readouterr().out


def test_one_failure_among_several_claims_ends_with_1(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "users_claims", sys.modules[MODULE])
    assert main(["--user", "users_claims:FALSE", "--user", "users_claims:TRUE"]) == 1
    assert "1 of 2 claims as expected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["kl_regularized.*"], "Did you mean 'kl_regularised.*'?"),
        (["--batch", "0"], "batch=0 is not a number of problems"),
        (["--json", "nowhere/rows.json"], "the folder nowhere does not exist"),
        (["--device", "cuda:99"], "device=cuda:99 cannot be used here"),
        (["--user", "no_such_module:CLAIM"], "there is no module no_such_module"),
        (["--user", "fenchel.errors:UserError"], "is a type, not a fenchel.theory.claims.claim.Claim"),
        (["--user", "fenchel.errors:Nothing"], "has no attribute Nothing"),
    ],
)
def test_refused_command_lines_end_with_2_and_one_sentence(line, sentence, capsys):
    assert main(line) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_list_names_every_claim(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in tables())


# -- the reducer ---------------------------------------------------------------------------------------------------


def _uniform_greedy(p) -> ClaimReport:
    """How much worse than optimal it is to be greedy on the value of the uniform policy (paper 24 needs trees)."""
    mdp: TabularMDP = p["mdp"]
    n, S, A = mdp.mask.shape
    uniform = mdp.r.new_full((n, S, A), 1 / A)
    eye = torch.eye(S, dtype=mdp.dtype)

    def value(policy):
        return torch.linalg.solve(eye - mdp.policy_kernel(policy), mdp.policy_reward(policy))

    def q(v):
        return mdp.r + torch.einsum("nsat,nt->nsa", mdp.kernel, v)

    def greedy(v):
        return torch.nn.functional.one_hot(q(v).argmax(-1), A).to(mdp.dtype)

    chosen = best = greedy(value(uniform))
    for _ in range(20):
        best = greedy(value(best))
    return ClaimReport((value(best) - value(chosen)).amax(-1), 1e-9)


def _mdps(rng, n, S=5, A=3):
    P = rng.simplex(n, S, A, S)
    return dict(mdp=TabularMDP(P, rng.normal(n, S, A), rng.simplex(n, S), torch.full((n, S, A), 0.9).double()))


PLANTED = _claim(_uniform_greedy, problems=_mdps, statement="greedy on the uniform policy's Q is optimal", n=32)


def test_a_planted_false_claim_is_reduced_to_a_tiny_readable_mdp():
    problems = PLANTED.draw()
    problem, report = shrink(PLANTED, problems, PLANTED.check(problems))
    mdp = problem["mdp"]
    assert not report.holds
    assert mdp.num_states <= 2
    assert mdp.num_actions == 2
    assert torch.equal(mdp.r, mdp.r.round())
    assert mdp.r.abs().max() <= 3
    assert ((12 * 5 * mdp.P).round() - 12 * 5 * mdp.P).abs().max() < 1e-9  # fractions with denominators up to 5


def test_the_printed_problem_can_be_pasted():
    problems = PLANTED.draw()
    text = smallest(PLANTED, problems, PLANTED.check(problems))
    scope: dict = {}
    exec(text, scope)  # our own text
    assert not PLANTED.check(scope["problem"]).holds


def test_the_reducer_stays_inside_the_assumptions():
    inside = _claim(FALSE.check, n=64, assume=lambda p: (p["x"] != 0).all(-1) & (p["x"].shape[-1] == 3))
    problems = inside.draw()
    problem, _ = shrink(inside, problems, inside.check(problems))
    assert problem["x"].shape == (1, 3)
    assert (problem["x"] != 0).all()


def test_shared_axes_lose_the_same_index():
    def check(p):  # fails because of response 2 alone
        return ClaimReport((p["ref"] * p["mark"]).sum(-1) - 1e-3, 0.0)

    mark = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).double().expand(5, 4)
    problems = dict(ref=Rng(0).simplex(5, 4), mark=mark)
    problem, _ = shrink(_claim(check), problems, check(problems))
    assert problem["ref"].tolist() == [[1.0]]
    assert problem["mark"].tolist() == [[1.0]]


def test_full_support_is_kept_and_partial_support_is_free():
    check = lambda p: ClaimReport(p["full"].amax(-1) + p["some"].amax(-1) - 0.1, 0.0)  # noqa: E731
    some = Rng(1).simplex(4, 3) * torch.tensor([1.0, 1.0, 0.0])
    problems = dict(full=Rng(0).simplex(4, 3), some=some / some.sum(-1, keepdim=True), mark=torch.ones(4, 3).double())
    fixed = _claim(check, assume=lambda p: torch.tensor([p["mark"].shape[-1] == 3]))
    problem, _ = shrink(fixed, problems, check(problems))
    assert (problem["full"] > 0).all()
    assert sorted(problem["some"][0].tolist()) == [0.0, 0.0, 1.0]


def test_quantise_gives_distributions_with_that_denominator():
    p = Rng(3).simplex(100, 5)
    for denominator in (1, 2, 7):
        q = quantise(p, denominator)
        assert is_distribution(q)
        assert ((q * denominator).round() - q * denominator).abs().max() < 1e-12
        assert (q - p).abs().max() <= 1 / denominator


def test_take_and_rebuild_keep_the_tree():
    problem = dict(a=torch.arange(6.0).reshape(3, 2), b=(torch.arange(3), 5), c=torch.tensor(1.0), d="name")
    one = take(problem, 1)
    assert one["a"].tolist() == [[2.0, 3.0]]
    assert one["b"][0].tolist() == [1]
    assert one["b"][1] == 5
    again = rebuild(problem, leaves(problem))
    assert again["d"] == "name"
    assert torch.equal(again["a"], problem["a"])
    assert "a=t([[2.0, 3.0]]), b=(torch.tensor([1]), 5,)" in source_code(one)


def test_resolve_reads_absolute_paths():
    assert resolve("fenchel.theory.claims.kl_regularised:VARIATIONAL").paper == 4


def test_every_layer_may_have_claims(monkeypatch):
    import fenchel.algorithms.claims as layer

    monkeypatch.setitem(layer.CLAIMS, "offline.example", "offline:EXAMPLE")
    assert tables()["offline.example"] == "fenchel.algorithms.claims.offline:EXAMPLE"
    monkeypatch.setitem(layer.CLAIMS, "kl_regularised.variational", "offline:EXAMPLE")
    with pytest.raises(UserError, match="stands in two layers' tables"):
        tables()
