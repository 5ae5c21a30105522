"""What coordinator.toml may say of the recipe beyond the recipe's own fields."""

from pathlib import Path

import pytest

from coordinator.config import load
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.recipe import EXPERT, Recipe

REST = """
[coordinator]
name = "lab"
state_dir = "/tmp/state"
socket = "/tmp/c.sock"
enrol_socket = "/tmp/e.sock"
[policy]
base = "unused"
[public]
url = "https://robots.example:443"
[recipe]
"""


def recipe(folder: Path, lines: str) -> Recipe:
    path = folder / "coordinator.toml"
    path.write_text(REST + lines)
    return load(path).recipe


def test_a_list_of_modules_becomes_one_expression(tmp_path: Path) -> None:
    listed = recipe(tmp_path, """target_modules = ['.*\\.q_proj', 'model\\.a|model\\.b']""")
    assert listed == Recipe(target_modules=r"(?:.*\.q_proj)|(?:model\.a|model\.b)")
    assert recipe(tmp_path, """preset = "expert"\ntarget_modules = ['.*']""").target_modules == "(?:.*)"
    assert recipe(tmp_path, """preset = "expert" """).target_modules == EXPERT


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("'q_proj('", "'q_proj\\(' is no regular expression: missing \\)"),
        ("['v_proj', 'q_proj(']", "'q_proj\\(' is no regular expression: missing \\)"),
        ("[]", "names no module"),
        ("[1]", "valid string"),
        (str(["." * 100] * 5), "at most 500 characters"),
    ],
)
def test_a_list_that_names_no_modules_is_refused_with_its_line(
    tmp_path: Path, wrong: str, words: str
) -> None:
    with pytest.raises(ArmfleetError, match=words) as caught:
        recipe(tmp_path, f"target_modules = {wrong}")
    assert caught.value.code == ExitCode.CONFIG_INVALID
    assert "coordinator.toml:" in caught.value.what
