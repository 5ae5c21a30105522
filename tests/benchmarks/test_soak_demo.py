"""`make soak-demo`: a kill of the trainer counts only when its update was finished after all."""

import signal
import threading
from types import SimpleNamespace

import pytest

from benchmarks import soak_demo as soak
from cli.demo.station import Station

STOPPED = {"update_id": "u1", "base_version": 3, "step": 7, "delivered": False}


class Ledger:
    def __init__(self, *updates):
        self.updates = set(updates)

    def look(self):
        return {"updates": self.updates}


@pytest.mark.parametrize(
    ("known", "now", "fate"),
    [
        ([], STOPPED, None),
        (["u1"], STOPPED, "resumed"),
        ([], {**STOPPED, "update_id": "u2"}, None),
        ([], {**STOPPED, "update_id": "u2", "delivered": True}, "trained again"),
        ([], {**STOPPED, "update_id": "u2", "base_version": 4, "delivered": True}, None),
    ],
)
def test_an_interrupted_update_is_followed_to_its_end(known, now, fate, monkeypatch):
    monkeypatch.setattr(soak.train, "checkpoint", lambda layout: now)
    assert soak.fate_of(Ledger(*known), SimpleNamespace(layout=None), STOPPED) == fate


def test_a_trainer_that_was_done_just_before_is_killed_again(monkeypatch):
    station = Station.__new__(Station)
    station.stop, station.layout = threading.Event(), SimpleNamespace(plan=SimpleNamespace(name="a"))
    ledger, found = Ledger("u0"), iter([{**STOPPED, "update_id": "u0", "delivered": True}, STOPPED])
    kills = []

    def strike(world, station, kind):
        kills.append(kind)
        if len(kills) == 2:
            threading.Timer(0.05, ledger.updates.add, ["u1"]).start()

    monkeypatch.setattr(soak, "strike", strike)
    monkeypatch.setattr(soak.train, "in_update", lambda station: True)
    monkeypatch.setattr(soak.train, "checkpoint", lambda layout: next(found, STOPPED))
    assert soak.kill_trainer(None, ledger, station).update == "resumed"
    assert kills == ["trainer", "trainer"]


def test_a_process_that_ended_by_itself_is_looked_for_again(monkeypatch):
    pids, killed = iter([None, 11, 12]), []

    def kill(pid, number):
        if pid == 11:
            raise ProcessLookupError
        killed.append((pid, number))

    monkeypatch.setattr(soak, "pid_of", lambda *_: next(pids))
    monkeypatch.setattr(soak.os, "kill", kill)
    station = Station.__new__(Station)
    station.stop = threading.Event()
    world = SimpleNamespace(screen=SimpleNamespace(say=lambda text: None))
    assert soak.strike(world, station, "trainer") == 12
    assert killed == [(12, signal.SIGKILL)]
