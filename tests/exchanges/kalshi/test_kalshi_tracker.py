from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exchanges.kalshi.recovery import MAX_GAPS, STEP_NS, STEPS, WINDOW, Recovery
from exchanges.kalshi.tracker import BEHIND_IS_RESTART, MAX_SIDS, Finding, Tracker


def test_every_number_of_a_sid_in_turn_is_no_finding() -> None:
    tracker = Tracker()
    assert [tracker.observe(sid, seq) for seq in range(1, 50) for sid in (1, 2)] == [None] * 98


def test_a_hole_names_what_is_missing_once() -> None:
    tracker = Tracker()
    tracker.observe(1, 1)
    assert tracker.observe(1, 5) == Finding("gap", 2, 4)
    assert tracker.observe(1, 6) is None


def test_a_subscription_begins_with_1() -> None:
    assert Tracker().observe(3, 4) == Finding("gap", 1, 3)


def test_a_number_that_has_passed_is_a_duplicate_until_it_is_a_restart() -> None:
    tracker = Tracker()
    for seq in range(1, 100):
        tracker.observe(1, seq)
    found = [tracker.observe(1, seq) for seq in range(1, 1 + BEHIND_IS_RESTART)]
    assert found == [Finding("duplicate")] * (BEHIND_IS_RESTART - 1) + [Finding("restart")]
    assert tracker.observe(1, 1 + BEHIND_IS_RESTART) is None


def test_duplicates_between_good_frames_are_never_a_restart() -> None:
    tracker = Tracker()
    for seq in range(1, 100):
        assert tracker.observe(1, seq) is None
        assert tracker.observe(1, seq) == Finding("duplicate")


def test_a_forgotten_sid_starts_again() -> None:
    tracker = Tracker()
    tracker.observe(1, 1)
    tracker.forget(1)
    assert tracker.observe(1, 1) is None


def test_the_number_of_sids_is_bounded() -> None:
    tracker = Tracker()
    for sid in range(MAX_SIDS + 100):
        tracker.observe(sid, 5)
    assert len(tracker._last) == MAX_SIDS


def test_filtered_holes_are_nothing_and_going_back_is_a_restart() -> None:
    tracker = Tracker(filtered=True)
    assert tracker.observe(1, 2_423_548) is None
    assert tracker.observe(1, 2_423_600) is None
    assert tracker.observe(1, 2_423_600) == Finding("duplicate")
    assert tracker.observe(1, 22) == Finding("restart")
    assert tracker.observe(1, 30) is None


@given(st.sets(st.integers(1, 60)), st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=60))
def test_gaps_are_exactly_the_numbers_lost(lost: set[int], sids: list[int]) -> None:
    """S1: per sid, whatever is interleaved. `lost` are positions in the whole run of frames."""
    sent: dict[int, int] = {}
    gone: set[tuple[int, int]] = set()
    reported: set[tuple[int, int]] = set()
    last_seen: dict[int, int] = {}
    tracker = Tracker()
    for position, sid in enumerate(sids, 1):
        seq = sent[sid] = sent.get(sid, 0) + 1
        if position in lost:
            gone.add((sid, seq))
            continue
        last_seen[sid] = seq
        if finding := tracker.observe(sid, seq):
            assert finding.kind == "gap"
            reported |= {(sid, n) for n in range(finding.first_missing, finding.last_missing + 1)}
    # what is lost at the very end of a sid cannot be known yet
    assert reported == {(sid, seq) for sid, seq in gone if seq < last_seen.get(sid, 0)}


@given(st.lists(st.integers(1, 30), max_size=60))
def test_filtered_finds_exactly_the_descents(numbers: list[int]) -> None:
    tracker = Tracker(filtered=True)
    last = 0
    for seq in numbers:
        finding = tracker.observe(1, seq)
        assert (finding.kind if finding else "") == ("" if seq > last else "duplicate" if seq == last else "restart")
        last = seq


# -- the ladder ----------------------------------------------------------------------------------------------------------


def test_books_are_asked_for_once_within_the_window() -> None:
    recovery = Recovery()
    symbols = [f"M{n}" for n in range(WINDOW + 5)]
    recovery.begin(symbols, 0)
    assert recovery.ask() == symbols[:WINDOW]
    assert recovery.ask() == []
    assert not recovery.arrived("M0", 1)
    assert recovery.ask() == [f"M{WINDOW}"]


def test_recovered_when_the_last_snapshot_came() -> None:
    recovery = Recovery()
    recovery.begin(["A", "B"], 0)
    assert not recovery.arrived("A", 1)
    assert not recovery.arrived("stranger", 1)
    assert recovery.arrived("B", 1)
    assert (recovery.step, len(recovery)) == ("", 0)
    assert not recovery.arrived("B", 2)


def test_each_step_has_its_time_from_the_last_progress() -> None:
    recovery = Recovery()
    recovery.begin(["A", "B"], 0)
    recovery.arrived("A", 100)
    assert not recovery.overdue(STEP_NS)
    assert recovery.overdue(STEP_NS + 100)
    assert [recovery.escalate(0) for _ in range(4)] == [*STEPS[1:], "reconnect"]


def test_a_new_gap_means_every_book_again() -> None:
    recovery = Recovery()
    recovery.begin(["A", "B"], 0)
    recovery.ask()
    recovery.arrived("A", 1)
    recovery.begin(["A", "B"], 2)
    assert recovery.ask() == ["B", "A"]
    assert recovery.step == "get_snapshot"


def test_a_subscription_that_goes_on_losing_is_overdue() -> None:
    recovery = Recovery()
    for n in range(MAX_GAPS + 1):
        assert not recovery.overdue(n)
        recovery.begin(["A", "B"], n)
    assert recovery.overdue(MAX_GAPS)
    recovery.arrived("A", MAX_GAPS)
    assert recovery.overdue(MAX_GAPS)


def test_nothing_to_recover_is_no_recovery() -> None:
    recovery = Recovery()
    recovery.begin([], 0)
    assert recovery.step == ""
    assert not recovery.overdue(10**18)
    assert not recovery.drop(["A"])
