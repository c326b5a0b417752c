"""What travels between commands, workflows and activities, as JSON; and what things are called in Temporal.

Workflows import this module in their sandbox, so it imports next to nothing. A field is only ever added, with a default: histories of
older versions are replayed with this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Types of the failures of activities. What else fails is worth a retry.
OVERTAKEN = "Overtaken"  # somebody else has moved the day
GIVEN_UP = "GivenUp"  # the day is ERROR or FAILED, and its history says why
REFUSED = "Refused"  # what was asked cannot be
INTERRUPTED = "Interrupted"  # the step was cancelled by the process it ran in
LOST = "Lost"  # the worker in which earlier steps were done has died, and what they had brought about with it
FINAL = (OVERTAKEN, GIVEN_UP, REFUSED, INTERRUPTED, LOST)


@dataclass(frozen=True)
class Asked:
    """A phase of a day: round `number` of `day` (ISO). Without a day: what is due by the schedule of the environment."""

    env: str
    day: str = ""
    phase: str = ""  # start or end
    number: int = 0

    @property
    def id(self) -> str:
        """Of its workflow: one for each round of a phase, so that nothing is carried out twice at once."""
        return f"ssmd/{self.env}/{self.day}/{self.phase}-{self.number}"


@dataclass(frozen=True)
class Planned:
    """A step: `again` though it was done, since what it brings about ends with the process that did it."""

    name: str
    done: bool = False
    again: bool = False
    most_s: float = 86_400.0  # however much it beats


@dataclass(frozen=True)
class Plan:
    steps: list[Planned] = field(default_factory=list)


@dataclass(frozen=True)
class StepAsked:
    asked: Asked
    step: str
    count: int  # of `of`, for people
    of: int


@dataclass(frozen=True)
class Due:
    """What is due at `now_ns` of the workflow's time, or later; of `phase` only, unless that is empty."""

    env: str
    now_ns: int
    phase: str = ""


@dataclass(frozen=True)
class Noted:
    asked: Asked
    what: str
    workflow: str
    run: str


@dataclass(frozen=True)
class Where:
    """The answer to the query ``where``."""

    day: str = ""
    phase: str = ""
    step: str = ""
    count: int = 0
    of: int = 0
    since_ns: int = 0
    done: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Beat:
    """The details of a heartbeat: `failures` of the step in this round, `beats` and the last `text` of this attempt."""

    failures: int = 0
    beats: int = 0
    text: str = ""


def roll_id(env: str) -> str:
    """Of the workflow in which operators roll."""
    return f"ssmd/{env}/roll"


def default_queue(env: str) -> str:
    return f"ssmd-{env}"
