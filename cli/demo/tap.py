"""A plain-text relay between nginx and what nginx passes on: it counts every byte and keeps those going up.

    SuperNode -TLS-> nginx -http-> tap -TLS-> SuperLink
    armfleet join -TLS-> nginx -unix-> tap -unix-> enrol.sock

Here the demo sees what the workstations sent before TLS hides it again. Each request is its own connection
(nginx closes it), so the bytes of one request stay together: `up-NODE.bin` holds them one after another,
chunked bodies joined, and `index.jsonl` has a line per request. The station is known by its node key's hash.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import ssl
import sys
from pathlib import Path
from time import time

from loguru import logger

from shared.config import ConfigModel, load_config
from shared.logging import setup_logging

NODE_KEY = re.compile(rb"^flwr-public-key:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
"""Flower's header with the node's public key (flwr.supercore.constant.FLEET_HTTP_PUBLIC_KEY_HEADER)."""
CHUNKED = re.compile(rb"^transfer-encoding:\s*chunked", re.IGNORECASE | re.MULTILINE)
CONNECT_S = 10.0


class Route(ConfigModel):
    """Where to listen (a port of 127.0.0.1, or a Unix socket) and where to connect to."""

    listen: int | Path
    unix: Path | None = None
    """Connect to this socket…"""
    port: int = 0
    """…or to this port of 127.0.0.1,"""
    ca: Path | None = None
    """with TLS if there is an authority to trust."""


class TapConfig(ConfigModel):
    """tap.toml, written by the demo."""

    folder: Path
    routes: tuple[Route, ...]


def node_id(public_key_base64: bytes) -> str:
    """Short name of a node's public key, used for the files and in the index."""
    return hashlib.sha256(public_key_base64.strip()).hexdigest()[:16]


def joined(request: bytes) -> bytes:
    """`request` with a chunked body put together, so that nothing hides on the border of two chunks."""
    head, mark, body = request.partition(b"\r\n\r\n")
    if not CHUNKED.search(head):
        return request
    parts: list[bytes] = []
    rest = body
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            return request + b"".join(parts)  # cut off inside a chunk: keep both readings
        parts.append(rest[:size])
        rest = rest[size + 2 :]
        if size == 0:
            break
    return head + mark + b"".join(parts)


class Tap:
    """Relays connections and writes what went up."""

    def __init__(self, config: TapConfig) -> None:
        self._config = config
        config.folder.mkdir(parents=True, exist_ok=True)
        self._index = (config.folder / "index.jsonl").open("a", buffering=1)

    async def serve(self) -> None:
        """Listen on all routes until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            for route in self._config.routes:
                await stack.enter_async_context(await self._listen(route))
            logger.info("relaying {}", ", ".join(str(route.listen) for route in self._config.routes))
            await asyncio.Event().wait()

    async def _listen(self, route: Route) -> asyncio.Server:
        if isinstance(route.listen, int):
            return await asyncio.start_server(self._handler(route), "127.0.0.1", route.listen)
        route.listen.unlink(missing_ok=True)
        return await asyncio.start_unix_server(self._handler(route), str(route.listen))

    def _handler(self, route: Route):  # type: ignore[no-untyped-def]
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up, down = bytearray(), [0]
            try:
                async with asyncio.timeout(CONNECT_S):
                    far_reader, far_writer = await self._connect(route)
                await self._both_ways((reader, writer), (far_reader, far_writer), up, down)
            except (OSError, TimeoutError) as error:
                logger.warning("a connection to {} failed: {}", route.unix or route.port, error)
            finally:
                writer.close()
                self._keep(bytes(up), down[0])

        return handle

    async def _connect(self, route: Route) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if route.unix:
            return await asyncio.open_unix_connection(str(route.unix))
        context = ssl.create_default_context(cafile=str(route.ca)) if route.ca else None
        return await asyncio.open_connection("127.0.0.1", route.port, ssl=context)

    async def _both_ways(self, near, far, up: bytearray, down: list[int]) -> None:  # type: ignore[no-untyped-def]
        async def upwards() -> None:
            while data := await near[0].read(1 << 16):
                up.extend(data)
                far[1].write(data)
                await far[1].drain()

        async def downwards() -> None:
            while data := await far[0].read(1 << 16):
                down[0] += len(data)
                near[1].write(data)
                await near[1].drain()

        # nginx never closes half a connection: when either side is done, the request is.
        directions = {asyncio.create_task(upwards()), asyncio.create_task(downwards())}
        try:
            done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            far[1].close()

    def _keep(self, up: bytes, down: int) -> None:
        key = NODE_KEY.search(up.partition(b"\r\n\r\n")[0])
        node = node_id(key[1]) if key else "unknown"
        line = up.partition(b"\r\n")[0].decode("latin-1").split()
        with (self._config.folder / f"up-{node}.bin").open("ab") as file:
            file.write(joined(up))
        entry = {"time": round(time(), 3), "node": node, "up": len(up), "down": down, "request": line[:2]}
        self._index.write(json.dumps(entry) + "\n")


def totals(folder: Path) -> dict[str, tuple[int, int]]:
    """Bytes (up, down) per node id, read from the index."""
    sums: dict[str, tuple[int, int]] = {}
    index = folder / "index.jsonl"
    for line in index.read_text().splitlines() if index.exists() else []:
        entry = json.loads(line)
        up, down = sums.get(entry["node"], (0, 0))
        sums[entry["node"]] = (up + entry["up"], down + entry["down"])
    return sums


def main(config_path: Path) -> None:
    """Run until SIGTERM."""
    setup_logging("tap")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Tap(load_config(config_path, TapConfig)).serve())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
