import pytest

from shared.config import ConfigModel, load_config
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode


class Arm(ConfigModel):
    port: str
    fps: int = 30


class Config(ConfigModel):
    name: str
    arm: Arm


def load(tmp_path, text):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_config(path, Config)


def test_a_good_file_loads(tmp_path):
    assert load(tmp_path, 'name = "a"\n[arm]\nport = "/dev/x"\n').arm.fps == 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "a"\n\n[arm]\nport = "x"\nfsp = 30\n', ["agent.toml:5", "arm.fsp", "accepted: fps, port"]),
        ('name = "a"\n[arm]\nport = "x"\nfps = "fast"\n', ["agent.toml:4", "arm.fps", "'fast'"]),
        ('name = "a"\n[arm]\nfps = 3\n', ["agent.toml:2", "'arm.port' is missing"]),
        ('nmae = "a"\n[arm]\nport = "x"\n', ["agent.toml:1", "nmae", "accepted: arm, name"]),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(ArmfleetError) as caught:
        load(tmp_path, text)
    assert caught.value.code is ExitCode.CONFIG_INVALID
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_that_is_missing_or_no_toml_is_said_so(tmp_path):
    with pytest.raises(ArmfleetError, match="not valid TOML"):
        load(tmp_path, "name = \n")
    with pytest.raises(ArmfleetError, match="can't be read") as caught:
        load_config(tmp_path / "none.toml", Config)
    assert caught.value.code is ExitCode.CONFIG_UNREADABLE
