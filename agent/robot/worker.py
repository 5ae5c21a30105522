"""The arm process: owns the serial ports and the cameras; started and supervised by the agent.

Operations on its channel (`shared.channel`); all may be refused with a sentence:

    status {}                                     teleop_start {}                 teleop_stop {}
    record_start {episode_id, task, max_s}        record_stop {keep}
    rollout_start {rollout_id, task, start_pose, max_s, version, not_after, place}
    rollout_stop {reason}                         rollout_take_over {episode_id, max_s}
    rollout_hand_back {}
    hold {}                                       release {}                      lower {}

Events: ready {fault}, fault {error}, fault_cleared, warnings {warnings}, activity_ended {activity, reason,
error}, episode_lost {episode_id, reason, error}, segment_saved {episode_id, frames}, segment_dropped
{episode_id, why}, rollout_done {rollout_id, reason, ticks, chunks, starved, bounded, latency_ms_mean,
latency_ms_max, latency_counts, period_ms_mean, period_ms_max, version, digest, folder, error}.

status, hold, release and rollout_stop are served at once, also while another operation runs. When the channel
closes, the agent is dead: hold, release torque, exit, within two seconds; only an episode that is being saved
is waited for, with the arm limp.
"""

import argparse
import gc
import os
import signal
import sys
import threading
from pathlib import Path

from loguru import logger

from agent.config import load_agent_config
from agent.evaluation.rollouts import RolloutWanted
from shared.channel import WorkerChannel, serve_in_thread
from shared.errors import ArmfleetError
from shared.logging import setup_logging
from shared.priority import set_priority

URGENT = frozenset({"status", "hold", "release", "rollout_stop"})
TEND_S = 1.0
NICE = -10
"""The control loop goes before training, the gate and the rest of the machine."""
EXIT_S = 1.9
"""The process is gone by then even if a driver hangs (unless an episode is being saved); the agent's own
release takes over."""


def main(config_path: Path) -> int:
    """Run until the channel closes or SIGTERM comes; the exit status."""
    setup_logging("arm")
    # Nothing here ever needs the hub; without this a missing local file turns into a download.
    os.environ["HF_HUB_OFFLINE"] = "1"
    closed = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: closed.set())
    try:
        config = load_agent_config(config_path)
        channel = WorkerChannel.from_environment()
        import torch  # 5 s, and 15 s with LeRobot's datasets: after what can be refused at once

        from agent.robot.station import Station

        torch.set_num_threads(1)
        station = Station(config, channel.emit)
    except ArmfleetError as error:
        logger.critical("{}", error)
        return int(error.code)
    station.open()
    # A full collection over torch's and LeRobot's million objects stops the loop for a third of a second.
    gc.collect()
    gc.freeze()
    _raise_priority()  # not before: fifteen seconds of imports have no right to starve the others
    handlers = {
        "status": lambda fields: station.status(),
        "teleop_start": lambda fields: station.teleop_start(),
        "teleop_stop": lambda fields: station.teleop_stop(),
        "record_start": lambda fields: station.record_start(**fields),
        "record_stop": lambda fields: station.record_stop(**fields),
        "rollout_start": lambda fields: station.rollout_start(RolloutWanted.model_validate(fields)),
        "rollout_stop": lambda fields: station.rollout_stop(**fields),
        "rollout_take_over": lambda fields: station.attempt().take_over(**fields),
        "rollout_hand_back": lambda fields: station.attempt().hand_back(),
        "lower": lambda fields: station.lower(),
        "hold": lambda fields: station.hold(),
        "release": lambda fields: station.release(),
    }
    serve_in_thread(handlers, channel, closed.set, URGENT)
    channel.emit("ready", fault=station.fault.to_dict() if station.fault else None)
    while not closed.wait(TEND_S):
        station.tend()
    logger.info("the agent is gone or asks to stop: releasing the arm")

    def expire() -> None:
        station.await_save()
        os._exit(1)

    watchdog = threading.Timer(EXIT_S, expire)
    watchdog.daemon = True
    watchdog.start()
    station.close()
    station.await_save()
    return 0


def _raise_priority() -> None:
    """For this thread and all it will start; under systemd LimitNICE= allows it."""
    try:
        set_priority(min(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    except PermissionError:
        logger.debug("not allowed to raise the priority; LimitNICE= in the unit allows it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The arm process; started by the agent.")
    parser.add_argument("--config", type=Path, required=True)
    status = main(parser.parse_args().config)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the drivers and the encoder may still sleep: nothing is left to do for them.
    os._exit(status)
