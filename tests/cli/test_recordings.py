from __future__ import annotations

import gzip
import json
from base64 import b64encode
from pathlib import Path

import pytest
import zstandard

from journal.errors import BadObject, CallerError
from ssmd.recordings import MAX_LINE, Line, Recording, begins, examine, find, merged, sound
from tests.cli.recorded import START_MS, market, write

_CHECKED = zstandard.ZstdCompressor(write_checksum=True)


def look(*paths: Path) -> list[Recording]:
    return [examine(path, lambda _: None) for path in paths]


def lines(*paths: Path) -> list[Line]:
    return list(merged(look(*paths)))


def test_the_three_compressions_are_the_same_recording(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.ndjson", market("A"))
    packed = write(tmp_path / "a.ndjson.gz", market("A"))
    frames = zstandard.ZstdCompressor()
    data = plain.read_bytes()
    zst = write(tmp_path / "a.jsonl.zst", frames.compress(data[:500]) + frames.compress(data[500:]))
    members = write(tmp_path / "b.jsonl", b"")
    members.write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(512))
    found = look(plain, packed, zst, members)
    assert len({(r.sha256, r.lines, r.bytes, r.first_ns) for r in found}) == 1
    assert found[0].lines == 25


def test_the_frame_is_the_event_as_it_stands_in_the_line(tmp_path: Path) -> None:
    odd = b'{"recv_ms":1785901540025, "event": {"type" :"trade","x":1.50}}\n'
    (line,) = lines(write(tmp_path / "a.ndjson", odd))
    assert (line.data, line.recv_ns, line.number) == (b'{"type" :"trade","x":1.50}', 1785901540025 * 10**6, 1)


def test_raw_lines_of_an_archive(tmp_path: Path) -> None:
    made = [
        {"pos": "local_md_0:1", "recv_ns": 5, "mono_ns": 7, "epoch": "aa", "frame": 0, "text": 'é"x'},
        {"pos": "local_md_0:2", "recv_ns": 6, "mono_ns": 8, "epoch": "bb", "frame": 3, "b64": b64encode(b"\xff\x00").decode()},
    ]
    first, second = lines(write(tmp_path / "a.jsonl", made))
    assert (first.data, first.recv_ns, first.mono_ns, first.epoch) == ('é"x'.encode(), 5, 7, "aa")
    assert (second.data, second.epoch) == (b"\xff\x00", "bb")


def test_files_are_merged_by_receive_time_then_file_and_never_go_back(tmp_path: Path) -> None:
    a = [{"recv_ms": t, "event": {"a": n}} for n, t in enumerate([10, 30, 20, 30])]  # the recorder's clock stepped back once
    b = [{"recv_ms": t, "event": {"b": n}} for n, t in enumerate([10, 25, 40])]
    found = lines(write(tmp_path / "a.ndjson", a), write(tmp_path / "b.ndjson", b))
    assert [(line.file, line.number) for line in found] == [(0, 1), (1, 1), (1, 2), (0, 2), (0, 3), (0, 4), (1, 3)]
    orders = [line.order_ns for line in found]
    assert orders == sorted(orders)
    assert [line.recv_ns // 10**6 for line in found if line.file == 0] == [10, 30, 20, 30]


def test_unknown_lines_keep_their_bytes_and_their_neighbours_time(tmp_path: Path) -> None:
    data = b'# a comment\n{"recv_ms":7,"event":{}}\n{"other":1}\n\n[1]\n{"recv_ms":-1,"event":{}}\n{"recv_ns":1,"epoch":"","frame":1}\n'
    found = lines(write(tmp_path / "a.ndjson", data))
    assert [bool(line.error) for line in found] == [True, False, True, True, True, True, True]
    assert [line.data for line in found] == [b"# a comment", b"{}", *data.split(b"\n")[2:-1]]
    assert {line.recv_ns for line in found} == {7_000_000}


def test_a_last_line_without_newline_counts(tmp_path: Path) -> None:
    assert len(lines(write(tmp_path / "a.ndjson", b'{"recv_ms":7,"event":{}}'))) == 1


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("a.ndjson", lambda d: d[:-20], "line 25.*truncated"),
        ("a.ndjson", lambda d: d.replace(b'"sid":2', b'"sid:2', 1), "line 7.*damaged"),
        ("a.ndjson", lambda d: d[:900] + bytes(40) + d[940:], "damaged"),
        ("a.ndjson.gz", lambda d: gzip.compress(d)[:-30], "truncated"),
        ("a.ndjson.gz", lambda d: gzip.compress(d)[:200] + b"\xff" * 30 + gzip.compress(d)[230:], "corrupt"),
        ("a.ndjson.gz", lambda d: gzip.compress(d) + b"garbage", "corrupt"),
        ("a.jsonl.zst", lambda d: zstandard.compress(d)[:-30], "truncated"),
        ("a.jsonl.zst", lambda d: _CHECKED.compress(d)[:100] + b"\xff" * 30 + _CHECKED.compress(d)[130:], "corrupt"),
        ("a.ndjson", lambda d: b"x" * (MAX_LINE + 1) + b"\n" + d, "longer than"),
        ("a.ndjson", lambda _: b"once upon a time\n", "not a recording"),
    ],
)
def test_damage_is_refused_with_the_place(tmp_path: Path, name: str, damage: object, said: str) -> None:
    data = write(tmp_path / "whole.ndjson", market("A")).read_bytes()
    path = tmp_path / name
    path.write_bytes(damage(data))  # type: ignore[operator]
    with pytest.raises(CallerError, match=said) as raised:
        look(path)
    assert str(path) in str(raised.value)
    assert "nothing was imported" in str(raised.value)


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", market("A"))
    examined = look(path)
    with path.open("ab") as file:
        file.write(json.dumps({"recv_ms": START_MS, "event": {}}).encode() + b"\n")
    with pytest.raises(BadObject, match="changed"):
        list(merged(examined))


def test_among_other_files_the_recordings_are_found(tmp_path: Path) -> None:
    write(tmp_path / "gold" / "x" / "a.ndjson.gz", market("A"))
    write(tmp_path / "gold" / "b.jsonl", market("B"))
    alone = write(tmp_path / "mixed" / "c.jsonl", market("C"))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "mixed" / "frames.jsonl").write_text('{"type":"ok"}\n')
    (tmp_path / "mixed" / "torn.jsonl.gz").write_bytes(b"\x1f\x8b\x08")
    known = {f: begins(f) for f in find([tmp_path])}
    assert sound(tmp_path, known) == [tmp_path / "empty.jsonl", tmp_path / "gold", alone]
    assert sound(tmp_path / "gold", known) == [tmp_path / "gold"]
    assert sound(tmp_path / "mixed", known) == [alone]


def test_folders_are_searched_and_names_checked(tmp_path: Path) -> None:
    a = write(tmp_path / "x" / "a.ndjson.gz", market("A"))
    b = write(tmp_path / "x" / "deep" / "b.jsonl", market("B"))
    (tmp_path / "x" / "notes.md").write_text("no")
    assert find([tmp_path / "x", a]) == [a, b]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CallerError, match="no recordings"):
        find([tmp_path / "empty"])
    with pytest.raises(CallerError, match="no such file"):
        find([tmp_path / "nowhere"])
