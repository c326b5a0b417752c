"""The command line's root: a literal table of lazily imported commands, and the one place where errors become exit codes.

0 all is well, 1 findings, 2 usage or could not run, 130 interrupted; a closed pipe is quiet.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import click

from ssmd import options

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name -> (where the command is, what `ssmd --help` says). Nothing is imported until it is used.
COMMANDS = {
    "init": ("ssmd.commands.init:init", "Make a project here: exchanges/ with a starter set."),
    "feed": ("ssmd.commands.feed:feed", "Data sources of venues: list, show, create, update, add-version, add-location."),
    "schema": ("ssmd.commands.schema:schema", "Schemas: list, show, register, hash, set-status, add-version."),
    "env": ("ssmd.commands.env:env", "Environments: list, show, create, update, add-key, validate, apply, teardown."),
    "key": ("ssmd.commands.key:key", "Keys: list, show, check, verify, set, init, rotate, delete, export, audit."),
    "up": ("ssmd.commands.up:up", "Capture, archive and fold in one process tree, everything embedded."),
    "demo": ("ssmd.commands.demo:demo", "Twenty seconds of everything: capture, crash, recovery, archive, replay."),
    "sim": ("ssmd.commands.sim:sim", "Run a simulated venue that a real client could talk to."),
    "run": ("ssmd.commands.run:run", "Run one service: connector, archiver, projector, secmaster, gateway or worker."),
    "journal": ("ssmd.commands.journal:journal", "Look at the journal: tail, query, show, streams."),
    "secmaster": ("ssmd.commands.secmaster:secmaster", "Which markets there are and were: sync, list, show, search, changes, export."),
    "day": ("ssmd.commands.day:day", "Trading days: status, run, start, end, roll, history, show, recover, schedule."),
    "gateway": ("ssmd.commands.gateway:gateway", "Keys of the gateway's clients: create, list, revoke."),
    "client": ("ssmd.commands.client:client", "Who is connected to a gateway: list, show, disconnect, set-mode."),
    "replay": ("ssmd.commands.replay:replay", "Replay a day, and verify that its state is what it was live."),
    "book": ("ssmd.commands.book:book", "Show an order book, now or at any past moment."),
    "data": ("ssmd.commands.data:data", "Bring recordings in: import, replay."),
    "validate": ("ssmd.commands.validate:validate", "Check feeds, schemas and environments, keys and servers."),
    "diff": ("ssmd.commands.diff:diff", "Show what has changed in them since the last commit."),
    "commit": ("ssmd.commands.commit:commit", "Commit them, and nothing else."),
    "config": ("ssmd.commands.config:config", "Show the configuration in effect, and who said so."),
    "doctor": ("ssmd.commands.doctor:doctor", "Check this installation and what it promises."),
    "completion": ("ssmd.commands.completion:completion", "Print the script that completes command lines in bash, zsh or fish."),
    "version": ("ssmd.commands.version:version", "Show the versions of ssmd and what it stands on."),
}

EPILOG = """\b
Try:
  ssmd demo
  ssmd up --for 10s
  ssmd journal tail --limit 5
"""


class LazyGroup(click.Group):
    """Lists commands from `COMMANDS` and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:  # which a shell's completion is
            raise click.UsageError(f"no command {args[0]!r}; {_nearest(args[0])}known: {', '.join(COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@options.shared
def cli() -> None:
    """Stupid Simple Market Data: record venues, prove that nothing was lost, replay any moment."""


def main(args: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    code = _run(args)
    if args is None and "temporalio.bridge.runtime" in sys.modules:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End now: threads of Temporal's library that still run abort the process while the interpreter takes itself down."""
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError):
            file.flush()
    os._exit(code)


def _run(args: list[str] | None) -> int:
    try:
        if args is None and (asked := os.environ.get("_SSMD_COMPLETE")):
            return _complete(asked)
        with cli.make_context("ssmd", sys.argv[1:] if args is None else args) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except Exception as error:  # noqa: BLE001  (the last place that can say something useful)
        return _failed(error)
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0


def _nearest(word: str) -> str:
    """Commands that `word` may have been meant for: spelt like it, or groups that say they have it."""
    from difflib import get_close_matches

    inside = [f"{group} {word}" for group, (_, text) in COMMANDS.items() if word in text.rstrip(".").partition(": ")[2].split(", ")]
    meant = [f"`ssmd {command}`" for command in get_close_matches(word, COMMANDS) + inside]
    return f"did you mean {' or '.join(meant)}? " if meant else ""


def _complete(asked: str) -> int:
    """Answer a shell's completion script, which shows whatever is said: nothing about what is wrong."""
    from click.shell_completion import shell_complete

    try:
        return shell_complete(cli, {}, "ssmd", "_SSMD_COMPLETE", asked)
    except Exception:  # noqa: BLE001
        return 1


def _failed(error: Exception) -> int:
    if isinstance(error, click.Abort):
        return 130
    if isinstance(error, BrokenPipeError):
        # Python flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if os.environ.get("SSMD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    from journal.errors import SsmdError
    from ssmd.render import harmless

    if isinstance(error, SsmdError):
        click.echo(harmless(f"ssmd: {error}"), err=True)  # it may repeat what a venue said
    elif isinstance(error, ExceptionGroup):
        return _failed(error.exceptions[0])
    elif isinstance(error, OSError):
        click.echo(f"ssmd: {error.strerror or error}{f': {error.filename}' if error.filename else ''} (SSMD_DEBUG=1 shows where)", err=True)
    else:
        click.echo(
            f"ssmd: unexpected {type(error).__name__}: {error}. This is a defect of ssmd; run again with SSMD_DEBUG=1 for the traceback "
            "and report it.",
            err=True,
        )
    return 2


if __name__ == "__main__":
    sys.exit(main())
