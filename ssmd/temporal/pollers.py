"""Who asks for work of a task queue. There is one worker for each environment: a day's processes are its children.

Temporal would hand steps to any number of workers, and it remembers one that is dead for five minutes. So one that begins looks whether
another goes on asking. Two that begin in the same second on two machines do not see each other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from journal.clock import Clock
from journal.errors import CallerError
from ssmd.day.phase import Tell

_ASK_S = 2.0
_LOOK_S = 1.0
_ENDS_S = 3.0  # until the server has noticed that one has gone
ASKS_S = 70.0  # a worker that lives asks anew after 60 s at the latest
_LATELY_NS = 90 * 10**9  # the server's clock and ours may differ a little


async def polled(client: Client, queue: str, now_ns: int) -> bool:
    """Whether a worker has asked for work lately. Raises `RPCError`."""
    return any(now_ns - at_ns < _LATELY_NS for at_ns in (await _pollers(client, queue)).values())


async def check_alone(client: Client, queue: str, clock: Clock, tell: Tell, *, patience_s: float = ASKS_S) -> None:
    """Return when no other worker lives. Raises `CallerError` naming one that does, after `patience_s` at most; and `RPCError`."""
    asked = {name: at_ns for name, at_ns in (await _pollers(client, queue)).items() if name != client.identity and not _dead_here(name)}
    if not (asked := {name: at_ns for name, at_ns in asked.items() if clock.wall_ns() - at_ns < _LATELY_NS}):
        return
    tell(f"looking for up to {patience_s:g} s whether {', '.join(asked)} still works for task queue {queue}")
    begun_ns = clock.mono_ns()
    await clock.sleep(_ENDS_S)
    asked = {name: at_ns for name, at_ns in (await _pollers(client, queue)).items() if name in asked}
    while asked and clock.mono_ns() - begun_ns < patience_s * 1e9:
        await clock.sleep(_LOOK_S)
        found = await _pollers(client, queue)
        for name, at_ns in asked.items():
            if found.get(name, 0) > at_ns:
                raise CallerError(f"{name} works for task queue {queue} already, and an environment has one worker: stop that one first")
        if not found.keys() & asked:  # it said goodbye
            return


async def _pollers(client: Client, queue: str) -> Mapping[str, int]:
    """When each has asked last, by the server's clock, in nanoseconds."""
    found = dict[str, int]()
    for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
        request = DescribeTaskQueueRequest(namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind)
        answer = await client.workflow_service.describe_task_queue(request, timeout=timedelta(seconds=_ASK_S))
        for each in answer.pollers:
            found[each.identity] = max(found.get(each.identity, 0), each.last_access_time.ToNanoseconds())
    return found


def _dead_here(identity: str) -> bool:
    """Whether it was a process of this machine that has ended. An identity is ``PID@HOST``."""
    pid, _, host = identity.partition("@")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
