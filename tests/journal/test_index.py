"""What a handle remembers of an epoch: enough to find every entry, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from journal.index import MARKS, Trail, split_id

keys = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2)), unique=True, min_size=1, max_size=200)


def trail_of(keys: list[tuple[int, int]], first: int = 1, every: int = 3) -> Trail:
    trail = Trail(whole=True)
    trail._every = every
    for sequence, key in enumerate(keys, first):
        trail.note(key, sequence)
    return trail


@given(keys)
def test_an_entry_is_never_before_the_place_to_look(keys: list[tuple[int, int]]) -> None:
    trail = trail_of(keys)
    assert all(trail.look_from(key) <= sequence for sequence, key in enumerate(keys, 1))
    assert trail.frontier == max(keys)
    assert trail.ordered == (keys == sorted(keys))


@given(keys, st.integers(0, 200))
def test_what_is_found_later_of_the_past_goes_before(keys: list[tuple[int, int]], at: int) -> None:
    trail = trail_of(keys[at:], first=at + 1)
    trail.precede(trail_of(keys[:at]))
    assert all(trail.look_from(key) <= sequence for sequence, key in enumerate(keys, 1))
    assert trail.frontier == max(keys)
    assert not trail.ordered or keys == sorted(keys)


def test_marks_are_few_and_close_enough() -> None:
    trail = Trail(whole=True)
    for n in range(300_000):
        trail.note((n, 0), n + 1)
    assert len(trail.marks) <= MARKS
    assert all(n + 1 - trail.look_from((n, 0)) <= 20_000 for n in range(0, 300_000, 997))


def test_noting_twice_changes_nothing() -> None:
    trail = trail_of([(1, 0), (2, 0), (3, 0)])
    for sequence, key in enumerate([(1, 0), (2, 0), (3, 0)], 1):
        trail.note(key, sequence)
    assert trail.ordered


def test_ids_of_others_are_not_ours() -> None:
    assert split_id(b"kalshi.00ff.12.3") == (b"kalshi.00ff", (12, 3))
    for foreign in (b"", b"x", b"a.b", b"a.b.c.d", b"1.2"):
        assert split_id(foreign) is None
