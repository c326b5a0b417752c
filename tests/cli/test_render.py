from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ssmd import render


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-12, 3), st.integers(0, 8))
def test_decimals_are_exact_and_as_short_as_may_be(value: int, exponent: int, least: int) -> None:
    text = render.decimal_text(value, exponent, least)
    assert Decimal(text) == Decimal(value).scaleb(exponent)
    decimals = len(text.partition(".")[2])
    assert decimals >= least
    assert decimals == least or not text.endswith("0")


@pytest.mark.parametrize(
    ("value", "exponent", "least", "text"),
    [
        (410_000, -6, 4, "0.4100"),
        (1200, -2, 2, "12.00"),
        (-9478, -2, 2, "-94.78"),
        (123_456, -6, 4, "0.123456"),
        (0, -6, 4, "0.0000"),
        (5, 0, 0, "5"),
    ],
)
def test_the_venues_own_form(value: int, exponent: int, least: int, text: str) -> None:
    assert render.decimal_text(value, exponent, least) == text


ROWS = [{"a": 1, "b": 'x,"y"\nz', "c": None, "d": {"e": [1]}}, {"a": 2, "b": "", "c": None, "d": {"e": []}}]


def test_csv_has_one_head_and_quotes() -> None:
    read = list(csv.DictReader(io.StringIO("\n".join(render.lines(ROWS, "csv")))))
    assert read[0] == {"a": "1", "b": 'x,"y"\nz', "c": "", "d": '{"e":[1]}'}
    assert len(read) == 2


def test_json_lines() -> None:
    assert [json.loads(line) for line in render.lines(ROWS, "jsonl")] == ROWS


def test_formats_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    render.rows(ROWS, "")  # no terminal here: JSON
    assert json.loads(capsys.readouterr().out) == ROWS
    render.one(ROWS[0], "json")
    assert json.loads(capsys.readouterr().out) == ROWS[0]
    render.rows(ROWS, "table", title="things")
    shown = capsys.readouterr().out
    assert "things" in shown
    assert '{"e":[1]}' in shown
    render.rows([], "table", title="things")
    assert capsys.readouterr().out == "no things\n"


def test_yaml_is_read_back_and_keeps_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    render.one({"b": 1, "a": "x: 'y'\nz", "none": None, "list": [1, {"d": "2026-01-01"}]}, "yaml")
    out = capsys.readouterr().out
    assert out.startswith("b: 1\na: ")
    assert YAML(typ="safe").load(out) == {"b": 1, "a": "x: 'y'\nz", "none": None, "list": [1, {"d": "2026-01-01"}]}
    render.one({"start": "17:00", "said": "yes"}, "yaml")
    assert capsys.readouterr().out == "start: '17:00'\nsaid: 'yes'\n"
    render.rows(ROWS, "yaml")
    assert YAML(typ="safe").load(capsys.readouterr().out) == ROWS
    assert [json.loads(line.removeprefix("- ")) for line in render.lines(ROWS, "yaml")] == ROWS
    render.rows([], "yaml")
    assert capsys.readouterr().out == "[]\n"


def test_a_terminal_obeys_nothing_of_what_is_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    render.rows([{"why": "a\x1b]0;title\x07\x9b31mb\nc"}], "table")
    said = capsys.readouterr().out
    assert "a\\x1b]0;title\\x07\\x9b31mb\nc" in said
    assert said.replace("\n", "").isprintable()


def test_names_of_columns_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """SQL names columns as it likes."""
    render.rows([{"[/x]": 1, "\x1b[31mred": "[bold]no[/nothing]", "\x07": "\x9b2J"}], "table")
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert "[/x]" in out
    assert "\\x1b[31mred" in out
    assert "[bold]no[/nothing]" in out


@pytest.mark.parametrize("width", [70, 80, 120])
def test_words_of_a_table_stay_whole_in_a_narrow_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    why = "every step of its start is done"
    row = {
        "date": "2026-11-22",
        "state": "COMPLETE",
        "since": "2026-11-22 20:55:56",
        "by": "day start@vm:18881",
        "why": why,
        "mode": "live",
        "for_s": 17,
    }
    render.rows([row], "table")
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= width
    assert set(" ".join(str(v) for v in row.values()).split()) <= set(shown.split())


def test_an_id_that_a_command_takes_stays_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row = {"id": "1b768cbe9bc8", "name": "dashboard", "state": "valid", "scopes": "read", "feeds": "kalshi"}
    render.rows([row | {"created": "2026-11-23T00:33:10", "by": "root@vm", "expires": "2027-02-21T00:33:11"}], "table")
    assert "1b768cbe9bc8" in capsys.readouterr().out


def test_a_terminal_that_is_too_narrow_keeps_what_is_copied_from_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    render.rows([{"symbol": "KXGOLD15M-26AUG101800-00", "title": "unbreakable" * 3, "status": "settled"}], "table")
    shown = capsys.readouterr().out
    assert "KXGOLD15M-26AUG101800-00" in shown
    assert max(len(line) for line in shown.splitlines()) <= 40
