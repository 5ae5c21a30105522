"""The operator of the demo: begins sessions, interrupts training, and waits for the gate."""

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cli.demo import record, train
from cli.demo.plan import LEFT
from cli.demo.station import Station
from shared.errors import ArmfleetError


class Sim:
    """A desk whose limp arm lies far from the leader."""

    def __init__(self):
        self.leader = [0.0] * 6

    def get(self, url):
        return {"leader": self.leader, "follower": [5.0, -120.0, 90.0, 0.0, 0.0, 10.0]}

    def post(self, url, body):
        assert url == "/leader/move"
        self.leader = body["pose"]
        return {}


class Agent:
    """Answers with what a test put in; an exception is raised, a function called."""

    def __init__(self, **answers):
        self.answers, self.asked = {key: iter(values) for key, values in answers.items()}, []

    def post(self, url, body):
        self.asked.append(url)
        return self._next(url.rsplit("/", 1)[1])

    def get(self, url):
        return self._next(url.rsplit("/", 1)[1])

    def _next(self, key):
        answer = next(self.answers.get(key, iter(())), {})
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


@pytest.fixture
def station(monkeypatch):
    monkeypatch.setattr("cli.demo.station.SPEED", 1e4)
    operator = Station.__new__(Station)
    operator.stop, operator.sim, operator.agent = threading.Event(), Sim(), Agent()
    operator.layout = SimpleNamespace(plan=SimpleNamespace(name="a", task=LEFT), folder=None)
    monkeypatch.setattr(
        operator, "status", lambda: {"activity": "record", "workers": {"trainer": {"pid": os.getpid()}}}
    )
    return operator


def test_a_session_begins_with_the_leader_where_the_arm_sank_to(station):
    def start():
        assert np.abs(station.follower() - station.sim.leader).max() == 0
        return {}

    station.agent = Agent(start=[ArmfleetError("the arm worker is starting"), start])
    station.start_session(LEFT)
    assert station.agent.asked == ["/session/start", "/session/start"]


@pytest.fixture
def training(monkeypatch):
    """A trainer that ends when it is asked for, before the answer comes; `checkpoints` is what it leaves."""
    checkpoints, alive = [], iter([True, False] * 3)
    monkeypatch.setattr(train, "in_update", lambda station: True)
    monkeypatch.setattr(train, "checkpoint", lambda layout: checkpoints.pop(0))
    monkeypatch.setattr(train, "_alive", lambda pid: next(alive, False))
    return checkpoints


def test_the_end_of_training_is_seen_while_the_answer_is_still_awaited(station, training):
    training.append({"delivered": False})
    station.agent = Agent(start=[lambda: threading.Event().wait(0.3) or {}])
    seconds, _ = train._interrupted(station)
    assert 0 < seconds < 0.3
    assert station.agent.asked == ["/session/start", "/session/stop"]


def test_a_refusal_and_a_finished_update_do_not_lose_the_interruption(station, training):
    training += [{"delivered": True}, {"delivered": False, "step": 4}]
    station.agent = Agent(start=[ArmfleetError("busy"), {}, {}])
    assert train._interrupted(station)[1]["step"] == 4
    assert station.agent.asked.count("/session/start") == 3
    assert station.agent.asked.count("/session/stop") == 2


def test_a_session_does_not_stay_open_when_the_trainer_stays(station, training, monkeypatch):
    monkeypatch.setattr(train, "_alive", lambda pid: True)
    monkeypatch.setattr(train, "END_S", 0.05)
    with pytest.raises(ArmfleetError, match="after the arm was asked for"):
        train._interrupted(station)
    assert station.agent.asked == ["/session/start", "/session/stop"]


def episodes(waiting, judged=2):
    every = [{"verdict": "unjudged"}] * waiting + [{"verdict": "admitted"}] * judged
    return {"episodes": every}


def test_the_gate_may_take_long_as_long_as_verdicts_come(station, monkeypatch):
    waits = []
    until = station.until

    def noted(what, seconds, check, every=0.05):
        waits.append(what)
        return until(what, seconds, check, 0.001)

    monkeypatch.setattr(station, "until", noted)
    station.agent = Agent(episodes=[episodes(2, 0), episodes(2, 0), episodes(1, 1), episodes(0)])
    record.check_gate(station, 2)
    assert len(waits) == 3


def test_a_gate_that_stands_still_is_a_failure(station, monkeypatch, tmp_path):
    monkeypatch.setattr(record, "GATE_S", 0.2)
    station.layout.folder = tmp_path / "a"
    station.agent = Agent(episodes=[episodes(1)] * 1000)
    with pytest.raises(ArmfleetError, match="next verdict"):
        record.check_gate(station, 3)


def test_a_session_that_a_fault_ended_is_begun_again_and_the_demonstration_is_lost(station, monkeypatch):
    def fault(task, seed):
        raise ArmfleetError("joint 1 (shoulder_pan) of the leader doesn't answer")

    monkeypatch.setattr(station, "demonstrate", fault)
    for activity, asked in (("record", []), ("idle", ["/session/start"])):
        station.agent = Agent()
        monkeypatch.setattr(station, "status", lambda activity=activity: {"activity": activity})
        assert record.demonstrate(station, LEFT, 7) is False
        assert station.agent.asked == asked
