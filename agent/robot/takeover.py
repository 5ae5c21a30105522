"""What persons record by taking over in a rollout: from when the arm follows the leader until the policy goes
on, or the rollout ends. Such a *segment* becomes an episode of its own.

It is kept whatever becomes of the rollout, unless the demonstration itself was cut short: by a fault, by
`abort`, `hold` or `release`, or by the end of the process.
"""

import threading
from collections.abc import Callable

from loguru import logger

from agent.episodes.record import Intervention
from agent.episodes.recorder import EpisodeRecorder, Take
from agent.robot.loop import HOLD
from agent.robot.rollout import Rollout
from agent.robot.teleop import Teleoperation
from shared.errors import ArmfleetError
from shared.policy.rtc import CONTROL_HZ

SHORTEST_S = 1.1
"""A shorter segment is not kept. The gate refuses what lasts up to 1.05 s (identity.too_short): a chunk of
actions alone is 0.8 s long."""
CUT = frozenset({"abort", HOLD, "release", "shutdown"})
"""Reasons of ends that take the leader out of the person's hand."""


class Takeovers:
    """The takeovers of one rollout. All but `end` are called by whoever asks, `end` in the loop's thread.

    Args:
        rollout: Id of the rollout.
        task: The instruction.
        recorder: Of the workstation.
        saving: Held while a segment is being saved, so that an ending process waits for it.
        emit: Gets `segment_saved` and `segment_dropped`.
    """

    def __init__(
        self,
        rollout: str,
        task: str,
        recorder: EpisodeRecorder,
        saving: threading.Lock,
        emit: Callable[..., None],
    ) -> None:
        self._rollout, self._task = rollout, task
        self._recorder, self._saving, self._emit = recorder, saving, emit
        self._lock = threading.Lock()  # of the take: `end` may come at any time
        self._take: Take | None = None
        self._teleop: Teleoperation | None = None
        self._over = False
        self.count = 0
        """How often a person took over."""

    @property
    def frames(self) -> int | None:
        """Of the segment being recorded; None if none is."""
        take = self._take
        return take.frames if take is not None else None

    def begin(self, activity: Rollout, episode_id: str, max_s: float, version: int | None) -> None:
        """The policy acts no more when this has begun; recording begins when the arm follows the leader.

        Args:
            activity: The rollout.
            episode_id: Of the segment.
            max_s: Its longest length.
            version: What the person takes over from.

        Raises:
            ArmfleetError: a person has taken over already, the rollout ended meanwhile, or as
                `EpisodeRecorder.start`: nothing is recorded then, and the rollout had better be ended.
        """
        if self._teleop is not None:
            raise ArmfleetError("the leader has taken over already", kept="what is being recorded")
        self.count += 1
        teleop = self._teleop = activity.take_over(max_s)
        take = self._recorder.start(
            episode_id, self._task, max_s, Intervention(rollout=self._rollout, version=version)
        )
        with self._lock:
            if not self._over:
                self._take = take
                teleop.attach(take)
                return
        take.discard()
        raise ArmfleetError(
            "the rollout ended before the arm could be taken over", kept="nothing was recorded"
        )

    def hand_back(self, activity: Rollout) -> None:
        """The policy goes on; the segment is saved meanwhile.

        Raises:
            ArmfleetError: nobody has taken over.
        """
        if self._teleop is None:
            raise ArmfleetError("nobody has taken over")
        self._teleop.detach()
        activity.hand_back()
        self._teleop = None
        if (take := self._taken()) is not None:
            self._saving.acquire()
            threading.Thread(target=self._save, args=(take,), name="segment", daemon=True).start()

    def end(self, reason: str, error: ArmfleetError | None) -> None:
        """The rollout is over, and the arm holds: save the segment that is being recorded, or drop it."""
        with self._lock:
            self._over = True
        if (take := self._taken()) is None:
            return
        if error is not None or reason in CUT:
            self._drop(take, f"the rollout ended: {reason}")
        else:
            self._saving.acquire()
            self._save(take)

    def _taken(self) -> Take | None:
        with self._lock:
            take, self._take = self._take, None
        return take

    def _save(self, take: Take) -> None:
        """Of the caller's `saving`: releases it."""
        try:
            if take.frames < SHORTEST_S * CONTROL_HZ:
                short = f"it lasted {take.frames / CONTROL_HZ:.2f} s, less than {SHORTEST_S:g} s"
                self._drop(take, short if take.frames else "the arm had not come to the leader yet")
                return
            take.save()
            self._emit("segment_saved", episode_id=take.id, frames=take.frames)
        except Exception as error:  # whatever it was: the rollout's record is written all the same
            log = logger.bind(episode=take.id, rollout=self._rollout)
            log.opt(exception=not isinstance(error, ArmfleetError)).error("{}", error)
            self._emit("segment_dropped", episode_id=take.id, why=str(error))
        finally:
            self._saving.release()

    def _drop(self, take: Take, why: str) -> None:
        take.discard()
        logger.bind(episode=take.id, rollout=self._rollout).info("the segment is not kept: {}", why)
        self._emit("segment_dropped", episode_id=take.id, why=why)
