"""Flower's simulation engine, with nodes whose keys and ids are known before it starts.

`flwr.simulation.run_simulation` makes up its nodes when it starts, so a coordinator could not know which id
is whose. This does what `run_simulation` does, with the same functions of flwr, but registers the nodes
first: the engine's link state (in memory) stands in for the SuperLink. These are internals of flwr, which is
pinned exactly; `tests/benchmarks/simulate/test_engine.py` checks them without ray and with it.
"""

import importlib.util
import json
import logging
import os
import threading
from collections.abc import Mapping
from queue import Queue
from typing import Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import (
    HEARTBEAT_INTERVAL_INF,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    RUN_ID_NUM_BYTES,
    SUPERLINK_NODE_ID,
    TASK_ID_NUM_BYTES,
)
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet import vce
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState, RunRecord
from flwr.server.superlink.linkstate.utils import generate_rand_int_from_bytes
from flwr.serverapp import ServerApp
from flwr.simulation.run_simulation import run_serverapp_th
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid
from loguru import logger

from coordinator.exchange.superlink import parse_public_key
from shared.errors import ArmfleetError

ACTORS = 2
"""Processes of ray that run ClientApps. They only carry bytes; training happens elsewhere."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of ray. A check-in with an adapter of the tiny base takes half a megabyte."""
TRIES = 5
"""ray's raylet ends when an agent that it starts has not imported its modules within 15 s, too few on a very
busy machine, and can't be told to wait longer. What a failed try started ends with this process."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # GPUs are none of ray's business here
}
BACKEND = {"init_args": {}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "actor": {"tensorflow": 0}}


class Engine:
    """One run.

    Attributes:
        run_id: Of the run, as the ServerApp tells the coordinator.
    """

    def __init__(self) -> None:
        self._factory = LinkStateFactory(
            FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
        )
        state = self._factory.state()
        assert isinstance(state, InMemoryLinkState)
        self._state = state
        self.run_id: int = generate_rand_int_from_bytes(RUN_ID_NUM_BYTES)
        self._run = Run.create_empty(run_id=self.run_id)
        self._run.primary_task_id = generate_rand_int_from_bytes(TASK_ID_NUM_BYTES)
        self._run.federation_id = NOOP_FEDERATION_ID
        state.run_ids[self.run_id] = RunRecord(run=self._run)
        state.task_store[self._run.primary_task_id] = Task(
            task_id=self._run.primary_task_id, run_id=self.run_id
        )
        self._partitions: dict[int, int] = {}

    def register(self, name: str, public_key: str) -> int:
        """Add a node, as `SuperLink.register` does; its partition id is the number of nodes before it.

        Args:
            public_key: In OpenSSH's form, ECDSA on P-384.

        Returns:
            The node id.
        """
        node_id = self._state.create_node(
            NOOP_FLWR_AID,
            NOOP_ACCOUNT_NAME,
            parse_public_key(public_key),
            HEARTBEAT_INTERVAL_INF,
            name=name,
        )
        self._state.acknowledge_node_heartbeat(node_id, HEARTBEAT_INTERVAL_INF)
        self._partitions[node_id] = len(self._partitions)
        return node_id

    def run(self, server_app: ServerApp, client_app: ClientApp, run_config: Mapping[str, Any]) -> None:
        """Run until the ServerApp ends. Blocks; call it in the main thread, where ray handles signals.

        Raises:
            ArmfleetError: ray is not installed, or does not come up.
            Exception: whatever ended the ServerApp or the engine.
        """
        _start_ray()
        logging.getLogger("flwr").setLevel(logging.WARNING)
        TaskIdentity.task_id, TaskIdentity.run_id = 1, self.run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        grid = InMemoryGrid(state_factory=self._factory)
        grid.set_run(self._run)
        stop, failures = threading.Event(), Queue[BaseException]()
        serving = run_serverapp_th(
            server_app_attr=None,
            server_app=server_app,
            server_app_context=Context(self.run_id, 0, {}, RecordDict(), dict(run_config)),
            grid=grid,
            app_dir="",
            f_stop=stop,
            exception_queue=failures,
            enable_tf_gpu_growth=False,
            ctx_queue=Queue(),
        )
        vce.start_vce(
            client_app=client_app,
            backend_name="ray",
            backend_config_json_stream=json.dumps(BACKEND),
            app_dir="",
            is_app=False,
            state_factory=self._factory,
            existing_nodes_mapping=self._partitions,
            f_stop=stop,
            run=self._run,
            metrics=VceMetrics(),
        )
        serving.join()
        if not failures.empty():
            raise failures.get()


def check_ray() -> None:
    """Raise ArmfleetError unless ray is installed."""
    if importlib.util.find_spec("ray") is None:
        raise ArmfleetError("ray is not installed", do="run `make simulate`, which installs it")


def _start_ray() -> None:
    """Bring up ray on this machine alone; the engine uses what is there.

    Raises:
        ArmfleetError: ray is not installed, or does not come up.
    """
    check_ray()
    os.environ.update(ENVIRONMENT)  # ray reads it when it is imported
    import ray

    for left in reversed(range(TRIES)):
        try:
            ray.init(
                address="local",
                num_cpus=ACTORS,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=logging.WARNING,
                log_to_driver=False,
            )
            return
        except Exception as error:  # ray has no class of its own for it
            if not left:
                raise ArmfleetError(
                    f"ray did not come up ({error})", do="try again on a less busy machine"
                ) from error
            logger.warning("ray did not come up and is started again: {}", error)
