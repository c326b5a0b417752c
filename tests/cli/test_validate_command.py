"""`ssmd validate`, `diff`, `commit` and `completion`, as a person in a shell uses them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exchanges.simulator.server import SimulatorServer
from exchanges.simulator.synthetic import SyntheticFeed
from journal.clock import WallClock
from ssmd import reach
from ssmd.cli import COMMANDS
from ssmd.metadata.project import Project
from ssmd.settings import Settings
from tests import ministack, valkey
from tests.cli import schema
from tests.cli.conftest import Ran, Ssmd
from tests.journal.servers import TOKEN, free_port, nats_server
from tests.metadata.starter import copy_starter, edit

CANARY = "canary-7f3a91-not-to-be-seen"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    made = copy_starter(root)
    monkeypatch.chdir(root)
    return made


@pytest.fixture
def repository(project: Project) -> Project:
    for command in (["init", "--quiet"], ["config", "user.name", "Test"], ["config", "user.email", "test@example.com"]):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    return project


LOCAL, FEED = "exchanges/environments/local.yaml", "exchanges/feeds/kalshi.yaml"


# --- validate -----------------------------------------------------------------------------------------------------------------------------


def test_one_line_a_file(ssmd: Ssmd, project: Project) -> None:
    ran = ssmd("validate")
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.out.splitlines()) == 10
    assert f"ok      {FEED}" in ran.out


def test_errors_exit_1_with_file_line_and_place(ssmd: Ssmd, project: Project) -> None:
    edit(project.root / LOCAL, "feed: kalshi", "feed: kalsi")
    edit(project.root / FEED, "status: active", "status: deprecated")
    ran = ssmd("validate")
    assert ran.code == 1
    assert f"error   {LOCAL}: 1 error\n          error: line 3 feed: no feed 'kalsi'; nearest: kalshi" in ran.out
    ran = ssmd("validate", "-o", "json")
    assert ran.code == 1
    schema.check("validate", ran.document)
    by_name = {row["file"].rpartition("/")[2]: row for row in ran.document}
    assert (by_name["local.yaml"]["status"], by_name["kalshi-demo.yaml"]["status"], by_name["kalshi.yaml"]["status"]) == (
        "error",
        "warning",
        "ok",
    )
    assert by_name["local.yaml"]["findings"][0]["line"] == 3


def test_warnings_alone_exit_0_and_paths_choose_files(ssmd: Ssmd, project: Project) -> None:
    edit(project.root / FEED, "status: active", "status: deprecated")
    assert ssmd("validate", "local").code == 0
    assert ssmd("validate", "local").out.startswith(f"warning {LOCAL}: 1 warning\n")
    edit(project.root / LOCAL, "feed: kalshi", "feed: nope")
    assert ssmd("validate", "exchanges/feeds", "kalshi-prod").code == 0
    assert ssmd("validate", LOCAL).code == 1
    assert ssmd("--project", project.root, "validate", "nope").code == 2
    assert "nearest" in ssmd("validate", "kalshi-prodd").err


def test_outside_a_project_the_starter_set_is_checked(ssmd: Ssmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ssmd("validate").code == 0
    assert ssmd("commit", "-m", "x").code == 2
    assert ssmd("--project", tmp_path, "validate").code == 2


def test_keys_are_present_or_not_and_never_shown(ssmd: Ssmd, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(project.root / "exchanges/environments/kalshi-demo.yaml", "source: age", "source: env")
    monkeypatch.setenv("SSMD_KALSHI_KEY_ID", CANARY)
    ran = ssmd("validate", "kalshi-demo", "--check-keys", "-o", "json")
    schema.check("validate", ran.document)
    assert ran.code == 1
    (said,) = ran.document[0]["findings"]
    assert (said["severity"], said["place"]) == ("error", "keys.kalshi")
    assert "has no private_key" in said["text"]
    assert "key set kalshi-demo kalshi" in said["text"]
    monkeypatch.setenv("SSMD_KALSHI_PRIVATE_KEY", CANARY)
    ran = ssmd("validate", "kalshi-demo", "--check-keys")
    assert ran.code == 0
    assert "note: keys.kalshi: key_id, private_key: there (source env)" in ran.out
    assert CANARY not in ran.out + ran.err


def test_a_key_that_is_not_required_is_a_warning_and_a_refused_source_an_error(ssmd: Ssmd, project: Project) -> None:
    path = project.root / "exchanges/environments/kalshi-demo.yaml"
    edit(path, "source: age", "source: file:/nowhere/at/all\n    required: false")
    assert ssmd("validate", "kalshi-demo", "--check-keys").out.startswith("warning ")
    folder = project.root / "keys"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    edit(path, "file:/nowhere/at/all\n    required: false", f"file:{folder}")
    ran = ssmd("validate", "kalshi-demo", "--check-keys")
    assert ran.code == 1
    assert "chmod" in ran.out


def test_a_sealed_key_that_only_the_cluster_opens_is_judged_by_its_file(
    ssmd: Ssmd, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSMD_SECRETS", str(project.root / "unmounted"))
    ran = ssmd("validate", "kalshi-prod", "--check-keys")
    assert ran.code == 1
    assert "keys.nats: sealed-secret/kalshi-prod-nats has no token" in ran.out
    text = (
        "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata:\n  name: kalshi-prod-{0}\n  namespace: ssmd\n"
        "spec:\n  encryptedData:\n    {1}: QUFB\n  template:\n    metadata:\n      name: kalshi-prod-{0}\n      namespace: ssmd\n"
    )
    sealed = project.root / "exchanges/environments/kalshi-prod.nats.sealed.yaml"
    sealed.write_text(text.format("nats", "token"))
    ran = ssmd("validate", "kalshi-prod", "--check-keys")
    assert "note: keys.nats: token: sealed; the cluster mounts it" in ran.out, ran.out
    sealed.write_text(text.format("nats", "tokn"))
    assert "keys.nats: token is not sealed" in ssmd("validate", "kalshi-prod", "--check-keys").out
    # Mounted here, the volume is what counts, and not what the file says of it.
    sealed.write_text(text.format("nats", "token"))
    mount = project.root / "unmounted" / "kalshi-prod-nats"
    mount.mkdir(parents=True)
    (mount / "token").write_text(CANARY)
    (mount / "token").chmod(0o666)
    ran = ssmd("validate", "kalshi-prod", "--check-keys")
    assert "error: keys.nats: others may write to" in ran.out, ran.out


# --- reachability -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    place = tmp_path_factory.mktemp("reach")
    (place / "nats").mkdir()
    with nats_server(place / "nats") as nats, ministack.running(place / "s3") as s3, valkey.running(place / "valkey") as redis:
        s3.make_bucket("market-data")
        yield nats.url, s3.endpoint, redis.url


def desk(project: Project, nats: str, s3: str, redis: str, rest: str) -> None:
    (project.root / "exchanges/environments/desk.yaml").write_text(
        f"""name: desk
feed: kalshi
keys:
  kalshi: {{type: api_key, fields: [key_id, private_key]}}
  bus: {{type: transport, fields: [token]}}
  store: {{type: storage, fields: [access_key_id, secret_access_key]}}
venue: {{type: live, key: kalshi, rest: "{rest}"}}
journal: {{type: jetstream, url: "{nats}", token: $key:bus.token}}
storage:
  type: s3
  bucket: market-data
  endpoint: "{s3}"
  region: us-east-1
  access_key_id: $key:store.access_key_id
  secret_access_key: $key:store.secret_access_key
cache: {{type: redis, url: "{redis}"}}
"""
    )


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BUS_TOKEN", TOKEN), ("STORE_ACCESS_KEY_ID", "test"), ("STORE_SECRET_ACCESS_KEY", "test")):
        monkeypatch.setenv(f"SSMD_{name}", value)


@pytest.mark.usefixtures("keys")
def test_real_servers_answer_and_nothing_is_written(ssmd: Ssmd, project: Project, servers: tuple[str, str, str]) -> None:
    async def scene() -> Ran:
        async with SimulatorServer(SyntheticFeed(1, frames=500), WallClock(), speed=None, hold=True) as sim:
            desk(project, *servers, sim.rest_url)
            return await asyncio.to_thread(ssmd, "validate", "desk", "--check-reachable", "-o", "json")

    ran = asyncio.run(scene())
    schema.check("validate", ran.document)
    said = {f["place"]: (f["severity"], f["text"]) for f in ran.document[0]["findings"]}
    assert ran.code == 0, said
    assert {severity for severity, _ in said.values()} == {"note"}
    assert "JetStream" in said["journal"][1]
    assert said["storage"][1] == "s3://market-data lists 0 folders of desk; writing was not tried"
    assert said["cache"][1].endswith("answers")
    assert "trading is" in said["venue"][1]
    assert TOKEN not in ran.out


@pytest.mark.usefixtures("keys")
def test_what_does_not_answer_is_told_in_words_all_at_once(ssmd: Ssmd, project: Project) -> None:
    gone = f"127.0.0.1:{free_port()}"
    desk(project, f"nats://{gone}", f"http://{gone}", f"redis://{gone}/0", f"http://{gone}/trade-api/v2")
    began = time.monotonic()
    ran = ssmd("validate", "desk", "--check-reachable", "-o", "json")
    assert time.monotonic() - began < 2 * reach.TIMEOUT_S
    assert ran.code == 1
    assert [(f["place"], f["severity"]) for f in ran.document[0]["findings"]] == [
        ("journal", "error"), ("storage", "error"), ("cache", "error"), ("venue", "error"),
    ]  # fmt: skip
    assert all(len(f["text"]) > 20 and "Traceback" not in f["text"] for f in ran.document[0]["findings"])


@pytest.mark.usefixtures("keys")
def test_servers_that_answer_but_are_of_no_use_are_errors(
    ssmd: Ssmd, project: Project, servers: tuple[str, str, str], tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    with nats_server(tmp_path / "plain", jetstream=False) as plain:
        desk(project, plain.url, servers[1], servers[2], servers[1])  # and an S3 for a venue
        edit(project.root / "exchanges/environments/desk.yaml", "bucket: market-data", "bucket: no-such-bucket")
        said = {f["place"]: f for f in ssmd("validate", "desk", "--check-reachable", "-o", "json").document[0]["findings"]}
    assert {place: f["severity"] for place, f in said.items()} == {
        "journal": "error",
        "storage": "error",
        "cache": "note",
        "venue": "error",
    }
    assert "has no JetStream for us" in said["journal"]["text"]
    assert "no-such-bucket" in said["storage"]["text"]


def test_what_hangs_is_given_up_after_the_time(project: Project) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        desk(project, f"nats://{where}", f"http://{where}", f"redis://{where}/0", f"http://{where}/trade-api/v2")
        environ = {"SSMD_BUS_TOKEN": TOKEN, "SSMD_STORE_ACCESS_KEY_ID": "a", "SSMD_STORE_SECRET_ACCESS_KEY": "b"}
        settings = Settings.read({"env": "desk"}, environ, project.root)
        began = time.monotonic()
        said = list(reach.reach_problems(settings, WallClock(), 0.5))
        assert time.monotonic() - began < 3
    assert [(p.place, p.severity, p.text) for p in said] == [
        ((name,), "error", "no answer within 0.5 s") for name in ("journal", "storage", "cache", "venue")
    ]


def test_the_starters_own_environment_needs_nobody(ssmd: Ssmd, project: Project) -> None:
    ran = ssmd("validate", "local", "--check-reachable", "--check-keys")
    assert ran.code == 0
    assert ran.out.count("note: ") == 4
    assert "embedded nats-server runs" in ran.out


# --- diff and commit ----------------------------------------------------------------------------------------------------------------------


def test_diff_then_commit_then_nothing(ssmd: Ssmd, repository: Project) -> None:
    ran = ssmd("diff", "-o", "json")
    assert ran.code == 0
    schema.check("diff", ran.document)
    assert len(ran.document) == 10
    assert "10 files changed" in ssmd("diff", "--stat").out
    ran = ssmd("commit", "-m", "start", "-o", "json")
    assert ran.code == 0
    schema.check("commit", ran.document)
    assert len(ran.document["changes"]) == 10
    ran = ssmd("commit", "-m", "again")
    assert (ran.code, ran.out) == (0, "nothing to commit: the folders are as they were committed\n")
    schema.check("commit", ssmd("commit", "-m", "again", "-o", "json").document)
    assert (ssmd("diff").code, ssmd("diff").out) == (0, "")
    edit(repository.root / FEED, "status: active", "status: deprecated")
    assert "+status: deprecated" in ssmd("diff").out
    ran = ssmd("commit", "-m", "deprecated")
    assert ran.out.endswith(f": 1 file\n  changed  {FEED}\n")


def test_errors_are_told_and_nothing_is_committed(ssmd: Ssmd, repository: Project) -> None:
    edit(repository.root / LOCAL, "feed: kalshi", "feed: nope")
    ran = ssmd("commit", "-m", "broken")
    assert ran.code == 1
    assert f"error: {LOCAL}:3: feed: no feed 'nope'" in ran.err
    assert "nothing was committed" in ran.err
    assert subprocess.run(["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=repository.root, check=False, capture_output=True).returncode
    ran = ssmd("diff")
    assert ran.code == 1
    assert "+feed: nope" in ran.out
    assert "no feed 'nope'" in ran.err


def test_without_a_repository_git_init_is_named(ssmd: Ssmd, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.root.parent))
    for command in (["diff"], ["commit", "-m", "x"]):
        ran = ssmd(*command)
        assert ran.code == 2
        assert "git init" in ran.err


# --- completion ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `ssmd`, as an installation makes it."""
    place = tmp_path_factory.mktemp("bin")
    root = Path(__file__).resolve().parents[2]
    (place / "ssmd").write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\nfrom ssmd.cli import main\nsys.exit(main())\n"
    )
    (place / "ssmd").chmod(0o755)
    return place


def bash(bin_dir: Path, folder: Path, *lines: str) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SSMD_", "COMP"))} | {"PATH": f"{bin_dir}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-euc", "\n".join(lines)], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complete(bin_dir: Path, folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    quoted = " ".join(f"'{word}'" for word in ("ssmd", *words))
    asked = (f"COMP_WORDS=({quoted})", f"COMP_CWORD={len(words)}", "COMPREPLY=()", "_ssmd_completion ssmd")
    script = ("source <(ssmd completion bash)", *asked, 'printf "%s\\n" "${COMPREPLY[@]}"')
    return bash(bin_dir, folder, *script).split()


def test_bash_completes_commands_options_and_names(bin_dir: Path, project: Project) -> None:
    (project.root / "exchanges/environments/broken.yaml").write_text("name: [")
    assert complete(bin_dir, project.root, "val") == ["validate"]
    assert set(complete(bin_dir, project.root, "")) == set(COMMANDS)
    assert complete(bin_dir, project.root, "commit", "--mes") == ["--message"]
    assert complete(bin_dir, project.root, "journal", "st") == ["streams"]
    assert complete(bin_dir, project.root, "validate", "kalshi-") == ["kalshi-demo", "kalshi-prod"]
    assert complete(bin_dir, project.root, "--env", "l") == ["local"]
    assert complete(bin_dir, project.root, "book", "--env", "b") == ["broken"]
    assert complete(bin_dir, project.root, "journal", "tail", "-o", "js") == ["json", "jsonl"]
    assert complete(bin_dir, project.root, "completion", "z") == ["zsh"]
    assert complete(bin_dir, project.root, "no-such-command", "x") == []


def test_names_are_of_the_project_that_the_line_names(bin_dir: Path, project: Project, tmp_path: Path) -> None:
    (project.root / "exchanges/environments/mine.yaml").write_text("name: mine\nfeed: kalshi\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert complete(bin_dir, elsewhere, "--project", str(project.root), "validate", "mi") == ["mine"]


def test_the_root_completes_without_importing_commands(bin_dir: Path, tmp_path: Path) -> None:
    script = (
        "import os, sys; os.environ.update(_SSMD_COMPLETE='bash_complete', COMP_WORDS='ssmd', COMP_CWORD='1')\n"
        "from ssmd.cli import main; code = main()\n"
        "heavy = sorted(m for m in ('numpy', 'nats', 'pydantic', 'msgspec', 'ssmd.commands') if m in sys.modules)\n"
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.strip()) == (0, "[]")
    assert "plain,validate" in ran.stdout


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", "complete -o nosort -F _ssmd_completion ssmd"),
        ("zsh", "compdef _ssmd_completion ssmd"),
        ("fish", "complete --no-files --command ssmd"),
    ],
)
def test_scripts(ssmd: Ssmd, shell: str, words: str) -> None:
    ran = ssmd("completion", shell)
    assert ran.code == 0
    assert words in ran.out
    assert f"_SSMD_COMPLETE={shell}_complete" in ran.out
    assert ssmd("completion", "tcsh").code == 2


def test_an_url_that_came_from_a_key_is_not_shown(ssmd: Ssmd, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = f"127.0.0.1:{free_port()}"
    for url in (f"http://{CANARY}@{gone}", f"nonsense://{CANARY}@{gone}", f"http://{gone}/{CANARY}", f"http://127.0.0.1:{CANARY}"):
        for name in ("BUS_URL", "CACHE_URL", "STORE_URL", "KALSHI_URL"):
            monkeypatch.setenv(f"SSMD_{name}", url)
        (project.root / "exchanges/environments/desk.yaml").write_text(
            """name: desk
feed: kalshi
keys:
  kalshi: {type: api_key, fields: [key_id, private_key, url]}
  bus: {type: transport, fields: [token, url]}
  store: {type: storage, fields: [access_key_id, secret_access_key, url]}
  cache: {type: database, fields: [password, url]}
venue: {type: live, key: kalshi, rest: $key:kalshi.url}
journal: {type: jetstream, url: $key:bus.url}
storage: {type: s3, bucket: market-data, region: us-east-1, endpoint: $key:store.url}
cache: {type: redis, url: $key:cache.url}
"""
        )
        ran = ssmd("validate", "desk", "--check-reachable", "--check-keys")
        assert ran.code == 1
        assert ran.out.count("error: ") >= 4
        assert CANARY not in ran.out + ran.err
