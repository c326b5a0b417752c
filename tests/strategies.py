"""Any entry that the journal can hold, of every kind, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from journal.entry import Book, Change, Control, Delta, Entry, Event, Gap, Lifecycle, Ticker, Trade, Unparsed

i64 = st.integers(-(2**63), 2**63 - 1)
u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
u16 = st.integers(0, 2**16 - 1)
u8 = st.integers(0, 255)
i8 = st.integers(-128, 127)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
change = st.builds(Change, i64, i64, u8, u8)
maybe = st.none() | i64
bodies = st.one_of(
    st.builds(Trade, i64, i64, u8, u8, text),
    st.builds(Book, st.lists(change, max_size=300).map(tuple)),
    st.builds(Delta, st.lists(change, max_size=4).map(tuple)),
    st.builds(Ticker, *[maybe] * 10),
    st.builds(Lifecycle, text, text, i64, i64, i64, i64, maybe, text, text),
    st.builds(Gap, text, text, u64, u64, i64, i64, text, text),
    st.builds(Control, text, text, text),
    st.builds(Unparsed, text),
    st.builds(Event, text, st.binary(max_size=50), text, text, text, text),
)
entries = st.builds(
    Entry,
    bodies,
    text,
    text,
    st.binary(min_size=16, max_size=16),
    u64,
    i64,
    i64,
    i64,
    u32,
    i64,
    u64,
    u32,
    u16,
    u16,
    i8,
    i8,
    st.binary(max_size=100),
    st.binary(max_size=32),
)
