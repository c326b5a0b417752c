"""Options and parameter types that commands share. The shared ones may stand before or after the command's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ssmd.names import DIRECTORY, ENVIRONMENT

if TYPE_CHECKING:
    from ssmd.metadata.project import Project
    from ssmd.settings import Settings

FORMATS = ("table", "json", "jsonl", "yaml", "csv")
_KEY = "ssmd.flags"
_F = TypeVar("_F", bound=Callable[..., Any])


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    # The innermost one given wins: a flag after the command overrides one before it.
    if value is not None:
        ctx.meta.setdefault(_KEY, {})[param.name] = value


def shared(function: _F) -> _F:
    """Add --env, --data-dir, --nats, --storage, -o and --project without passing them to the function."""
    for option in reversed(
        (
            click.option(
                "--env", metavar="NAME", type=ENVIRONMENT, help="Environment. [SSMD_ENV; default: local]", expose_value=False,
                callback=_keep,
            ),
            click.option(
                "--data-dir", "data", metavar="DIR", type=DIRECTORY, expose_value=False, callback=_keep,
                help="Where data is kept. [SSMD_DATA; default: .ssmd/data]",
            ),
            click.option(
                "--nats", metavar="URL", help="NATS instead of the embedded one: nats://[TOKEN@]HOST:PORT, several by commas. [SSMD_NATS]",
                expose_value=False, callback=_keep,
            ),
            click.option(
                "--storage", metavar="URL", help="Archive: a directory or s3://BUCKET/PREFIX. [SSMD_STORAGE; default: DIR/objects]",
                expose_value=False, callback=_keep,
            ),
            click.option(
                "-o", "--output", type=click.Choice(FORMATS), help="Format on stdout; a table on a terminal, else JSON.",
                expose_value=False, callback=_keep,
            ),
            click.option(
                "--project", metavar="DIR", type=DIRECTORY, expose_value=False, callback=_keep,
                help="Folder with exchanges/. [SSMD_PROJECT; default: the nearest at or above this one]",
            ),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def name_environment(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """The callback of an argument that does what --env does."""
    if value is not None:
        said = ctx.meta.setdefault(_KEY, {}).setdefault("env", value)
        if said != value:
            raise click.UsageError(f"two environments are named: {value} and --env {said}; leave one out", ctx)


# Before `configured`: the environment as a first argument, instead of --env.
environment_argument = click.argument(
    "named", metavar="[ENV]", type=ENVIRONMENT, required=False, expose_value=False, callback=name_environment
)


def examples(*lines: str) -> str:
    """An epilog of example command lines, left as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the shared options, read: it is called with `settings` and `output` ("" when none was asked for)."""

    @click.pass_context
    def wrapper(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        import logging

        from ssmd.settings import Settings

        logging.basicConfig(level=logging.WARNING, format="ssmd: %(message)s")
        flags = ctx.meta.get(_KEY, {})
        return ctx.invoke(function, *args, settings=Settings.read(flags, os.environ), output=flags.get("output", ""), **kwargs)

    return shared(update_wrapper(wrapper, function))


def projected(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command about files the shared options: it is called with `project` and `output` ("" when none was asked for)."""

    @click.pass_context
    def wrapper(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        from pathlib import Path

        from ssmd.metadata.project import Project

        flags = ctx.meta.get(_KEY, {})
        project = Project.find(Path.cwd(), flags.get("project") or os.environ.get("SSMD_PROJECT", ""))
        return ctx.invoke(function, *args, project=project, output=flags.get("output", ""), **kwargs)

    return shared(update_wrapper(wrapper, function))


def flags(ctx: click.Context) -> dict[str, str]:
    """The shared options that were given, by name."""
    return dict(ctx.meta.get(_KEY, {}))


def settings_of(ctx: click.Context, project: Project, env: str) -> Settings:
    """Those of one of the project's environments, with the shared options that were given."""
    from ssmd.settings import Settings

    where = {} if project.packaged else {"project": str(project.root)}
    return Settings.read({**flags(ctx), **where, "env": env}, os.environ)


def env_named(ctx: click.Context) -> str:
    """The environment that --env or SSMD_ENV name; "" for none."""
    return str(ctx.meta.get(_KEY, {}).get("env") or os.environ.get("SSMD_ENV", ""))


def output_of(ctx: click.Context) -> str:
    """What -o says; "" for nothing."""
    return str(ctx.meta.get(_KEY, {}).get("output", ""))


def metered(function: Callable[..., Any], *, markets: bool = False) -> Callable[..., Any]:
    """Below `configured`: add --metrics, which serves the process's metrics while the command runs; with `markets` also theirs."""

    def wrapper(*args: Any, metrics: str, settings: Any, **kwargs: Any) -> Any:
        if not metrics:
            return function(*args, settings=settings, **kwargs)
        from ssmd.metrics import registry_of, serve_metrics

        with serve_metrics(metrics, registry_of(settings, markets=markets)):
            return function(*args, settings=settings, **kwargs)

    option = click.option("--metrics", default="", metavar="HOST:PORT", help="Serve Prometheus metrics there, such as 127.0.0.1:9464.")
    return option(update_wrapper(wrapper, function))


class _Parsed(click.ParamType[Any]):
    """A parameter type over a parser that raises `CallerError`."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from journal.errors import CallerError

        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except CallerError as error:
            self.fail(str(error), param, ctx)


def _duration(text: str) -> int:
    from ssmd.moments import parse_duration

    return parse_duration(text)


def _moment(text: str) -> int:
    from ssmd.clock import machine_clock
    from ssmd.moments import parse_moment

    return parse_moment(text, machine_clock().wall_ns())


def _position(text: str) -> Any:
    from journal.subjects import parse_position

    return parse_position(text)


def _date(text: str) -> Any:
    from datetime import date

    from journal.errors import CallerError

    try:
        if len(text) == len("2026-11-22"):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise CallerError(f"{text!r} is no date: write YYYY-MM-DD")


DATE = _Parsed("date", _date)  # datetime.date
DURATION = _Parsed("duration", _duration)  # nanoseconds
MOMENT = _Parsed("time", _moment)  # nanoseconds since 1970
POSITION = _Parsed("position", _position)  # (stream, sequence)
