"""Whether the journal answers, and how far behind it the views are: asked again and again, so that health is about now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from journal.clock import Clock
from journal.errors import SsmdError
from journal.protocols import JournalReader
from ssmd.gateway.answers import Check
from ssmd.gateway.desk import LiveView

_EVERY_S = 1.0
_ANSWER_S = 3.0


class Probe:
    """`run` until cancelled."""

    def __init__(self, journal: JournalReader, views: Sequence[LiveView], clock: Clock) -> None:
        self._journal, self._views, self._clock = journal, views, clock
        self._error = "not asked yet"
        self._behind: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await self._look()
                self._error = ""
            except TimeoutError:
                self._error = f"no answer within {_ANSWER_S:g} s"
            except SsmdError as error:
                self._error = type(error).__name__  # its words are the operator's: they are in the log of what asked
            await self._clock.sleep(_EVERY_S)

    async def _look(self) -> None:
        for view in self._views:
            info = await self._journal.info(view.stream)
            self._behind[view.stream.name] = max(0, info.last - view.position) if info else 0

    def checks(self) -> list[Check]:
        """Of the journal and of each view."""
        journal = Check(name="journal", good=not self._error, reason=self._error or "answers")
        return [journal, *(self._view(view) for view in self._views)]

    def _view(self, view: LiveView) -> Check:
        name = view.stream.name
        behind = self._behind.get(name)
        where = f"at {name}:{view.position}{f', {behind:,} entries behind' if behind else ''}"
        about = [where if view.ready else f"folding what is journalled, {where}"]
        about += [f"had to begin again: {view.broken}"] if view.broken else []
        about += [view.missing] if view.missing else []
        return Check(name=f"view {name}", good=view.ready, reason="; ".join(about))
