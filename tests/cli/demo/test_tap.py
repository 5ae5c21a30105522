"""The tap relays unchanged, counts both ways, and keeps what went up, per node key."""

import asyncio
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.demo import tap


class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def through_tap(config, requests):
    """Run the tap, send the requests from threads, return the answers."""

    async def run():
        relay = asyncio.create_task(tap.Tap(config).serve())
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", config.routes[0].listen)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.01)
        answers = [await asyncio.to_thread(lambda r=r: urllib.request.urlopen(r).read()) for r in requests]
        await asyncio.sleep(0.1)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        return answers

    return asyncio.run(run())


def free_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_relays_counts_and_keeps_per_node(tmp_path, upstream):
    port = free_port()
    config = tap.TapConfig(folder=tmp_path, routes=(tap.Route(listen=port, port=upstream),))
    body = bytes(range(256)) * 1000
    url = f"http://127.0.0.1:{port}/v1/fleet/push"
    requests = [
        urllib.request.Request(url, data=body, headers={"flwr-public-key": key, "Connection": "close"})
        for key in ("QUJD", "QUJD", "WFla")
    ]
    assert through_tap(config, requests) == [body] * 3

    totals = tap.totals(tmp_path)
    first, second = tap.node_id(b"QUJD"), tap.node_id(b"WFla")
    assert totals[first][0] > 2 * len(body) > totals[second][0] > len(body)
    assert totals[first][1] > 2 * len(body)
    assert (tmp_path / f"up-{first}.bin").read_bytes().count(body) == 2
    lines = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert ["POST", "/v1/fleet/push"] in [line["request"] for line in lines]


def test_chunked_bodies_are_joined():
    head = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert tap.joined(head + b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n") == head + b"abcdefg"
    assert tap.joined(b"POST /x HTTP/1.1\r\n\r\nplain") == b"POST /x HTTP/1.1\r\n\r\nplain"


def test_an_upstream_that_is_away_closes_the_connection(tmp_path):
    port = free_port()
    config = tap.TapConfig(folder=tmp_path, routes=(tap.Route(listen=port, port=free_port()),))
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=b"x")
    with pytest.raises((OSError, ConnectionError)):
        through_tap(config, [request])
