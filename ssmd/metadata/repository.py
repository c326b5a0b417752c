"""The project's folders in the user's git repository: what has changed in them, and committing that and nothing else.

Git itself does it, by argument vectors. What would be committed is made in an index and an object store of our own, from the last commit
and the working tree: untracked, deleted and renamed files, any staged state and a repository without a commit are all one case. The
user's own index is changed by ``git commit --only`` alone.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from journal.errors import CallerError
from ssmd.metadata.folders import is_ours
from ssmd.metadata.project import FOLDERS, Project

MAX_DIFF_BYTES = 8 << 20
# Of lists of names: as many as a folder may have files (folders.MAX_FILES), each of 1 KiB.
_MAX_NAMES_BYTES = 10 << 20
_MAX_WORDS_BYTES = 4 << 10  # of git's own words that are repeated
_PATHS = tuple(f"exchanges/{folder}" for folder in FOLDERS)
_WHAT = {"A": "new", "M": "changed", "T": "changed", "D": "deleted", "R": "renamed"}


class Change(NamedTuple):
    """`path` from the project's root; `before` is what it was called where it was renamed."""

    what: str  # new, changed, deleted, renamed
    path: str
    before: str = ""

    def __str__(self) -> str:
        return f"{self.what:8} {f'{self.before} -> ' if self.before else ''}{self.path}"


class Committed(NamedTuple):
    commit: str  # abbreviated
    changes: list[Change]


class Repository:
    """Of the project, which may be a folder in it. Every method raises `CallerError` with git's own words where git refuses."""

    def __init__(self, project: Project) -> None:
        self._root = project.writable().root
        try:
            self._run("rev-parse", "--is-inside-work-tree")
        except CallerError as error:
            if "not a git repository" not in str(error):
                raise
            raise CallerError(f"{self._root} is in no git repository: run `git init` there") from None

    def changes(self) -> list[Change]:
        """What a commit would hold, sorted by path."""
        with self._proposed() as environ:
            return self._changes(environ)

    def diff(self, *, stat: bool = False, color: bool = False) -> str:
        """The same as git shows it; "" for nothing. Raises `CallerError` when it is larger than 8 MiB."""
        options = ["--stat" if stat else "--patch", f"--color={'always' if color else 'never'}", "--no-ext-diff", "--no-textconv"]
        with self._proposed() as environ:
            shown = self._run("diff", "--cached", "--relative", "-M", *options, self._last(), environ=environ, limit_bytes=MAX_DIFF_BYTES)
        return shown.decode(errors="replace")

    def ignored(self) -> list[str]:
        """Files of ours that a .gitignore keeps out."""
        return self._names("ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", *_PATHS)

    def commit(self, message: str) -> Committed | None:
        """Commit the folders as they are in the working tree; None when nothing has changed.

        What is staged elsewhere stays staged, and out of the commit. Hooks run. After a refusal the index is as it was.
        """
        if not message.strip():
            raise CallerError("a commit needs a message: -m 'why'")
        changes = self.changes()
        if not changes:
            return None
        staged = set(self._names("ls-files", "--cached", "-z", "--", *_PATHS))
        new = [change.path for change in changes if change.what != "deleted" and change.path not in staged]
        paths = [path for change in changes for path in (change.before, change.path) if path]
        try:
            if new:
                # Git commits what it knows; that a file is meant to be added is no content yet.
                self._run("add", "--force", "--intent-to-add", *_FROM_STDIN, names=_literal(new))
            self._run("commit", "--quiet", "--only", f"--message={message}", *_FROM_STDIN, names=_literal(paths), translated=True)
        except BaseException:
            if new:
                self._run("update-index", "--force-remove", "-z", "--stdin", names=new)
            raise
        return Committed(self._run("rev-parse", "--short", "HEAD").decode().strip(), changes)

    @contextmanager
    def _proposed(self) -> Iterator[Mapping[str, str]]:
        """Variables with which git's index is the last commit with our files as they are in the working tree."""
        with tempfile.TemporaryDirectory(prefix="ssmd-index-") as directory:
            objects = self._run("rev-parse", "--path-format=absolute", "--git-path", "objects").decode().removesuffix("\n")
            Path(directory, "objects").mkdir()
            environ = {
                "GIT_INDEX_FILE": f"{directory}/index",
                "GIT_OBJECT_DIRECTORY": f"{directory}/objects",
                # In quotes, since a path may have the colon that separates them.
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": '"' + objects.replace("\\", "\\\\").replace('"', '\\"') + '"',
            }
            self._run("read-tree", self._last(), environ=environ)
            ours = self._names("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *_PATHS, environ=environ)
            self._run("update-index", "--add", "--remove", "--replace", "-z", "--stdin", names=ours, environ=environ)
            yield environ

    def _changes(self, environ: Mapping[str, str]) -> list[Change]:
        command = ("diff", "--cached", "--relative", "-M", "--name-status", "-z", self._last())
        words = iter(self._run(*command, environ=environ, limit_bytes=_MAX_NAMES_BYTES).decode(errors="surrogateescape").split("\0"))
        found: list[Change] = []
        for status in words:
            if status.startswith("R"):
                before = next(words)
                found.append(Change("renamed", next(words), before))
            elif status:
                found.append(Change(_WHAT.get(status[0], "changed"), next(words)))
        return sorted(found, key=lambda change: change.path)

    def _last(self) -> str:
        """The last commit; where there is none yet, the empty tree."""
        try:
            return self._run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()
        except CallerError:
            return self._run("hash-object", "-t", "tree", "--stdin").decode().strip()

    def _names(self, *command: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """The files of ours that `command` lists."""
        words = self._run(*command, environ=environ, limit_bytes=_MAX_NAMES_BYTES).decode(errors="surrogateescape").split("\0")
        return sorted({word for word in words if word and is_ours(PurePosixPath(word).relative_to("exchanges"))})

    def _run(
        self, *command: str, names: Sequence[str] = (), environ: Mapping[str, str] | None = None,
        limit_bytes: int = 1 << 16, translated: bool = False,
    ) -> bytes:  # fmt: skip
        """What git prints. `names` go to its stdin, each ended by NUL. It speaks English, or with `translated` the user's language."""
        given = {**os.environ, **({} if translated else {"LC_ALL": "C"}), **(environ or {})}
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as words:
            stdin.write("".join(f"{name}\0" for name in names).encode(errors="surrogateescape"))
            stdin.seek(0)
            # Looking runs no program that the repository's configuration names; a commit runs its hooks.
            quiet = ["-c", "core.hooksPath=/dev/null"] if environ else []
            argv = ["git", "-c", "core.fsmonitor=false", *quiet, "--no-pager", *command]
            try:
                process = subprocess.Popen(argv, cwd=self._root, env=given, stdin=stdin, stdout=subprocess.PIPE, stderr=words)  # noqa: S603
            except OSError as error:
                raise CallerError(f"git cannot run: {error.strerror}; install git") from None
            with process:
                assert process.stdout is not None  # noqa: S101  (a pipe)
                out = process.stdout.read(limit_bytes + 1)
                if len(out) > limit_bytes:
                    process.kill()
                    raise CallerError(f"git {command[0]} prints more than {limit_bytes >> 10} KiB; look with git itself, or with --stat")
            words.seek(0)
            said = words.read(_MAX_WORDS_BYTES).decode(errors="replace").strip()
        if process.returncode:
            raise CallerError(f"git {command[0]}: {said or out.decode(errors='replace').strip() or f'exit code {process.returncode}'}")
        return out


_FROM_STDIN = ("--pathspec-from-file=-", "--pathspec-file-nul")


def _literal(paths: Sequence[str]) -> list[str]:
    """As pathspecs in which nothing is a wildcard."""
    return [f":(literal){path}" for path in paths]
