"""An arm that is a plain object."""

import numpy as np

from agent.robot.counters import BusCounters
from agent.robot.health import Health

FINE = Health(load=100, voltage=5.0, temperature=35, current=0.1, errors=0)


class FakeArm:
    """Stands still; torque as it was asked for. `done` lists what it was told, `health` is what it says."""

    supply_v = 5.0

    def __init__(self, role="follower"):
        self.role, self.connected, self.torque = role, True, True
        self.counters = BusCounters()
        self.errors = [0] * 6
        self.rest = None
        self.state = np.zeros(6, np.float32)
        self.healths = [FINE] * 6
        self.done = []

    def connect(self):
        self.connected = True

    def read(self):
        return self.state

    def engage(self):
        self.torque = True
        return self.read()

    def send(self, goal):
        self.done.append("send")

    def probe(self, joint, limit_s):
        return self.healths[joint]

    def release(self):
        self.torque = False
        self.done.append("release")

    def close(self):
        self.done.append("close")
