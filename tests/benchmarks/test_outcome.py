"""How a benchmark ends: always with a line of JSON and a file, and never with 0 when something failed."""

import json

import pytest

from benchmarks.outcome import measured
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode


def failing(error):
    def measure():
        raise error

    return measure


@pytest.mark.parametrize(
    ("measure", "ok", "status"),
    [
        (lambda: (True, {"n": 1}), True, 0),
        (lambda: (False, {"n": 1}), False, 1),
        (failing(ArmfleetError("no arm", code=ExitCode.PORT_MISSING)), False, ExitCode.PORT_MISSING),
        (failing(ValueError("odd")), False, 1),
        (failing(KeyboardInterrupt()), False, 130),
    ],
)
def test_the_last_line_and_the_file_say_how_it_ended(measure, ok, status, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert measured("some", out, measure) == status
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["benchmark"], last["ok"]) == ("some", ok)
    assert ok or last["figures"]
    assert json.loads(out.read_text()) == last


def test_a_result_that_cannot_be_kept_is_a_failure(tmp_path, capsys):
    assert measured("some", tmp_path / "nowhere" / "bench.json", lambda: (True, {})) == 1
    assert not json.loads(capsys.readouterr().out.splitlines()[-1])["ok"]
    assert measured("some", tmp_path / "nowhere" / "bench.json", failing(ValueError("odd"))) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]["error"] == "ValueError: odd"
