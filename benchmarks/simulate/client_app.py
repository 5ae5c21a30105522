"""The installed ClientApp for many virtual nodes: each check-in goes to the socket of its node's station.

The engine's worker processes import this module, so it stays as light as the ClientApp itself.
"""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from agent.exchange import client_app

PARTITION = "partition-id"
"""Under this name the engine tells a node, by its `node_config`, which part of the data is its own."""


def socket_of(folder: Path, partition: int) -> Path:
    """Where the station with that part of the data answers."""
    return folder / f"{partition}.sock"


def make_app(folder: Path) -> ClientApp:
    """A ClientApp that hands a message to the installed one, made for the station of the message's node."""
    app = ClientApp()

    @app.query()
    def check_in(message: Message, context: Context) -> Message:
        installed = client_app.make_app(socket_of(folder, int(context.node_config[PARTITION])))
        return installed(message, context)

    return app
