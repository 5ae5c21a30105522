"""The Flower ServerApp: carries check-ins from the daemon to the nodes and their answers back.

It holds nothing worth keeping and can die at any instant: the daemon submits a new run, and what was under
way is asked again. While the daemon is away it keeps the answers it has and asks on; an answer that the
daemon can't take is dropped, its update comes again from the node's outbox. It ends when the daemon says so.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from loguru import logger

from coordinator.exchange.pulls import Pulls
from shared.envelope import pack, unpack
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.limits import MAX_PLAN_BYTES
from shared.logging import setup_logging
from shared.uds import UdsClient

RECORD, FIELD = "envelope", "data"
"""Content of a message, both ways: one ConfigRecord that holds an envelope's bytes."""
DAEMON_TIMEOUT_S = 30.0
AWAY_LOG_S = 60.0
"""While the daemon is away, say so once per this long."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point named in the app bundle."""
    setup_logging("serverapp")
    socket, poll_s = str(context.run_config["socket"]), float(context.run_config["poll-s"])
    client = UdsClient(Path(socket), DAEMON_TIMEOUT_S)
    try:
        Courier(grid, client, context.run_id, poll_s).run()
    finally:
        client.close()


class Courier:
    """One run's loop, every `poll_s` seconds."""

    def __init__(self, grid: Grid, client: UdsClient, run_id: int, poll_s: float) -> None:
        self._grid, self._client, self._run_id, self._poll_s = grid, client, run_id, poll_s
        self._pulls = Pulls(grid, poll_s)
        self._in_flight: dict[str, Mapping[str, Any]] = {}
        """Flower message id: {node_id, check_in, ttl_s}."""
        self._answers: deque[bytes] = deque()
        """Envelopes for the daemon that it has not taken yet."""
        self._away_said = float("-inf")

    def run(self) -> None:
        """Work until the daemon says that the run is over."""
        while self.step():
            time.sleep(self._poll_s)
        logger.info("the daemon ended the run")

    def step(self) -> bool:
        """Collect answers, deliver them, send what is due. False: the run is over."""
        self._collect()
        try:
            while self._answers:
                self._hand_over(self._answers[0])
                self._answers.popleft()
            header, blobs = self._ask_plan()
        except ArmfleetError as error:
            if time.monotonic() - self._away_said > AWAY_LOG_S:
                logger.warning("{} answers are kept until the daemon is back: {}", len(self._answers), error)
                self._away_said = time.monotonic()
            return True
        self._away_said = float("-inf")
        self._send(header["check_ins"], blobs)
        return not header["over"]

    def _hand_over(self, answer: bytes) -> None:
        """Give one answer to the daemon. Raises ArmfleetError only while nobody answers there."""
        try:
            self._client.post("/exchange/replies", content=answer)
        except ArmfleetError as error:
            if error.code == ExitCode.COORDINATOR_AWAY:
                raise
            logger.error("an answer was dropped, the daemon did not take it: {}", error)

    def _ask_plan(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        online = [int(node_id) for node_id in self._grid.get_node_ids()]
        request = pack({"run_id": self._run_id, "online": online})
        return unpack(self._client.post_bytes("/exchange/plan", request), MAX_PLAN_BYTES)

    def _send(self, check_ins: Iterable[Mapping[str, Any]], blobs: Mapping[str, bytes]) -> None:
        """Push one message after the other: a batch of adapters would be one large request."""
        for item in check_ins:
            content = RecordDict({RECORD: ConfigRecord({FIELD: blobs[item["check_in"]]})})
            message = Message(content, item["node_id"], "query", ttl=item["ttl_s"])
            message_id = next(iter(self._grid.push_messages([message])), None)
            if message_id is None:
                self._report(item, "the SuperLink did not take the message")
            else:
                self._in_flight[message_id] = item
                self._pulls.begin(message_id, item["ttl_s"])

    def _collect(self) -> None:
        for message_id, reply in self._pulls.ended():
            item = self._in_flight.pop(message_id)
            if reply is None:
                self._report(item, "no answer within its time to live")
            elif reply.has_error():
                self._report(item, f"{reply.error.reason} (code {reply.error.code})")
            else:
                self._deliver(item, reply)

    def _deliver(self, item: Mapping[str, Any], reply: Message) -> None:
        record = reply.content.config_records.get(RECORD)
        data = record.get(FIELD) if record is not None else None
        if not isinstance(data, bytes):
            self._report(item, "an answer without an envelope")
            return
        header = {"node_id": item["node_id"], "check_in": item["check_in"], "error": None}
        self._answers.append(pack(header, {"reply": data}))

    def _report(self, item: Mapping[str, Any], reason: str) -> None:
        header = {"node_id": item["node_id"], "check_in": item["check_in"], "error": reason}
        self._answers.append(pack(header))
