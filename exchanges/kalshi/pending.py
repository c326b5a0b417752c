"""Commands of ours on one connection: their numbers, which wait for a reply, and which are to be sent again."""

from __future__ import annotations

from exchanges.kalshi import commands
from exchanges.kalshi.conversation import COMMAND_NS, RETRY_NS, Command, Draft


class Pending:
    """`pace`: of the times given, as the adapter's. Bounded by what is sent: a command is in one place at a time."""

    def __init__(self, pace: float = 1.0) -> None:
        self._pace = pace
        self._number = 0
        self._waiting: dict[int, Command] = {}
        self._again: list[tuple[int, Command]] = []  # (due, command) refused for now

    def send(self, command: Command, sid: int, draft: Draft) -> None:
        """To the subscription `sid`, which a subscribe has not yet."""
        if not sid and command.kind != "subscribe":
            return  # the subscription ended meanwhile; the recovery's clock takes its next step
        self._number += 1
        command.sid, command.due_ns = sid, draft.now_ns + int(COMMAND_NS * self._pace)
        self._waiting[self._number] = command
        if command.kind == "subscribe":
            draft.send.append(commands.subscribe(self._number, command.channel, command.symbols))
        elif command.kind == "unsubscribe":
            draft.send.append(commands.unsubscribe(self._number, sid))
        else:
            draft.send.append(commands.update(self._number, sid, command.kind, command.symbols))

    def get(self, number: int) -> Command | None:
        """What a reply of this number is to."""
        return self._waiting.get(number)

    def answered(self, number: int) -> Command | None:
        """It waits no longer."""
        return self._waiting.pop(number, None)

    def overdue(self, now_ns: int) -> list[Command]:
        """Those without an answer in `COMMAND_NS`; each is given once."""
        late = [number for number, command in self._waiting.items() if now_ns >= command.due_ns]
        return [self._waiting.pop(number) for number in late]

    def refused(self, command: Command, now_ns: int) -> None:
        """To be sent again, later with each try."""
        self._again.append((now_ns + int(RETRY_NS * command.tries * self._pace), command))

    def again(self, now_ns: int) -> list[Command]:
        """Those whose time to be sent again has come; each is given once."""
        due = [command for at, command in self._again if now_ns >= at]
        self._again = [(at, command) for at, command in self._again if now_ns < at]
        for command in due:
            command.tries += 1
        return due
