"""What becomes of what a person recorded by taking over: kept, unless the demonstration was cut short."""

import threading
from types import SimpleNamespace

import pytest

from agent.episodes.record import Intervention
from agent.robot.takeover import SHORTEST_S, Takeovers
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.policy.rtc import CONTROL_HZ
from tests.agent.robot.process import wait_for

LONG = round(SHORTEST_S * CONTROL_HZ)


class FakeTake:
    def __init__(self, bench, episode_id, frames):
        self.id, self.frames, self._bench = episode_id, frames, bench

    def save(self):
        assert self._bench.saving.locked(), "an ending process would not wait"
        self._bench.go.wait(10)
        if self._bench.failure is not None:
            raise self._bench.failure
        self._bench.done.append(("saved", self.id))

    def discard(self):
        self._bench.done.append(("discarded", self.id))


class Bench:
    """Takeovers with a recorder, a rollout and a teleoperation that only note what is asked."""

    def __init__(self, frames=LONG):
        self.frames, self.failure, self.refusal = frames, None, None
        self.saving, self.go = threading.Lock(), threading.Event()
        self.go.set()
        self.done, self.events, self.started = [], [], []
        self.meanwhile = lambda: None
        self.takeovers = Takeovers("r1", "push", self, self.saving, self.emit)
        self.teleop = SimpleNamespace(
            attach=lambda take: self.done.append(("attached", take.id)),
            detach=lambda: self.done.append(("detached",)),
        )
        self.rollout = SimpleNamespace(
            take_over=lambda max_s: self.done.append(("taken over", max_s)) or self.teleop,
            hand_back=lambda: self.done.append(("handed back",)),
        )

    def start(self, episode_id, task, max_s, intervention):
        if self.refusal:
            raise self.refusal
        self.started.append((task, max_s, intervention))
        self.meanwhile()
        return FakeTake(self, episode_id, self.frames)

    def emit(self, event, **fields):
        self.events.append((event, fields))

    def begin(self, episode_id="000001"):
        self.takeovers.begin(self.rollout, episode_id, 120.0, 7)


def test_the_policy_stops_first_and_what_was_recorded_is_saved_while_it_goes_on_again():
    bench = Bench()
    bench.begin()
    assert bench.done == [("taken over", 120.0), ("attached", "000001")]
    assert bench.started == [("push", 120.0, Intervention(rollout="r1", version=7))]
    assert bench.takeovers.frames == LONG
    bench.go.clear()
    bench.takeovers.hand_back(bench.rollout)
    assert bench.done[2:] == [("detached",), ("handed back",)], "the policy does not wait for the encoder"
    assert bench.takeovers.frames is None
    bench.go.set()
    wait_for(lambda: bench.events, 10, "it was not saved")
    assert bench.events == [("segment_saved", {"episode_id": "000001", "frames": LONG})]
    bench.begin("000002")
    assert bench.takeovers.count == 2


@pytest.mark.parametrize("reason", ["operator", "operator_gone", "time_up"])
def test_a_rollout_that_ends_keeps_what_the_person_recorded(reason):
    bench = Bench()
    bench.begin()
    bench.takeovers.end(reason, None)
    assert bench.done[-1] == ("saved", "000001")
    assert not bench.saving.locked()


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("abort", None),
        ("hold", None),
        ("release", None),
        ("shutdown", None),
        ("bus_lost", ArmfleetError("x")),
    ],
)
def test_what_was_cut_short_is_not_kept(reason, error):
    bench = Bench()
    bench.begin()
    bench.takeovers.end(reason, error)
    assert bench.done[-1] == ("discarded", "000001")
    assert bench.events == [
        ("segment_dropped", {"episode_id": "000001", "why": f"the rollout ended: {reason}"})
    ]


@pytest.mark.parametrize(
    ("frames", "words"), [(0, "had not come to the leader"), (LONG - 1, "it lasted 1.07 s")]
)
def test_what_is_too_short_for_the_gate_is_not_kept(frames, words):
    bench = Bench(frames)
    bench.begin()
    bench.takeovers.end("operator", None)
    assert bench.done[-1] == ("discarded", "000001")
    assert words in bench.events[0][1]["why"]
    assert not bench.saving.locked()


@pytest.mark.parametrize(
    "failure", [ArmfleetError("the disk is full", code=ExitCode.DISK_FULL), KeyError("the disk is full")]
)
def test_what_can_not_be_saved_is_told_and_the_rollout_ends_as_any_other(failure):
    bench = Bench()
    bench.failure = failure
    bench.begin()
    bench.takeovers.end("operator", None)
    assert bench.events[0][0] == "segment_dropped"
    assert "the disk is full" in bench.events[0][1]["why"]
    assert not bench.saving.locked()


def test_a_rollout_that_ends_while_the_recorder_is_made_ready_leaves_nothing_behind():
    bench = Bench()
    bench.meanwhile = lambda: bench.takeovers.end("operator", None)
    with pytest.raises(ArmfleetError, match="ended before"):
        bench.begin()
    assert bench.done[-1] == ("discarded", "000001")
    assert bench.events == []


def test_what_is_asked_for_twice_is_refused():
    bench = Bench()
    with pytest.raises(ArmfleetError, match="nobody has taken over"):
        bench.takeovers.hand_back(bench.rollout)
    bench.begin()
    with pytest.raises(ArmfleetError, match="has taken over already"):
        bench.begin("000002")
    assert bench.takeovers.count == 1


def test_a_recorder_that_refuses_leaves_the_policy_stopped():
    bench = Bench()
    bench.refusal = ArmfleetError("12 MB are free", code=ExitCode.DISK_FULL)
    with pytest.raises(ArmfleetError, match="12 MB"):
        bench.begin()
    assert bench.done == [("taken over", 120.0)]
    bench.takeovers.end("operator", None)
    assert bench.events == []
