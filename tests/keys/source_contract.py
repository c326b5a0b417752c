"""What every source of keys promises: one body of tests, run over each by a subclass that says how values get there."""

from __future__ import annotations

import logging
import pickle
import random
import string
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from journal.errors import KeyRefused
from ssmd.keys.source import Found, KeySource, Place, Wanted

NOW_NS = 1_795_363_200_000_000_000  # 2026-11-22T16:00:00Z
HOUR_NS = 3_600_000_000_000
WANTED = Wanted("dev", "venue-1", ("api_key", "private_key"))
CANARY = "canary-7f3a"
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ\n/+xyz==\n-----END PRIVATE KEY-----"
TEXTS = {
    "plain": "s3cr3t",
    "pem": PEM,
    "unicode": "pässwörd-\N{SNOWMAN}-\N{GRINNING FACE}",
    "spaces": "  two  spaces at both ends  ",
    "shell": """$HOME `id` "quoted" 'twice' \\ back; $(reboot) %s {0}""",
    "json": '{"type": "service_account", "n": 1}',
    "lines": "\n\nfirst\r\nlast\ttab",
    "yaml": "yes: [1, &a *a]  # no comment",
    "reference": "$key:venue-1.api_key",
}


@dataclass
class StandingClock:
    """Stands until it is moved."""

    rate = 1.0

    now_ns: int = NOW_NS

    def wall_ns(self) -> int:
        return self.now_ns

    def mono_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("sources do not sleep")


@dataclass
class Home:
    """A directory of environments, variables and a HOME of a test's own."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    clock: StandingClock = field(default_factory=StandingClock)

    def __post_init__(self) -> None:
        self.root.chmod(0o700)
        for name in ("environments", "home"):
            (self.root / name).mkdir(exist_ok=True, mode=0o700)

    @property
    def place(self) -> Place:
        return Place(self.root / "environments", self.environ, self.clock, self.root / "home")


class Holder(Protocol):
    """How a test reaches what a source reads."""

    home: Home

    def put(self, texts: Mapping[str, str], *, previous: Mapping[str, str] | None = None, until_ns: int = 0) -> None:
        """The key `WANTED` has `texts` from now on and nothing else."""
        ...

    def spoil(self) -> None:
        """The key is there, and cannot be had."""
        ...

    def source(self) -> KeySource: ...


def shown(found: Found) -> tuple[dict[str, str], dict[str, str]]:
    return {n: s.reveal() for n, s in found.values.items()}, {n: s.reveal() for n, s in found.previous.items()}


def check_silent(error: BaseException | None, *canaries: str) -> None:
    """Nothing that is reached from `error` shows a canary."""
    seen = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        said = "".join(traceback.format_exception(error)) + repr(error) + repr(error.args) + repr(vars(error))
        said += repr([getattr(error, name, None) for name in ("doc", "object", "output", "stderr", "stdout", "cmd", "filename")])
        for canary in canaries or (CANARY,):
            assert canary not in said
        error = error.__cause__ or error.__context__


def put_and_fetch(holder: Holder, texts: Mapping[str, str]) -> None:
    """A store that refuses what is too large is as good as a source that does."""
    holder.put(texts)
    holder.source().fetch(WANTED)


class SourceContract:
    """Subclasses have a fixture `holder`."""

    def test_an_absent_key_is_nothing(self, holder: Holder) -> None:
        assert holder.source().fetch(WANTED) == Found({})

    def test_some_fields(self, holder: Holder) -> None:
        holder.put({"api_key": "one"})
        assert shown(holder.source().fetch(WANTED)) == ({"api_key": "one"}, {})

    def test_all_fields_and_nothing_else(self, holder: Holder) -> None:
        holder.put({"api_key": "one", "private_key": PEM, "other": "not declared"})
        assert shown(holder.source().fetch(WANTED)) == ({"api_key": "one", "private_key": PEM}, {})

    @pytest.mark.parametrize("name", TEXTS)
    def test_a_value_comes_back_as_it_was(self, holder: Holder, name: str) -> None:
        holder.put({"api_key": TEXTS[name], "private_key": "x"})
        assert shown(holder.source().fetch(WANTED))[0] == {"api_key": TEXTS[name], "private_key": "x"}

    def test_any_text_comes_back(self, holder: Holder) -> None:
        rng = random.Random(7)
        letters = [
            *string.printable,
            *map(chr, (0x7F, 0x85, 0xA0, 0xFEFF, 0x2028, 0x5D0, 0xFFFD, 0x1F600, 0x10FFFF)),
            "\r\n",
            "---\n",
            "\n\n",
        ]
        for _ in range(40):
            # The end of its last line is no part of a file's text.
            text = "".join(rng.choices(letters, k=rng.randrange(1, 80))).rstrip("\r\n") or "x"
            holder.put({"api_key": text, "private_key": "x"})
            assert shown(holder.source().fetch(WANTED))[0]["api_key"] == text

    def test_an_empty_value_is_an_absent_one(self, holder: Holder) -> None:
        holder.put({"api_key": "", "private_key": "x"})
        assert shown(holder.source().fetch(WANTED))[0] == {"private_key": "x"}

    def test_a_value_at_the_limit_passes_and_one_above_is_refused(self, holder: Holder) -> None:
        largest = "k" * 20_000 + CANARY
        holder.put({"api_key": largest, "private_key": "x"})
        assert shown(holder.source().fetch(WANTED))[0]["api_key"] == largest
        with pytest.raises(KeyRefused, match=r"larger than|more than") as refused:
            put_and_fetch(holder, {"api_key": CANARY + "k" * 65_536})
        check_silent(refused.value, CANARY, "kkkk")

    def test_the_value_before_the_last_rotation_is_there_until_its_end(self, holder: Holder) -> None:
        until_ns = NOW_NS + HOUR_NS
        holder.put({"api_key": "new", "private_key": "x"}, previous={"api_key": "old"}, until_ns=until_ns)
        found = holder.source().fetch(WANTED)
        assert shown(found) == ({"api_key": "new", "private_key": "x"}, {"api_key": "old"})
        assert found.previous_until_ns == until_ns
        holder.home.clock.now_ns = until_ns
        found = holder.source().fetch(WANTED)
        assert shown(found) == ({"api_key": "new", "private_key": "x"}, {})
        assert found.previous_until_ns == 0

    def test_what_cannot_be_read_is_refused_without_a_value(self, holder: Holder) -> None:
        holder.put({"api_key": CANARY, "private_key": CANARY})
        holder.spoil()
        with pytest.raises(KeyRefused) as refused:
            holder.source().fetch(WANTED)
        check_silent(refused.value)

    def test_nothing_shows_a_value(self, holder: Holder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        holder.put({"api_key": CANARY, "private_key": CANARY}, previous={"api_key": CANARY + "-old"}, until_ns=NOW_NS + HOUR_NS)
        capfd.readouterr()
        with caplog.at_level(logging.DEBUG):
            source = holder.source()
            found = source.fetch(WANTED)
        out, err = capfd.readouterr()
        assert found.values["api_key"].reveal() == CANARY
        assert found.previous["api_key"].reveal() == CANARY + "-old"
        for text in (repr(found), str(found), f"{found}", f"{found.values}", repr(source), repr(vars(source)), caplog.text, out, err):
            if "environ" not in text:  # env: the variables themselves
                assert CANARY not in text
        with pytest.raises(TypeError):
            pickle.dumps(found)
