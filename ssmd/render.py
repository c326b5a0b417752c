"""What commands print: documents, rows and streams of rows in every format, exact decimals, times, progress."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from rich.progress import Progress

# Characters that move a terminal's cursor, colour it or write into its title: shown, not obeyed. What others wrote is in tables.
_CONTROLS = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}

_GAP = 2  # between two columns
_WHOLE = {"symbol", "date", "state", "id"}  # columns that are copied from a table into the next command

# Fewest decimals (price, size) a venue itself shows; trailing zeros are trimmed down to them.
LEAST_DECIMALS = {"kalshi": (4, 2)}


def decimal_text(value: int, exponent: int, least: int = 0) -> str:
    """``value * 10**exponent`` in full, exactly, trailing zeros trimmed down to `least` decimals."""
    if exponent >= 0:
        digits, fraction = str(abs(value) * 10**exponent), ""
    else:
        digits = str(abs(value)).rjust(1 - exponent, "0")
        digits, fraction = digits[:exponent], digits[exponent:]
    fraction = fraction.rstrip("0").ljust(least, "0")
    return f"{'-' if value < 0 else ''}{digits}{'.' if fraction else ''}{fraction}"


def format_of(output: str) -> str:
    """What -o says, else a table on a terminal and JSON elsewhere."""
    return output or ("table" if sys.stdout.isatty() else "json")


def one(value: Mapping[str, Any], output: str) -> None:
    """Print one document; as a table, a row for each field."""
    output = format_of(output)
    if output == "table":
        rows([{"field": k, "value": _cell(v)} for k, v in value.items()], "table")
    elif output == "csv":
        rows([value], "csv")
    elif output == "yaml":
        _write(_yaml(value))
    else:
        _write(_json(value, pretty=output == "json"))


def rows(values: Sequence[Mapping[str, Any]], output: str, *, title: str = "") -> None:
    """Print rows of the same columns."""
    output = format_of(output)
    if output == "json":
        _write(_json(values, pretty=True))
    elif output == "table":
        _table(values, title)
    elif output == "yaml":
        _write(_yaml(values))
    else:
        for line in lines(values, output):
            _write(line)


def lines(values: Iterable[Mapping[str, Any]], output: str) -> Iterator[str]:
    """Rows as lines, one by one as they come: JSON Lines, items of a YAML list, or CSV with a head."""
    head = False
    for value in values:
        if output == "csv":
            if not head:
                yield _csv(value.keys())
                head = True
            yield _csv(_cell(v) for v in value.values())
        elif output == "yaml":
            yield f"- {_json(value)}"  # YAML reads JSON; as a block each would cost a millisecond
        else:
            yield _json(value)


def _json(value: Any, *, pretty: bool = False) -> str:
    text = msgspec.json.encode(value)
    return (msgspec.json.format(text, indent=2) if pretty else text).decode()


def _yaml(value: Any) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # fields keep their order
    yaml.width = 1 << 16
    yaml.version = (1, 1)  # in quotes what older readers take for a number or a boolean: 17:00, yes
    out = StringIO()
    yaml.dump(msgspec.to_builtins(value), out)
    return out.getvalue().removeprefix("%YAML 1.1\n---").lstrip().rstrip("\n").removesuffix("\n...")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value)


def harmless(text: str) -> str:
    """`text` in lines of a terminal, without power over it."""
    return text.translate(_CONTROLS)


def plain(text: str) -> str:
    """`text` in one line of a terminal: what is not printable is shown and not obeyed."""
    return text if text.isprintable() else repr(text)[1:-1]


class _Line:
    """A file that keeps the last line written."""

    text = ""

    def write(self, text: str) -> int:
        self.text = text.rstrip("\r\n")
        return len(text)


def _csv(cells: Iterable[str]) -> str:
    line = _Line()
    csv.writer(line).writerow(cells)
    return line.text


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")


def _table(values: Sequence[Mapping[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=not sys.stdout.isatty())
    if not values:
        console.print(f"no {title or 'rows'}")
        return
    table = Table(title=title or None, header_style="bold", box=None, pad_edge=False)
    cells = [[v if isinstance(v, Text) else Text(harmless(_cell(v))) for v in row.values()] for row in values]  # a Text has a colour
    heads = [Text(harmless(name)) for name in values[0]]
    columns = [[text.plain for text in column] for column in zip(heads, *cells, strict=True)]
    kept = [n for n, name in enumerate(values[0]) if name in _WHOLE]
    widths = _widths(columns, console.width - _GAP * (len(columns) - 1), kept)
    for n, (name, value) in enumerate(values[0].items()):
        table.add_column(
            heads[n], justify="right" if isinstance(value, int) else "left", overflow="fold", no_wrap=name in _WHOLE, width=widths[n]
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _widths(columns: Sequence[Sequence[str]], room: int, kept: Sequence[int]) -> list[int | None]:
    """Of columns wider than `room` characters together: `kept` ones and words stay whole while there is room; the widest give way."""
    from rich.cells import cell_len

    full = [max((cell_len(line) for text in column for line in text.split("\n")), default=0) for column in columns]
    if sum(full) <= room:
        return [None] * len(columns)
    words = [max((cell_len(word) for text in column for word in text.split()), default=0) for column in columns]
    widths = [full[n] if n in kept else words[n] for n in range(len(columns))]
    others = [n for n in range(len(columns)) if n not in kept]
    while others and sum(widths) > room and widths[widest := max(others, key=widths.__getitem__)] > 1:
        widths[widest] -= 1
    while sum(widths) < room:
        widths[min((n for n in others if widths[n] < full[n]), key=lambda n: widths[n] / full[n])] += 1
    return [max(1, width) for width in widths]


class Meter(Protocol):
    """Told how far a long piece of work is."""

    def stage(self, name: str, total: int) -> None:
        """A new stage of `total` units begins; 0 when not known."""
        ...

    def advance(self, units: int) -> None: ...


class Silent:
    """A meter nobody looks at."""

    def stage(self, name: str, total: int) -> None:
        del name, total

    def advance(self, units: int) -> None:
        del units


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: Any = None

    def stage(self, name: str, total: int) -> None:
        self.done()
        self._task = self._progress.add_task(name, total=total or None, rate=0)

    def advance(self, units: int) -> None:
        self._progress.advance(self._task, units)

    def done(self) -> None:
        """Show the stage under way as complete."""
        if self._task is not None:
            task = next(t for t in self._progress.tasks if t.id == self._task)
            units = task.total or task.completed or 1
            self._progress.update(self._task, total=units, completed=units)


@contextmanager
def progress() -> Iterator[Meter]:
    """A bar on stderr with rate and time left; nothing when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import Task as BarTask

    class Rate(TextColumn):
        def render(self, task: BarTask) -> Any:
            from rich.text import Text

            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f}/s" if speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        stages = _Bar(bar)
        yield stages
        stages.done()
