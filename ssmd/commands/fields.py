"""Command line options made of a model: one for every field that holds a value, named by its path (``--rate-limit.requests``).

Lists of values and mappings of values are options that may be repeated. Lists and mappings of models are edited by ``--set`` and
``--unset``, or by commands of their own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import update_wrapper
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from ruamel.yaml.error import YAMLError

from journal.errors import CallerError
from ssmd.metadata.edit import Steps, parse_path, put, remove
from ssmd.metadata.patch import plain
from ssmd.options import DATE

_META = "ssmd.fields"
CHOSEN = "@"  # no key is called so
Command = Callable[..., Any]


@dataclass(slots=True)
class Given:
    """What options said: values by path, and the option of every path there is one for."""

    values: dict[Steps, Any] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    unset: tuple[Steps, ...] = ()

    @property
    def blame(self) -> dict[str, str]:
        """The options that were given, by dotted path."""
        named = {dotted: self.options[dotted] for path in self.values if (dotted := ".".join(path)) in self.options}
        # A mapping's option stands for each of its keys.
        return named | {p: o for p, o in self.options.items() if any(".".join(path).startswith(f"{p}.") for path in self.values)}

    def under(self, *steps: str) -> Given:
        """The same below `steps` of a file."""
        below = {(*steps, *path): value for path, value in self.values.items()}
        return Given(below, {".".join((*steps, path)): option for path, option in self.options.items()}, self.unset)

    def pick(self, number: int) -> Given:
        """The same with the step ``@``, an item to be chosen, as item `number`."""
        values = {tuple(str(number) if step == CHOSEN else step for step in path): value for path, value in self.values.items()}
        return Given(values, {path.replace(f".{CHOSEN}.", f".{number}."): option for path, option in self.options.items()}, self.unset)

    def apply(self, tree: dict[str, Any], model: type[BaseModel]) -> None:
        """Remove what is to be unset, then put the values where they belong. Raises `CallerError`."""
        for path in self.unset:
            remove(tree, path)
        for path, value in self.values.items():
            put(tree, model, path, value)


def fields(
    model: type[BaseModel], *, at: Steps = (), without: tuple[str, ...] = (), required: tuple[str, ...] = ()
) -> Callable[[Command], Command]:
    """Give a command the options of `model`, whose values stand below `at`; it is called with `given`. May be used twice on one command."""

    def decorate(function: Command) -> Command:
        @click.pass_context
        def wrapper(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
            given = ctx.meta.setdefault(_META, Given())
            return ctx.invoke(function, *args, **{**kwargs, "given": given})

        decorated: Command = update_wrapper(wrapper, function)
        for path, kind, info in reversed(list(_leaves(model, without))):
            decorated = _option((*at, *path), path, kind, info, required=path[-1] in required and len(path) == 1)(decorated)
        return decorated

    return decorate


def settable(function: Command) -> Command:
    """Give a command --set, for what has no option of its own."""
    return click.option(
        "--set", "field_set", multiple=True, metavar="PATH=YAML", expose_value=False, callback=_set,
        help="Set any key, such as 'shards.a.selector.series=[KXBTC15M]'; may be repeated.",
    )(function)  # fmt: skip


def unsettable(function: Command) -> Command:
    """Give a command --unset."""
    help_ = "Remove a key or an item; may be repeated."
    return click.option("--unset", "field_unset", multiple=True, metavar="PATH", expose_value=False, callback=_unset, help=help_)(function)


def _leaves(model: type[BaseModel], without: tuple[str, ...], prefix: Steps = ()) -> Iterator[tuple[Steps, Any, Any]]:
    """(path, type, field) of every field that an option can hold, in order."""
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key in without:
            continue
        kind = _bare(info.annotation)
        if _is_model(kind):
            yield from _leaves(kind, (), (*prefix, key))
        elif not any(map(_is_model, map(_bare, get_args(kind)))):
            yield (*prefix, key), kind, info


def _option(steps: Steps, path: Steps, kind: Any, info: Any, *, required: bool) -> Callable[[Command], Command]:
    name = f"--{'.'.join(path).replace('_', '-')}"
    identifier = "field_" + "_".join(step for step in steps if step != CHOSEN)
    default = info.default
    shown = f"  [default: {default}]" if isinstance(default, str | int) and not isinstance(default, bool) and default != "" else ""
    help_ = f"{info.description}{shown}"
    dotted = ".".join(steps)

    def keep(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        given: Given = ctx.meta.setdefault(_META, Given())
        given.options.setdefault(dotted, name)
        if value is None or value == ():
            return
        given.options[dotted] = name
        if get_origin(kind) is dict:
            given.values.update({(*steps, k): v for k, v in value})
        else:
            given.values[steps] = list(value) if isinstance(value, tuple) else value

    if kind is bool:
        return click.option(
            f"{name}/--no-{name[2:]}", identifier, default=None, expose_value=False, callback=keep, help=help_, required=required
        )
    many = get_origin(kind) in {tuple, dict}
    inner = _Pair(typed=_bare(get_args(kind)[1]) is not str) if get_origin(kind) is dict else _type(get_args(kind)[0] if many else kind)
    return click.option(
        name, identifier, type=inner, multiple=many, expose_value=False, callback=keep, required=required,
        help=f"{help_} May be repeated." if many else help_,
    )  # fmt: skip


def _type(annotation: Any) -> click.ParamType[Any]:
    kind = _bare(annotation)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return click.INT if kind is int else DATE if kind is date else click.STRING


def _bare(annotation: Any) -> Any:
    """Without Annotated and None."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        kinds = [a for a in get_args(annotation) if a is not type(None)]
        return _bare(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


class _Pair(click.ParamType[tuple[str, Any]]):
    """KEY=VALUE; `typed`: the value is YAML, else text."""

    name = "KEY=VALUE"

    def __init__(self, *, typed: bool) -> None:
        self._typed = typed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail("write KEY=VALUE", param, ctx)
        return key, _yaml(text) if self._typed else text


def _yaml(text: str) -> Any:
    try:
        return plain(text)
    except (YAMLError, ValueError, RecursionError):
        raise click.UsageError('what stands after "=" is not YAML; put text with : or # in quotes') from None


def _set(ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> None:
    given: Given = ctx.meta.setdefault(_META, Given())
    for text in values:
        path, equals, value = _split(text)
        if not equals:
            raise click.UsageError("--set: write PATH=YAML")
        steps = _steps("--set", path)
        given.values[steps] = _yaml(value)
        given.options[".".join(steps)] = f"--set {path}"


def _split(text: str) -> tuple[str, str, str]:
    """At the first "=" outside quotes."""
    quoted = False
    for at, char in enumerate(text):
        quoted ^= char == '"'
        if char == "=" and not quoted:
            return text[:at], "=", text[at + 1 :]
    return text, "", ""


def _unset(ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> None:
    given: Given = ctx.meta.setdefault(_META, Given())
    given.unset = tuple(_steps("--unset", text) for text in values)


def _steps(option: str, text: str) -> Steps:
    try:
        return parse_path(text)
    except CallerError as error:
        raise click.UsageError(f"{option}: {error}") from None
