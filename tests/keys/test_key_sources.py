"""The sources that need no server, by the contract; and what each refuses."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from journal.clock import WallClock
from journal.errors import CallerError, KeyRefused, KeyUnavailable
from ssmd.keys.age import AgeSource, create_identity, find_identity
from ssmd.keys.program import ProgramSource
from ssmd.keys.seal import seal
from ssmd.keys.secret import Secret
from ssmd.keys.source import SOURCES, Found, KeySource, Wanted, open_key_source
from ssmd.moments import rfc3339
from tests.keys.sealing import make_certificate
from tests.keys.source_contract import CANARY, NOW_NS, WANTED, Home, SourceContract, check_silent, shown


def named(texts: Mapping[str, str], previous: Mapping[str, str] | None, until_ns: int) -> dict[str, str]:
    """As sources that hold texts by name have them."""
    older = {f"{name}.previous": text for name, text in (previous or {}).items()}
    return {**texts, **older} | ({"previous-until": rfc3339(until_ns)} if until_ns else {})


def write_files(directory: Path, texts: Mapping[str, str], *, newline: str = "\n") -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    for name, text in texts.items():
        path = directory / name
        path.write_bytes((text + newline).encode())
        path.chmod(0o600)


class VariableHolder:
    def __init__(self, root: Path) -> None:
        self.home = Home(root)

    def put(self, texts: Mapping[str, str], *, previous: Mapping[str, str] | None = None, until_ns: int = 0) -> None:
        self.home.environ.clear()
        for name, text in named(texts, previous, until_ns).items():
            self.home.environ[f"SSMD_VENUE_1_{name}".upper().replace(".", "_").replace("-", "_")] = text

    def spoil(self) -> None:
        self.home.environ["SSMD_VENUE_1_API_KEY"] += "\udcff"  # what Python makes of a byte that is not UTF-8

    def source(self) -> KeySource:
        return open_key_source("env", self.home.place)


class DirectoryHolder:
    def __init__(self, root: Path, subdirectory: str = "") -> None:
        self.home = Home(root)
        self.directory = root / "secrets" / subdirectory

    def put(self, texts: Mapping[str, str], *, previous: Mapping[str, str] | None = None, until_ns: int = 0) -> None:
        write_files(self.directory, named(texts, previous, until_ns))

    def spoil(self) -> None:
        (self.directory / "api_key").chmod(0o644)

    def source(self) -> KeySource:
        return open_key_source(f"file:{self.home.root / 'secrets'}", self.home.place)


class SealedHolder(DirectoryHolder):
    """Plays the cluster: what was sealed is unsealed into a mounted volume."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "venue-secret")
        self.home.environ["SSMD_SECRETS"] = str(root / "secrets")

    def put(self, texts: Mapping[str, str], *, previous: Mapping[str, str] | None = None, until_ns: int = 0) -> None:
        write_files(self.directory, named(texts, previous, until_ns), newline="")

    def source(self) -> KeySource:
        return open_key_source("sealed-secret/venue-secret", self.home.place)


class ProgramHolder:
    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.environ["PATH"] = os.environ["PATH"]
        self.output = root / "output"
        self.program = root / "environments" / "ask"

    def put(self, texts: Mapping[str, str], *, previous: Mapping[str, str] | None = None, until_ns: int = 0) -> None:
        self.output.write_text(json.dumps(named(texts, previous, until_ns)))

    def spoil(self) -> None:
        self.output.write_text(f'{{"api_key": "{CANARY}"')  # cut off

    def source(self) -> KeySource:
        return open_key_source(f"exec:sh -c 'cat {self.output} 2>/dev/null || true'", self.home.place)


class AgeHolder:
    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        create_identity(find_identity({}, self.home.place.home), self.home.clock)

    def put(self, texts: Mapping[str, str], *, previous: Mapping[str, str] | None = None, until_ns: int = 0) -> None:
        values = {n: Secret(t) for n, t in texts.items()}
        older = {n: Secret(t) for n, t in (previous or {}).items()}
        self.source().store(WANTED, Found(values, NOW_NS, older, until_ns))

    def spoil(self) -> None:
        path = self.source().path(WANTED)
        text = path.read_bytes()
        path.write_bytes(text[:-80] + b"AAAA" + text[-76:])

    def source(self) -> AgeSource:
        return AgeSource("", self.home.place)


class TestVariables(SourceContract):
    @pytest.fixture
    def holder(self, tmp_path: Path) -> VariableHolder:
        return VariableHolder(tmp_path)

    def test_variables_that_are_called_otherwise(self, holder: VariableHolder) -> None:
        holder.home.environ |= {"KALSHI_KEY": "a", "SSMD_VENUE_1_API_KEY": "not this", "SSMD_VENUE_1_PRIVATE_KEY": "b"}
        wanted = Wanted("dev", "venue-1", WANTED.fields, {"api_key": "KALSHI_KEY"})
        assert shown(holder.source().fetch(wanted))[0] == {"api_key": "a", "private_key": "b"}

    def test_a_field_that_is_called_previous_is_a_field(self, holder: VariableHolder) -> None:
        holder.home.environ |= {"SSMD_K_A": "1", "SSMD_K_A_PREVIOUS": "2", "SSMD_K_PREVIOUS_UNTIL": "2099-01-01T00:00:00Z"}
        assert shown(holder.source().fetch(Wanted("dev", "k", ("a", "a_previous")))) == ({"a": "1", "a_previous": "2"}, {})

    def test_a_time_that_is_none_is_not_repeated(self, holder: VariableHolder) -> None:
        holder.put({"api_key": "x"}, previous={"api_key": "y"}, until_ns=1)
        holder.home.environ["SSMD_VENUE_1_PREVIOUS_UNTIL"] = CANARY
        with pytest.raises(KeyRefused, match="previous-until is not a time") as refused:
            holder.source().fetch(WANTED)
        check_silent(refused.value)


class TestDirectory(SourceContract):
    @pytest.fixture(params=["", "venue-1"])
    def holder(self, tmp_path: Path, request: pytest.FixtureRequest) -> DirectoryHolder:
        return DirectoryHolder(tmp_path, request.param)

    @pytest.mark.parametrize(
        ("mode", "what"),
        [(0o604, "read"), (0o620, "write to"), (0o602, "write to"), (0o777, "write to")],
        ids=lambda v: f"{v:o}" if isinstance(v, int) else v,
    )
    def test_files_that_others_can_reach_are_refused_with_the_command(self, holder: DirectoryHolder, mode: int, what: str) -> None:
        holder.put({"api_key": CANARY, "private_key": "x"})
        (holder.directory / "private_key").chmod(mode)
        with pytest.raises(KeyRefused, match=f"others may {what}.*run chmod 600 .*/private_key") as refused:
            holder.source().fetch(WANTED)
        check_silent(refused.value)
        (holder.directory / "private_key").chmod(0o640)  # a group may read: Kubernetes' fsGroup
        assert len(holder.source().fetch(WANTED).values) == 2

    def test_a_directory_that_others_write_is_refused_but_for_a_sticky_one(self, holder: DirectoryHolder) -> None:
        holder.put({"api_key": "x"})
        for mode in (0o770, 0o702):
            holder.directory.chmod(mode)
            with pytest.raises(KeyRefused, match="run chmod go-w"):
                holder.source().fetch(WANTED)
        holder.directory.chmod(0o1777)
        assert holder.source().fetch(WANTED).values

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_a_file_of_another_user_is_refused(self, holder: DirectoryHolder) -> None:
        holder.put({"api_key": "x"})
        os.chown(holder.directory / "api_key", 12_345, -1)
        with pytest.raises(KeyRefused, match="belongs to user 12345"):
            holder.source().fetch(WANTED)
        os.chown(holder.directory, 12_345, -1)  # whose directory is named is trusted
        assert holder.source().fetch(WANTED).values

    def test_what_is_not_a_file_is_refused_and_not_waited_for(self, holder: DirectoryHolder) -> None:
        holder.put({})
        os.mkfifo(holder.directory / "api_key", 0o600)
        with pytest.raises(KeyRefused, match="is not a file"):
            holder.source().fetch(WANTED)

    def test_bytes_are_refused_and_not_shown(self, holder: DirectoryHolder) -> None:
        holder.put({"api_key": "x"})
        (holder.directory / "api_key").write_bytes(CANARY.encode() + b"\xff")
        with pytest.raises(KeyRefused, match="api_key is not UTF-8") as refused:
            holder.source().fetch(WANTED)
        check_silent(refused.value)

    def test_the_newest_file_says_when_it_was_set(self, holder: DirectoryHolder) -> None:
        holder.put({"api_key": "x", "private_key": "y"})
        os.utime(holder.directory / "api_key", ns=(5, 5_000))
        os.utime(holder.directory / "private_key", ns=(5, 7_000))
        assert holder.source().fetch(WANTED).set_ns == 7_000
        (holder.directory / "set-at").write_text("2026-11-22T16:00:00Z\n")
        (holder.directory / "set-at").chmod(0o600)
        assert holder.source().fetch(WANTED).set_ns == NOW_NS

    def test_a_volume_of_kubernetes(self, holder: DirectoryHolder) -> None:
        write_files(holder.directory / "..2026_11_22", {"api_key": "one", "private_key": "two"}, newline="")
        (holder.directory / "..data").symlink_to("..2026_11_22")
        for name in WANTED.fields:
            (holder.directory / name).symlink_to(f"..data/{name}")
        holder.directory.chmod(0o1777)
        found = holder.source().fetch(WANTED)
        assert (shown(found)[0], found.set_ns) == ({"api_key": "one", "private_key": "two"}, 0)
        (holder.directory / "..2026_11_22" / "api_key").chmod(0o644)
        with pytest.raises(KeyRefused, match="defaultMode: 0440"):
            holder.source().fetch(WANTED)


class TestSealed(SourceContract):
    @pytest.fixture
    def holder(self, tmp_path: Path) -> SealedHolder:
        return SealedHolder(tmp_path)

    def write(self, holder: SealedHolder, name: str = "venue-secret") -> None:
        text = seal({"api_key": Secret(CANARY)}, make_certificate(), name=name, namespace="ns", set_ns=NOW_NS)
        (holder.home.root / "environments" / "dev.venue-1.sealed.yaml").write_text(text)

    def test_without_the_cluster_it_says_what_is_sealed_and_what_to_mount(self, holder: SealedHolder) -> None:
        self.write(holder)
        with pytest.raises(
            KeyRefused, match=r"is sealed \(api_key on 2026-11-22\) and only the cluster.*mount Secret venue-secret at /"
        ) as refused:
            holder.source().fetch(WANTED)
        check_silent(refused.value)

    def test_the_sealed_file_says_when_it_was_set(self, holder: SealedHolder) -> None:
        self.write(holder)
        holder.put({"api_key": "x"})
        assert holder.source().fetch(WANTED).set_ns == NOW_NS

    def test_a_file_for_another_secret_is_refused(self, holder: SealedHolder) -> None:
        self.write(holder, "other")
        holder.put({"api_key": "x"})
        with pytest.raises(KeyRefused, match="seals a Secret called 'other'"):
            holder.source().fetch(WANTED)

    @pytest.mark.parametrize("name", ["../etc", "a/b", "Upper", "a..b", "-a"])
    def test_a_name_that_kubernetes_does_not_have_is_refused(self, holder: SealedHolder, name: str) -> None:
        with pytest.raises(KeyRefused, match="is not a name of Kubernetes"):
            open_key_source(f"sealed-secret/{name}", holder.home.place)


class TestProgram(SourceContract):
    @pytest.fixture
    def holder(self, tmp_path: Path) -> ProgramHolder:
        return ProgramHolder(tmp_path)

    def run(self, holder: ProgramHolder, script: str, wanted: Wanted = WANTED) -> Found:
        return ProgramSource(f"sh -c {shlex.quote(script)}", holder.home.place).fetch(wanted)

    def test_a_key_of_one_field_may_be_text(self, holder: ProgramHolder) -> None:
        one = Wanted("dev", "k", ("token",))
        for script, text in [
            ("echo secret", "secret"),
            ("printf 'a\\nb\\n\\n'", "a\nb\n"),
            ("""echo '{"token": "inside"}'""", "inside"),
            ("""echo '{"type": "service"}'""", '{"type": "service"}'),
            ("echo '[1]'", "[1]"),
        ]:
            assert shown(self.run(holder, script, one))[0] == {"token": text}
        assert self.run(holder, "echo '{}'", one) == self.run(holder, "echo", one) == Found({})

    def test_it_gets_what_it_needs_and_nothing_else(self, holder: ProgramHolder) -> None:
        holder.home.environ |= {"AWS_SECRET_ACCESS_KEY": CANARY, "HOME": "/somewhere"}
        text = shown(self.run(holder, "env; pwd; readlink /proc/self/fd/0", Wanted("dev", "k", ("token",))))[0]["token"]
        assert {"SSMD_KEY_ENV=dev", "SSMD_KEY_NAME=k", "HOME=/somewhere", "/dev/null"} <= set(text.splitlines())
        assert str(holder.home.place.directory) in text
        assert CANARY not in text

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            (
                "echo canary-7f3a; echo canary-7f3a >&2; exit 3",
                "exit code 3; run it by hand: cd .* && SSMD_KEY_ENV=dev SSMD_KEY_NAME=venue-1 sh -c",
            ),
            ("kill -9 $$", "SIGKILL"),
            ("kill -40 $$", "signal 40"),
            ("echo '[\"canary-7f3a\"]'", "is not a JSON object of texts by field"),
            ('echo \'{"api_key": {"canary-7f3a": 1}}\'', "api_key is not a text"),
            ("printf '\\377canary-7f3a'", "its output is not UTF-8"),
            ("yes canary-7f3a", "wrote more than 65536 bytes"),
            ("head -c 100000000 /dev/zero | tr '\\0' '['", "wrote more than"),
        ],
    )
    def test_what_it_gets_wrong_is_said_without_its_output(
        self, holder: ProgramHolder, script: str, message: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(KeyRefused, match=message) as refused:
            self.run(holder, script)
        said = str(refused.value).replace(script, "").replace(shlex.quote(script), "")
        assert CANARY not in said
        assert "".join(capfd.readouterr()) == ""

    def test_exit_code_75_is_worth_a_retry(self, holder: ProgramHolder) -> None:
        with pytest.raises(KeyUnavailable, match="try again"):
            self.run(holder, "exit 75")

    @pytest.mark.parametrize("script", ["echo secret; sleep 60", "sleep 60 & exit 0", "exec >&-; sleep 60"])
    def test_it_is_ended_when_it_is_late(self, holder: ProgramHolder, script: str) -> None:
        begun = time.monotonic()
        home = Home(holder.home.root, {"PATH": os.environ["PATH"]}, WallClock())  # type: ignore[arg-type]
        with pytest.raises(KeyUnavailable, match="not done after"):
            ProgramSource(f"sh -c {shlex.quote(script)}", home.place, timeout_s=0.3).fetch(WANTED)
        assert time.monotonic() - begun < 5

    @pytest.mark.parametrize("command", ["'unclosed", " ", "/no/such/program", "./not-there", "/etc"])
    def test_what_is_not_a_command_is_refused(self, holder: ProgramHolder, command: str) -> None:
        with pytest.raises(KeyRefused, match="exec:"):
            ProgramSource(command, holder.home.place).fetch(WANTED)

    def test_there_is_no_shell(self, holder: ProgramHolder) -> None:
        source = ProgramSource(f"{sys.executable} -c 'import sys; print(sys.argv[1:])' $HOME `id` ; exit", holder.home.place)
        assert shown(source.fetch(Wanted("dev", "k", ("token",))))[0] == {"token": "['$HOME', '`id`', ';', 'exit']"}


class TestAge(SourceContract):
    @pytest.fixture
    def holder(self, tmp_path: Path) -> AgeHolder:
        return AgeHolder(tmp_path)


def test_every_source_of_the_table_opens(tmp_path: Path) -> None:
    place = Home(tmp_path).place
    for kind, (shape, _) in SOURCES.items():
        text = shape.replace("DIRECTORY", "/d").replace("NAME", "n").replace("PATH", "secret/p").replace("COMMAND", "true")
        assert type(open_key_source(text, place)).__module__.startswith("ssmd.keys."), kind
    with pytest.raises(CallerError, match="is not one of env, file:DIRECTORY"):
        open_key_source("vualt/secret/p", place)
