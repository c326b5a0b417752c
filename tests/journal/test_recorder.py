"""The recorder passes the library's own cases, in memory and on a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from eventsourcing.persistence import AggregateRecorder
from eventsourcing.tests import application as application_cases
from eventsourcing.tests import persistence as recorder_cases
from eventsourcing.utils import get_topic

from journal.application import JournalFactory, SnapshotRecorder
from journal.recorder import JournalRecorder
from tests.journal.backends import Backend, backend
from tests.journal.servers import NatsServer, nats_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


class InMemory:
    place: Backend

    @pytest.fixture(autouse=True)
    def _backend(self) -> Iterator[None]:
        with backend() as self.place:
            yield

    def create_recorder(self) -> Any:
        return self.place.recorder()


class OnServer(InMemory):
    @pytest.fixture(autouse=True)
    def _backend(self, shared_server: NatsServer) -> Iterator[None]:
        with backend(shared_server.url) as self.place:
            yield


class Subscribing:
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()  # type: ignore[attr-defined]


class Aggregates:
    def create_recorder(self) -> AggregateRecorder:
        return SnapshotRecorder(super().create_recorder())  # type: ignore[misc]


class TestMemoryAggregates(Aggregates, InMemory, recorder_cases.AggregateRecorderTestCase):
    pass


class TestServerAggregates(Aggregates, OnServer, recorder_cases.AggregateRecorderTestCase):
    pass


class TestMemoryApplication(InMemory, Subscribing, recorder_cases.ApplicationRecorderTestCase[JournalRecorder]):
    pass


class TestServerApplication(OnServer, Subscribing, recorder_cases.ApplicationRecorderTestCase[JournalRecorder]):
    pass


class TestMemoryProcess(InMemory, recorder_cases.ProcessRecorderTestCase):
    pass


class TestServerProcess(OnServer, recorder_cases.ProcessRecorderTestCase):
    pass


class TestMemoryTracking(InMemory, recorder_cases.TrackingRecorderTestCase):
    pass


class TestServerTracking(OnServer, recorder_cases.TrackingRecorderTestCase):
    pass


class TestMemoryNotInterleaved(InMemory, recorder_cases.NonInterleavingNotificationIDsBaseCase):
    pass


class TestServerNotInterleaved(OnServer, recorder_cases.NonInterleavingNotificationIDsBaseCase):
    pass


class CurrentFactory(JournalFactory):
    """What the library's application cases find by its topic: each application gets a stream of its own."""

    place: Backend

    def __init__(self, env: Any) -> None:
        super().__init__(env, self.place.recorder())


@pytest.mark.filterwarnings("always::DeprecationWarning")  # one case looks at a warning
class Applications(InMemory):
    expected_factory_topic = get_topic(CurrentFactory)

    @pytest.fixture(autouse=True)
    def _factory(self, _backend: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CurrentFactory, "place", self.place, raising=False)
        monkeypatch.setitem(os.environ, "PERSISTENCE_MODULE", get_topic(CurrentFactory))


class TestMemoryExample(Applications, application_cases.ExampleApplicationTestCase):
    pass


class TestServerExample(Applications, OnServer, application_cases.ExampleApplicationTestCase):
    pass


class TestMemoryApplications(Applications, application_cases.ApplicationTestCase):
    pass


class TestServerApplications(Applications, OnServer, application_cases.ApplicationTestCase):
    pass
