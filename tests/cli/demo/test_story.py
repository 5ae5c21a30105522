"""A story that fails in whatever way still ends with a line of JSON, a report and a number that is not 0."""

import json
import sys

import pytest
from loguru import logger

from cli.demo import story
from cli.demo.plan import SMALL
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode


class Nobody:
    """A supervisor without processes."""

    mark = "none"

    def __init__(self, *_):
        pass

    def stop(self):
        return []


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    monkeypatch.setattr(story, "Supervisor", Nobody)
    yield
    logger.remove()  # the story's own log
    logger.add(sys.stderr)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ArmfleetError("the gate stood still", code=ExitCode.DEMO_FAILED), 70, "the gate stood still."),
        (ProcessLookupError(3, "No such process"), 70, "ProcessLookupError: [Errno 3] No such process"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
    ],
)
def test_whatever_happens_the_last_line_says_so(error, status, words, tmp_path, capsys):
    def told(world, report):
        raise error

    report = tmp_path / "report.json"
    assert story.run(SMALL, tmp_path / "run", report, told=told, name="soak-demo") == status
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["benchmark"], last["ok"], last["figures"]["error"]) == ("soak-demo", False, words)
    assert json.loads(report.read_text())["ok"] is False


def test_also_when_it_could_not_begin(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ArmfleetError, match="no demo made it"):
        story.run(SMALL, tmp_path, tmp_path / "report.json")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"] is False
