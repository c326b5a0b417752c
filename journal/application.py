"""Applications of the `eventsourcing` library on a `journal.recorder.JournalRecorder`: one recorder for everything they keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    InfrastructureFactory,
    ProcessRecorder,
    StoredEvent,
    TrackingRecorder,
)
from eventsourcing.utils import Environment, EnvType

from journal.recorder import JournalRecorder

_App = TypeVar("_App", bound=Application[Any])


class SnapshotRecorder(AggregateRecorder):
    """The snapshots of an application, beside its events: ``{env}.{domain}.snapshots.{id}.{version}``. They are no notifications."""

    def __init__(self, recorder: JournalRecorder) -> None:
        self._recorder = recorder

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> None:
        self._recorder.insert_events(stored_events, **kwargs, kind="snapshots")

    def select_events(self, originator_id: UUID | str, **which: Any) -> list[StoredEvent]:
        return self._recorder.select_events(originator_id, **which, kind="snapshots")


class JournalFactory(InfrastructureFactory[TrackingRecorder]):
    """Gives an application one recorder for everything."""

    def __init__(self, env: Environment | EnvType | None, recorder: JournalRecorder) -> None:
        super().__init__(env)
        self._recorder = recorder

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        return self._recorder if purpose == "events" else SnapshotRecorder(self._recorder)

    def application_recorder(self) -> ApplicationRecorder:
        return self._recorder

    def tracking_recorder(self, tracking_recorder_class: type[TrackingRecorder] | None = None) -> TrackingRecorder:
        del tracking_recorder_class
        return self._recorder

    def process_recorder(self) -> ProcessRecorder:
        return self._recorder


def application(cls: type[_App], recorder: JournalRecorder, env: EnvType | None = None) -> _App:
    """An application of class `cls` on `recorder`; `env` are settings of the library, such as ``AGGREGATE_CACHE_MAXSIZE``."""

    def construct_factory(_: object, settings: Environment) -> JournalFactory:
        return JournalFactory(settings, recorder)

    # The class makes its factory while it is constructed, so it must know the recorder before.
    bound = type(cls.__name__, (cls,), {"name": cls.name, "__module__": cls.__module__, "construct_factory": construct_factory})
    return cast("_App", bound(env))
