"""Snapshots that are kept encoded: those of topics that were asked for last. The others are made of the fold when they are."""

from __future__ import annotations

from collections import OrderedDict

from ssmd.gateway.message import Topic, Update

SNAPSHOTS = 20_000
LEVELS = 1_000_000  # of all of them, about 50 bytes each


class Kept:
    """The least recently used go first. The last one stays, whatever its weight."""

    def __init__(self, most: int = SNAPSHOTS, levels: int = LEVELS) -> None:
        self._most, self._most_weight = most, levels
        self._found: OrderedDict[Topic, Update] = OrderedDict()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._found)

    def get(self, topic: Topic) -> Update | None:
        if (found := self._found.get(topic)) is not None:
            self._found.move_to_end(topic)
        return found

    def put(self, topic: Topic, update: Update) -> None:
        self.forget(topic)
        self._found[topic] = update
        self._weight += update.weight
        while len(self._found) > 1 and (len(self._found) > self._most or self._weight > self._most_weight):
            _, gone = self._found.popitem(last=False)
            self._weight -= gone.weight

    def forget(self, topic: Topic) -> None:
        if (gone := self._found.pop(topic, None)) is not None:
            self._weight -= gone.weight

    def clear(self) -> None:
        self._found.clear()
        self._weight = 0
