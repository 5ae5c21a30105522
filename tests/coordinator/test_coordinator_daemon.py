"""The daemon as a process without Flower beside it, and the configuration file."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from cli.main import app
from coordinator import daemon
from coordinator.aggregation.rule import Rule
from coordinator.config import load
from coordinator.enrolment.setup import init
from coordinator.registry import targets
from coordinator.registry.registry import Registry
from coordinator.rounds import Rounds
from shared.envelope import pack, unpack
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.messages import FieldResult
from shared.uds import UdsClient

BASE = Path(__file__).parents[2] / "sim" / "base"
MAIN = "import sys, pathlib, coordinator.daemon as d; sys.exit(d.main(pathlib.Path(sys.argv[1])))"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "coordinator.toml"
    path.write_text(
        tomli_w.dumps(
            {
                "coordinator": {
                    "name": "lab",
                    "state_dir": str(tmp_path / "state"),
                    "socket": str(tmp_path / "c.sock"),
                    "enrol_socket": str(tmp_path / "e.sock"),
                },
                "policy": {"base": "unused"},
                "superlink": {"address": "127.0.0.1:1"},
                "public": {"url": "https://robots.example"},
                "recipe": {"preset": "wide", "steps": 8},
            }
        )
    )
    return path


def start(path: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", MAIN, str(path)], stderr=subprocess.PIPE, text=True)


def versions(config) -> list:
    return UdsClient(config.coordinator.socket).get("/versions")["versions"]


def wait_for_status(client: UdsClient) -> dict:
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.get("/status")
        except ArmfleetError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_it_serves_and_says_what_is_missing_while_the_superlink_is_away(config_file, adapter):
    config = load(config_file)
    init(config, adapter, "ba5e" * 16)
    process = start(config_file)
    client = UdsClient(config.coordinator.socket)
    try:
        status = wait_for_status(client)
        assert status["promoted"]["version"] == status["newest"] == 0
        assert "no update is waiting" in status["aggregation"]["now"]
        deadline = time.monotonic() + 30
        while "has no predecessor" not in client.get("/status")["field"]["now"]:
            assert time.monotonic() < deadline, client.get("/status")
            time.sleep(0.1)
        deadline = time.monotonic() + 30
        while "doesn't answer" not in client.get("/status")["exchange"]["now"]:
            assert time.monotonic() < deadline, client.get("/status")
            time.sleep(0.1)
        assert client.post("/nodes/invite", json={"name": "arm-a"})["node"] == "arm-a"
        with pytest.raises(ArmfleetError, match="name"):
            client.post("/nodes/invite", json={"name": "Arm A"})
        with pytest.raises(ArmfleetError, match="no version 7"):
            client.post("/versions/promote", json={"version": 7, "reason": "x"})
        header, _ = unpack(client.post_bytes("/exchange/plan", pack({"run_id": 99, "online": []})))
        assert header == {"over": True, "check_ins": []}, "a run that is not this daemon's must end"
        second = subprocess.run(
            [sys.executable, "-c", MAIN, str(config_file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == ExitCode.ALREADY_RUNNING, second.stderr
        assert "has touched nothing" in second.stderr
        assert client.get("/status")["fleet"] == "lab"
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == ExitCode.OK, errors
    assert not config.coordinator.socket.exists()


def test_a_version_is_computed_again_from_the_command_line(config_file, adapter, make_update):
    config = load(config_file)
    init(config, adapter, "ba5e" * 16)
    registry = Registry(config.state)
    for seed, node in enumerate(("arm-a", "arm-b", "arm-a", "arm-b")):
        registry.accept(*make_update(node, 0, seed=seed))
        Rounds(config, registry, targets.Publisher(config.state / "tuf")).run_if_due()
    registry.field.report("arm-a", [FieldResult(version=1, task="push", labels="10", unsafe=1)])
    changed = registry.versions.manifest(2).contributions[0].update_id
    registry.close()
    (config.state / "updates" / changed / "delta.bin").write_bytes(make_update(seed=9)[1])
    process = start(config_file)
    try:
        wait_for_status(UdsClient(config.coordinator.socket))

        def armfleet(*arguments):
            return CliRunner().invoke(
                app, ["versions", *arguments, "--socket", str(config.coordinator.socket)]
            )

        assert "to the byte" in armfleet("verify", "1").output
        assert armfleet("verify", "2").exit_code == ExitCode.REGISTRY_DAMAGED
        assert armfleet("verify", "0").exit_code == ExitCode.UNEXPECTED
        assert "arm-a (0)" in armfleet().output
        (shown,) = (version for version in versions(config) if version["version"] == 1)
        assert (shown["field"][0]["successes"], shown["field"][0]["unsafe"]) == (1, 1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_without_a_fleet_it_ends_with_a_numbered_code(config_file):
    process = start(config_file)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.CONFIG_INVALID
    assert "armfleet coordinator-init" in errors


def test_a_full_disk_ends_it_with_a_numbered_code_and_a_sentence(config_file, adapter, monkeypatch):
    init(load(config_file), adapter, "ba5e" * 16)

    def full(_path, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    monkeypatch.setattr(daemon, "setup_logging", lambda component: None)
    monkeypatch.setattr(daemon.logger, "error", lambda _format, error: said.append(str(error)))
    monkeypatch.setattr(targets, "write_atomic", full)
    assert daemon.main(config_file) == ExitCode.DISK_FULL
    assert "make room for [coordinator] state_dir" in said[0]


def test_a_delay_that_does_not_fit_the_base_ends_it_with_a_numbered_code(config_file, adapter, monkeypatch):
    init(load(config_file), adapter, "ba5e" * 16)
    text = config_file.read_text().replace('"unused"', f'"{BASE}"')
    config_file.write_text(text.replace("steps = 8", "delay = 8"))
    said = []
    monkeypatch.setattr(daemon, "setup_logging", lambda component: None)
    monkeypatch.setattr(daemon.logger, "error", lambda _format, error: said.append(str(error)))
    assert daemon.main(config_file) == ExitCode.BASE_MISMATCH
    assert "set [recipe] delay below 8" in said[0]


def test_it_imports_neither_torch_nor_lerobot():
    code = (
        "import sys, coordinator.exchange.processes, coordinator.daemon, coordinator.exchange.server_app;"
        "print({'torch', 'lerobot'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
        check=True,
    )
    assert result.stdout.strip() == "set()"


def test_the_preset_is_expanded_and_overridden(config_file):
    recipe = load(config_file).recipe
    assert recipe.steps == 8
    assert "action_in_proj" in recipe.modules_to_save


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('preset = "wide"', 'preset = "huge"', "choose one of attention, expert, wide"),
        ('"127.0.0.1:1"', '"0.0.0.0:8000"', "must listen on loopback"),
        ('"https://robots.example"', '"http://robots.example"', "public.url"),
        ("steps = 8", "step = 8", "unknown key 'recipe.step'"),
    ],
)
def test_bad_values_are_named(config_file, old, new, reason):
    text = config_file.read_text()
    assert old in text
    config_file.write_text(text.replace(old, new))
    with pytest.raises(ArmfleetError) as caught:
        load(config_file)
    assert reason in str(caught.value)
    assert caught.value.code == ExitCode.CONFIG_INVALID


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ['aggregator = "average"'],
            [":2: 'aggregation.aggregator'", "'mean', 'refactored', 'median'", "'krum'"],
        ),
        (['aggregator = "krum"'], [":2: 'aggregation.aggregator'", "buffer_size must be at least 5, not 2"]),
        (
            ["buffer_size = 4", 'aggregator = "median"', "poisoned_stations = 2"],
            [":3: 'aggregation.aggregator'", "updates of 5 stations", "at least 5, not 4"],
        ),
        (["norm_limit = 3.0"], [":2: 'aggregation.norm_limit'", "buffer_size must be at least 3, not 2"]),
        (["norm_limit = 0.5"], [":2: 'aggregation.norm_limit'", "greater than or equal to 1"]),
        (
            ['server_optimiser = "adam"'],
            [":2: 'aggregation.server_optimiser'", "0.7 is too much", "at most 0.1"],
        ),
        (
            ['server_optimiser = "sgd"'],
            [":2: 'aggregation.server_optimiser'", "'none', 'nesterov' or 'adam'"],
        ),
        (['station_weight = "steps"'], [":2: 'aggregation.station_weight'", "'uniform' or 'examples'"]),
        (
            ['agregator = "mean"'],
            [":2: unknown key 'aggregation.agregator'", "accepted: aggregator, buffer_size"],
        ),
    ],
)
def test_bad_rules_of_a_round_are_named_with_their_line(config_file, lines, words):
    config_file.write_text("\n".join(["[aggregation]", *lines, config_file.read_text()]))
    with pytest.raises(ArmfleetError) as caught:
        load(config_file)
    assert caught.value.code == ExitCode.CONFIG_INVALID
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_the_keys_of_the_file_make_the_rule_of_the_rounds(config_file):
    keys = {
        "buffer_size": 7,
        "staleness_exponent": 0.0,
        "station_weight": "examples",
        "poisoned_stations": 2,
        "norm_limit": 3.0,
        "aggregator": "krum",
        "server_momentum": 0.9,
        "server_learning_rate": 0.01,
        "server_optimiser": "adam",
    }
    config_file.write_text(config_file.read_text() + tomli_w.dumps({"aggregation": keys}))
    assert load(config_file).aggregation.rule() == Rule(0.0, 0.9, 0.01, 7, "adam", "examples", "krum", 3.0, 2)


def test_the_example_is_valid_also_with_every_default_written_out(tmp_path):
    example = Path(__file__).parents[2] / "configs/coordinator.toml"
    assert load(example).coordinator.name == "my-lab"
    text = re.sub(r"^# (?=\w+ = )", "", example.read_text(), flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(text)
    assert load(tmp_path / "all.toml").model_copy(update={"superlink": None}) == load(example).model_copy(
        update={"superlink": None}
    )
