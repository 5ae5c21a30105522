"""Flower's engine with nodes known beforehand: the names of flwr that it needs, and a run where ray is."""

import importlib.util

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from benchmarks.simulate import engine as engine_module
from benchmarks.simulate.client_app import PARTITION
from benchmarks.simulate.engine import Engine
from shared.errors import ArmfleetError


def public_key():
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def telling_app():
    """A ClientApp that answers with its partition and its node id."""
    app = ClientApp()

    @app.query()
    def tell(message, context):
        told = {"partition": context.node_config[PARTITION], "node": str(context.node_id)}
        return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)

    return app


def test_nodes_are_online_before_the_engine_starts_and_keys_are_theirs_alone():
    engine, key = Engine(), public_key()
    node_ids = [engine.register(f"node-{n}", public_key()) for n in range(3)]
    node_ids.append(engine.register("node-3", key))
    assert engine._state.get_nodes(engine.run_id) == set(node_ids)
    assert [engine._partitions[node_id] for node_id in node_ids] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="already in use"):
        engine.register("thief", key)
    with pytest.raises(ArmfleetError, match="public key"):
        engine.register("node-4", "ssh-rsa x")


def test_without_ray_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ArmfleetError, match="ray is not installed") as refused:
        Engine().run(ServerApp(), ClientApp(), {})
    assert "make simulate" in refused.value.do


def test_each_node_gets_its_own_partition_and_the_server_app_its_configuration():
    pytest.importorskip("ray", reason="ray is not installed: `make simulate` installs it")
    engine, app, answers = Engine(), ServerApp(), {}
    node_ids = [engine.register(f"node-{n}", public_key()) for n in range(3)]

    @app.main()
    def main(grid, context):
        answers["config"], answers["run"] = dict(context.run_config), context.run_id
        asked = [Message(RecordDict(), node_id, "query") for node_id in grid.get_node_ids()]
        told = [reply.content["told"] for reply in grid.send_and_receive(asked, timeout=60)]
        answers["nodes"] = {int(each["node"]): each["partition"] for each in told}

    engine.run(app, telling_app(), {"socket": "s", "poll-s": 0.5})
    assert answers == {
        "config": {"socket": "s", "poll-s": 0.5},
        "run": engine.run_id,
        "nodes": {node_id: n for n, node_id in enumerate(node_ids)},
    }


def test_what_ends_the_server_app_is_raised(monkeypatch):
    monkeypatch.setattr(engine_module, "_start_ray", lambda: None)
    monkeypatch.setattr(engine_module.vce, "start_vce", lambda **given: given["f_stop"].wait())
    app = ServerApp()

    @app.main()
    def main(grid, context):
        raise KeyError("socket")

    with pytest.raises(KeyError, match="socket"):
        Engine().run(app, telling_app(), {})
