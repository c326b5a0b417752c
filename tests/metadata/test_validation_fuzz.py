"""Whatever a file holds, validation says what is wrong with it: it never fails itself, and what it says is of the project's files."""

from __future__ import annotations

import shutil
import tempfile
from datetime import date
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd.metadata.folders import list_files
from ssmd.metadata.project import Project, packaged
from ssmd.metadata.validation import check
from tests.metadata.starter import copy_starter

NAMES = [f.path.relative_to(packaged().exchanges).as_posix() for f in list_files(packaged()) if f.role == "metadata"]
PIECES = [
    "null", "[]", "{}", "~", "''", "0", "-1", "1e400", ".nan", "yes", "2026-02-30", "2026-11-22T00:00:00Z", "0x10", "!!binary aGk=",
    "&a [*a]", "*a", "<<: {a: 1}", "? [a]", "|\n  text", "$key:x.y", "$key:kalshi.key_id", "\t", "\x00", "\u2028", "é", "- ", ": ",
    "#", "'", '"', "%", "@",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "value", "drop", "double", "swap", "cut"]),
        st.integers(0, 10_000),
        st.sampled_from(PIECES) | st.text(max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def change(text: str, edits: list[tuple[str, int, str]]) -> str:
    for what, at, piece in edits:
        lines = text.splitlines(keepends=True) or ["\n"]
        i, j = at % len(lines), (at // 7) % len(lines)
        if what == "insert":
            text = text[: at % (len(text) + 1)] + piece + text[at % (len(text) + 1) :]
            continue
        if what == "value":
            lines[i] = f"{lines[i].partition(':')[0].rstrip()}: {piece}\n"
        elif what == "drop":
            del lines[i]
        elif what == "double":
            lines.insert(j, lines[i])
        elif what == "swap":
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines = lines[:i]
        text = "".join(lines)
    return text


@settings(max_examples=100)
@given(name=st.sampled_from(NAMES), edits=EDITS)
def test_a_damaged_file_is_described(name: str, edits: list[tuple[str, int, str]]) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        project: Project = copy_starter(root)
        path = project.exchanges / name
        path.write_bytes(change(path.read_text(), edits).encode(errors="surrogatepass"))
        findings = check(project, today=date(2026, 11, 22))
        count = len(path.read_bytes().splitlines()) + 1
        for finding in findings:
            assert finding.file.startswith("exchanges/")
            assert finding.text
            assert finding.line <= count or finding.file != f"exchanges/{name}"
        assert findings == check(project, today=date(2026, 11, 22))
    finally:
        shutil.rmtree(root)
