"""docs/datasets.md: rows round-trip, and the page in the repository names sets that exist."""

from fenchel.envs import DATASETS
from fenchel.envs import statistics as st


def test_page_round_trips_and_keeps_other_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    page = tmp_path / "datasets.md"
    monkeypatch.setattr(st, "row", lambda id: [id, *(["1"] * (len(st.COLUMNS) - 1))])
    st.write(["pendulum-expert"], page)
    st.write(["pointmaze-umaze"], page)
    assert list(st.read(page)) == ["pointmaze-umaze", "pendulum-expert"]
    assert st.page(list(st.read(page).values())) == page.read_text()


def test_rows_hold_what_the_data_say(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    original = st.make
    monkeypatch.setattr(st, "make", lambda id: original(id, transitions=400))
    cells = dict(zip(st.COLUMNS, st.row("pendulum-expert"), strict=True))
    assert (cells["rows"], cells["episodes"], cells["terminal"]) == ("400", "2", "0")
    data = original("pendulum-expert", transitions=400).dataset()
    assert cells["return mean"] == f"{float(data.episode_returns().mean()):.1f}"
    assert cells["hash"] == data.hash


def test_the_page_has_only_sets_that_exist_in_their_order():
    rows = list(st.read(st.PAGE))
    assert rows == [id for id in DATASETS if id in rows]
    assert {"pointmaze-umaze", "pendulum-mixed", "hopper-medium"} <= set(rows)
