"""Replies, each pulled in a thread of its own: one that is slow to arrive, or never arrives whole, holds up
no other.

A SuperLink gives out a reply as soon as it is announced. Flower's `Grid.pull_messages` then waits for its
objects: as long as a slow uplink needs, and for three minutes, until their push session expires, when the
station's SuperNode died in the middle of sending them.
"""

import queue
import threading
import time

from flwr.app import Message
from flwr.serverapp import Grid


class Pulls:
    """Replies under way.

    Args:
        grid: Its HTTP client may be used by several threads.
        poll_s: Pause between two looks for the same reply.
    """

    def __init__(self, grid: Grid, poll_s: float) -> None:
        self._grid, self._poll_s = grid, poll_s
        self._ended: queue.SimpleQueue[tuple[str, Message | BaseException | None]] = queue.SimpleQueue()

    def begin(self, message_id: str, ttl_s: float) -> None:
        """Wait for the reply to `message_id`; one that is arriving by then may take longer than `ttl_s`."""
        # A daemon thread: the run may end while a reply never arrives whole.
        threading.Thread(
            target=self._pull, args=(message_id, time.monotonic() + ttl_s), name="pull", daemon=True
        ).start()

    def ended(self) -> list[tuple[str, Message | None]]:
        """Message id and reply of those that came to an end since the last look; None: no reply came in time.

        Raises:
            BaseException: what Flower raised in a thread; the run is over then.
        """
        found = []
        while not self._ended.empty():
            message_id, reply = self._ended.get()
            if isinstance(reply, BaseException):
                raise reply
            found.append((message_id, reply))
        return found

    def _pull(self, message_id: str, deadline: float) -> None:
        try:
            while not (replies := list(self._grid.pull_messages([message_id]))):
                if time.monotonic() >= deadline:
                    break
                time.sleep(self._poll_s)
            self._ended.put((message_id, replies[0] if replies else None))
        except BaseException as error:  # Flower's RunNotRunningException is no Exception
            self._ended.put((message_id, error))
