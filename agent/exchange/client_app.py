"""The Flower ClientApp: hands a check-in's bytes to the agent's socket and the answer's bytes back. Holds
nothing.

Content of a message, both ways: a RecordDict with one ConfigRecord `envelope` that holds the bytes under
`data`.
"""

import os
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from loguru import logger

from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.uds import UdsClient

RECORD, FIELD = "envelope", "data"
NOT_NOW, REFUSED = 100, 101
"""Codes of error replies; Flower's own codes end below 10."""
AGENT_TIMEOUT_S = 20.0
"""The agent answers from its own state; verifying and unpacking an adapter takes under a second."""


def make_app(socket: Path) -> ClientApp:
    """A ClientApp that relays to the agent at `socket`."""
    app = ClientApp()

    @app.query()
    def check_in(message: Message, context: Context) -> Message:
        try:
            answer = _relay(socket, message)
        except ArmfleetError as error:
            away = error.code is ExitCode.COORDINATOR_AWAY  # UdsClient's code for "nobody answers"
            logger.warning("a check-in was answered with '{}': {}", "not now" if away else "refused", error)
            code, reason = (NOT_NOW, "not now") if away else (REFUSED, "the agent refused the check-in")
            return Message(Error(code=code, reason=reason), reply_to=message)
        return Message(RecordDict({RECORD: ConfigRecord({FIELD: answer})}), reply_to=message)

    return app


def _relay(socket: Path, message: Message) -> bytes:
    record = message.content.config_records.get(RECORD)
    body = record.get(FIELD) if record is not None else None
    if not isinstance(body, bytes):
        raise ArmfleetError("a Flower message without an envelope was ignored")
    client = UdsClient(socket, AGENT_TIMEOUT_S)
    try:
        return client.post_bytes("/exchange/check-in", body)
    finally:
        client.close()


app = make_app(Path(os.environ.get("ARMFLEET_AGENT_SOCKET", "/run/armfleet/agent.sock")))
"""For the app bundle's entry point; the warm executor makes its own with the configured socket."""
