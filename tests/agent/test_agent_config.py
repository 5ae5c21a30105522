"""agent.toml: the shipped example is valid, and mistakes are named with their line."""

from pathlib import Path

import pytest

from agent.config import OpenCvCamera, load_agent_config
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

EXAMPLE = Path(__file__).parents[2] / "configs" / "agent.toml"


def test_example_is_valid_and_names_ports_that_survive_replugging() -> None:
    config = load_agent_config(EXAMPLE)
    assert config.arm is not None
    assert config.arm.follower_port.startswith("/dev/serial/by-id/")
    assert isinstance(config.cameras["front"], OpenCvCamera)
    assert config.policy_socket == Path("/run/armfleet/policy.sock")
    assert config.episodes_dir == Path("/var/lib/armfleet/episodes")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("max_step", "max_stp", r"agent\.toml:\d+: unknown key 'arm\.max_stp'"),
        ("crf = 23", "crf = 99", r"agent\.toml:\d+: 'recording\.crf' = 99"),
        ("cache_gb = 20", "cache_gb = -1", r"agent\.toml:\d+: 'training\.cache_gb' = -1"),
        (
            "# memory_limit_gb = 8",
            "memory_limit_gb = 0.5",
            r"agent\.toml:\d+: 'training\.memory_limit_gb' = 0\.5",
        ),
        ('name = "bench-1"', 'name = "Bench 1"', r"agent\.toml:\d+: 'node\.name' = 'Bench 1'"),
        ('start = "20:00"', 'start = "20h"', r"'training\.window\.hours\.0\.start' = '20h'"),
    ],
)
def test_mistake_names_file_line_and_key(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "agent.toml"
    text = EXAMPLE.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ArmfleetError, match=sentence) as caught:
        load_agent_config(path)
    assert caught.value.code is ExitCode.CONFIG_INVALID


@pytest.mark.parametrize(("after", "key"), [("[arm]", "fps"), ("[inference]", "policy_hz")])
def test_rate_other_than_the_one_trained_for_can_not_be_set(tmp_path: Path, after: str, key: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(EXAMPLE.read_text().replace(after, f"{after}\n{key} = 30", 1))
    with pytest.raises(ArmfleetError, match=f"unknown key .*{key}"):
        load_agent_config(path)


def test_arm_without_a_camera_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        '[node]\nname = "a"\nstate_dir = "/tmp/a"\n[policy]\nbase = "b"\n'
        '[arm]\nfollower_port = "f"\nleader_port = "l"\ncalibration_dir = "c"\n'
    )
    with pytest.raises(ArmfleetError, match="needs at least one"):
        load_agent_config(path)
