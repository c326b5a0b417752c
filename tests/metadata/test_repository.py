from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from journal.errors import CallerError
from ssmd import configuration
from ssmd.metadata import repository as module
from ssmd.metadata.folders import is_ours
from ssmd.metadata.project import Project, packaged
from ssmd.metadata.repository import Repository
from ssmd.settings import Settings
from tests.metadata.starter import copy_starter, edit

FEED = "exchanges/feeds/kalshi.yaml"


def git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=root, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def start(root: Path) -> None:
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Test")
    git(root, "config", "user.email", "test@example.com")


@pytest.fixture(autouse=True)
def plain_git() -> Iterator[None]:
    """Git without what the machine, the user or a hook that runs the tests has said."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("GIT_")]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


@pytest.fixture(params=["", "deep/er folder:2"], ids=["top", "sub"])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    """In a fresh repository, at its top or below."""
    start(tmp_path)
    return copy_starter(tmp_path / request.param)


def committed(project: Project) -> Project:
    assert Repository(project).commit("start")
    return project


def said(project: Project) -> list[str]:
    return [" ".join(str(change).split()) for change in Repository(project).changes()]


def files(project: Project, commit: str = "HEAD") -> list[str]:
    return git(project.root, "show", "--format=", "--name-status", "--relative", commit).splitlines()


def test_a_fresh_repository_without_a_commit(project: Project) -> None:
    done = Repository(project).commit("start")
    assert done is not None
    assert len(done.changes) == 10
    assert {change.what for change in done.changes} == {"new"}
    assert len(files(project)) == 10
    assert git(project.root, "log", "--format=%h %s").strip() == f"{done.commit} start"
    assert Repository(project).commit("again") is None
    assert git(project.root, "status", "--porcelain") == ""


def test_changed_new_deleted_and_renamed_files(project: Project) -> None:
    committed(project)
    root = project.root
    edit(root / FEED, "status: active", "status: deprecated")
    (root / "exchanges/feeds/kraken.yaml").unlink()
    (root / "exchanges/environments/local.yaml").rename(root / "exchanges/environments/here.yaml")
    (root / "exchanges/environments/kalshi-demo.kalshi.age").write_text("sealed")
    (root / "exchanges/environments/recipients.txt").write_text("age1")
    (root / "exchanges/feeds/notes.txt").write_text("not ours")
    wanted = [
        "renamed exchanges/environments/local.yaml -> exchanges/environments/here.yaml",
        "new exchanges/environments/kalshi-demo.kalshi.age",
        "new exchanges/environments/recipients.txt",
        "changed exchanges/feeds/kalshi.yaml",
        "deleted exchanges/feeds/kraken.yaml",
    ]
    assert said(project) == wanted
    shown = Repository(project).diff()
    assert "-status: active\n+status: deprecated\n" in shown
    assert "rename to exchanges/environments/here.yaml" in shown
    assert "notes.txt" not in shown
    assert "5 files changed" in Repository(project).diff(stat=True)
    done = Repository(project).commit("all kinds")
    assert done
    assert [" ".join(str(change).split()) for change in done.changes] == wanted
    assert len(files(project)) == 5
    assert git(root, "ls-files", "--others").splitlines() == ["exchanges/feeds/notes.txt"]


def test_what_is_staged_elsewhere_stays_staged_and_what_is_staged_of_ours_is_committed_as_it_is_now(project: Project) -> None:
    committed(project)
    root = project.root
    (root / "code.py").write_text("staged\n")
    git(root, "add", "code.py")
    (root / "code.py").write_text("and changed since\n")
    edit(root / FEED, "status: active", "status: deprecated")
    git(root, "add", FEED)
    edit(root / FEED, "status: deprecated", "status: disabled")
    git(root, "rm", "--quiet", "--cached", "exchanges/feeds/kraken.yaml")  # and yet it is there: it stays
    assert Repository(project).commit("ours")
    assert files(project) == [f"M\t{FEED}"]
    assert "status: disabled" in git(root, "show", f"HEAD:./{FEED}")
    assert git(root, "show", ":./code.py") == "staged\n"
    assert (root / "code.py").read_text() == "and changed since\n"


def test_a_name_with_a_wildcard_is_that_name(project: Project) -> None:
    committed(project)
    for name in ("any*.yaml", "any/one.yaml"):
        path = project.exchanges / "feeds" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("name: any\n")
    git(project.root, "add", "exchanges/feeds/any/one.yaml")
    assert Repository(project).commit("one of them")
    assert files(project) == ["A\texchanges/feeds/any*.yaml"]
    assert git(project.root, "diff", "--cached", "--name-only", "--relative").strip() == "exchanges/feeds/any/one.yaml"


def test_looking_writes_nothing_into_the_repository(project: Project) -> None:
    committed(project)
    edit(project.root / FEED, "status: active", "status: deprecated")
    top = Path(git(project.root, "rev-parse", "--show-toplevel").strip())

    def stored() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in (top / ".git").rglob("*") if p.is_file()}

    before = stored()
    assert said(project)
    assert Repository(project).diff()
    assert stored() == before


def test_looking_runs_no_program_of_the_repositorys_configuration(project: Project, tmp_path: Path) -> None:
    committed(project)
    edit(project.root / FEED, "status: active", "status: deprecated")
    (tmp_path / "hooks").mkdir()
    for program in ("program", "hooks/post-index-change", "hooks/reference-transaction"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho {program} >> {tmp_path}/ran\ncat\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / ".gitattributes").write_text("* diff=evil\n")
    for name in ("core.fsmonitor", "core.pager", "diff.external", "diff.evil.textconv", "diff.evil.command"):
        git(project.root, "config", name, str(tmp_path / "program"))
    git(project.root, "config", "core.hooksPath", str(tmp_path / "hooks"))
    assert "+status: deprecated" in Repository(project).diff()
    assert said(project) == ["changed exchanges/feeds/kalshi.yaml"]
    environment = {"SSMD_ENV": "local", "SSMD_PROJECT": str(project.root)}
    assert configuration.document(Settings.read({}, environment), 20261122)["git"]["dirty"]
    assert not (tmp_path / "ran").exists()


def test_a_hook_that_refuses_leaves_the_index_as_it_was(project: Project) -> None:
    committed(project)
    root = project.root
    (root / "exchanges/feeds/new.yaml").write_text("name: new\n")
    edit(root / FEED, "status: active", "status: deprecated")
    (root / "code.py").write_text("staged\n")
    git(root, "add", "code.py")
    hook = Path(git(root, "rev-parse", "--path-format=absolute", "--git-path", "hooks/pre-commit").strip())
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ngit diff --cached --name-only\necho the desk says no >&2\nexit 1\n")
    hook.chmod(0o755)
    index, head = git(root, "ls-files", "-s"), git(root, "rev-parse", "HEAD")
    with pytest.raises(CallerError, match="the desk says no"):
        Repository(project).commit("refused")
    assert (git(root, "ls-files", "-s"), git(root, "rev-parse", "HEAD")) == (index, head)
    hook.write_text('#!/bin/sh\ntest -z "$(git diff --cached --name-only | grep -v exchanges/)"\n')
    assert Repository(project).commit("allowed: the hook saw our files only")


def test_a_missing_identity_is_told_in_gits_own_words(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    git(project.root, "config", "--unset", "user.email")
    git(project.root, "config", "user.useConfigOnly", "true")
    with pytest.raises(CallerError, match=r"user\.email"):
        Repository(project).commit("who?")
    assert git(project.root, "ls-files") == ""


def test_from_any_directory_and_without_a_repository(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    below = project.exchanges / "environments"
    assert Repository(Project.find(below)).commit("from below")
    elsewhere = copy_starter(tmp_path_factory.mktemp("nogit"))
    with pytest.raises(CallerError, match="run `git init` there"):
        Repository(elsewhere)
    with pytest.raises(CallerError, match="ssmd init"):
        Repository(packaged())
    with pytest.raises(CallerError, match="message"):
        Repository(project).commit("  ")


def test_files_that_git_ignores_are_named(project: Project) -> None:
    (project.root / ".gitignore").write_text("*.age\nkraken.yaml\n")
    (project.exchanges / "environments" / "kalshi-demo.kalshi.age").write_text("sealed")
    assert Repository(project).ignored() == ["exchanges/environments/kalshi-demo.kalshi.age", "exchanges/feeds/kraken.yaml"]
    assert len(Repository(project).changes()) == 9


def test_a_diff_that_is_too_large_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DIFF_BYTES", 2_000)
    with pytest.raises(CallerError, match="--stat"):
        Repository(project).diff()
    assert "10 files changed" in Repository(project).diff(stat=True)


def test_conflicts_are_gits_business(project: Project) -> None:
    committed(project)
    root = project.root
    git(root, "checkout", "--quiet", "-b", "other")
    edit(root / FEED, "status: active", "status: disabled")
    assert Repository(project).commit("theirs")
    git(root, "checkout", "--quiet", "main")
    edit(root / FEED, "status: active", "status: deprecated")
    assert Repository(project).commit("ours")
    assert subprocess.run(["git", "merge", "other"], cwd=root, check=False, capture_output=True).returncode
    index = git(root, "ls-files", "-s")
    with pytest.raises(CallerError, match="merge"):
        Repository(project).commit("in the middle")
    assert git(root, "ls-files", "-s") == index


# --- whatever the working tree and the index are ------------------------------------------------------------------------------------------

OURS = [
    "feeds/a.yaml", "feeds/we ird*.yaml", "feeds/:(top)b.yaml", "schemas/c.capnp", "schemas/old/d.proto",
    "environments/e.yaml", "environments/e.k.age", "environments/ü.yaml",
]  # fmt: skip
# The last is in a folder where a file of ours may be, the one before is what a wildcard in a name of ours would match.
OTHERS = [
    "../code.py", "../feeds/a.yaml", "../exchanges/feeds/a.yaml", "other.yaml", "exchanges/feeds/a.txt",
    "exchanges/feeds/__init__.py", "exchanges/feeds/we ird/x.yaml", "exchanges/feeds/a.yaml/x",
]  # fmt: skip
PATHS = [f"exchanges/{name}" for name in OURS] + OTHERS
STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "delete", "stage", "unstage", "forget"]), st.sampled_from(PATHS), st.integers(0, 3)),
    max_size=14,
)


def walk(root: Path, steps: list[tuple[str, str, int]]) -> None:
    for what, name, content in steps:
        path = root / name
        if what == "write":
            if path.parent.is_file():
                path.parent.unlink()
            if path.is_dir():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two kinds of content, long enough for git to see a rename.
            path.write_text(f"{content}\n" * 20)
        elif what == "delete":
            path.unlink() if path.is_file() else None
        else:
            command = {
                "stage": ["add", "-A"],
                "unstage": ["reset", "--quiet"],
                "forget": ["rm", "--cached", "--quiet", "--ignore-unmatch"],
            }[what]
            # Fails for a path that is nowhere.
            subprocess.run(["git", *command, "--", f":(literal){name}"], cwd=root, check=False, capture_output=True)


def entries(root: Path, *command: str) -> dict[str, str]:
    """Path from the top of the repository -> mode and object."""
    listed = git(root, "-C", git(root, "rev-parse", "--show-toplevel").strip(), *command).split("\0")
    return {line.partition("\t")[2]: line.partition("\t")[0] for line in listed if line}


def mine(path: str) -> bool:
    return path.startswith("p/exchanges/") and is_ours(PurePosixPath(path).relative_to("p/exchanges"))


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root.parent).as_posix(): p.read_bytes() for p in root.parent.rglob("*") if p.is_file() and ".git" not in p.parts}


@settings(max_examples=60)
@given(base=STEPS, later=STEPS, fresh=st.booleans())
@example(
    base=[],
    later=[("write", "exchanges/feeds/a.yaml/x", 0), ("stage", "exchanges/feeds/a.yaml", 0), ("write", "exchanges/feeds/a.yaml", 0)],
    fresh=False,
)
def test_after_a_commit_all_else_is_bit_identical(base: list[tuple[str, str, int]], later: list[tuple[str, str, int]], fresh: bool) -> None:
    top = Path(tempfile.mkdtemp())
    root = top / "p"
    try:
        start(top)
        for folder in ("feeds", "schemas", "environments"):
            (root / "exchanges" / folder).mkdir(parents=True)
        walk(root, base)
        if not fresh:
            git(root, "commit", "--quiet", "--allow-empty", "-m", "base")
        walk(root, later)
        verify(root, fresh=fresh)
    finally:
        shutil.rmtree(top)


def verify(root: Path, *, fresh: bool) -> None:
    def head() -> dict[str, str]:
        return (
            {} if fresh and done is None else {p: e.replace("blob ", "") for p, e in entries(root, "ls-tree", "-r", "-z", "HEAD").items()}
        )

    def staged() -> dict[str, str]:
        return {p: e.removesuffix(" 0") for p, e in entries(root, "ls-files", "-s", "-z").items()}

    done = None
    before_head, before_index, before_tree = head(), staged(), contents(root)
    repository = Repository(Project(root))
    changes = repository.changes()
    done = repository.commit("ours")
    assert (done is None) == (not changes)
    assert contents(root) == before_tree
    after_head, after_index = head(), staged()
    # Git cannot hold both a file and what was staged below a folder of its name.
    gone = {p for p in (*before_index, *before_head) if any(p.startswith(f"{ours}/") for ours in after_index if mine(ours))}
    assert {p: e for p, e in after_index.items() if not mine(p)} == {p: e for p, e in before_index.items() if not mine(p) and p not in gone}
    assert {p: e for p, e in after_head.items() if not mine(p)} == {p: e for p, e in before_head.items() if not mine(p) and p not in gone}
    # Ours are committed as they are in the working tree, and what was committed is what the index has.
    assert {p for p in after_head if mine(p)} == {p for p in before_tree if mine(p)}
    for path in (p for p in after_head if mine(p)):
        assert git(root.parent, "cat-file", "blob", after_head[path].split()[-1]).encode() == before_tree[path]
    if done:
        touched = {f"p/{path}" for change in done.changes for path in (change.path, change.before) if path}
        assert {p: after_index.get(p) for p in touched} == {p: after_head.get(p) for p in touched}
        assert {p for p in {*before_head, *after_head} if before_head.get(p) != after_head.get(p)} == touched
    else:
        assert (after_head, after_index) == (before_head, before_index)
    assert repository.commit("again") is None
