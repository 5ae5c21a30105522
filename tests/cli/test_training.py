"""`armfleet training`: a table and plots from the history alone, no daemon."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.training.history import History
from cli.main import app
from cli.training_picture import COLUMNS, draw, row, write_picture
from shared.exit_codes import ExitCode
from tests.agent.training.records import GREEN, RED, made_record

RUNNER = CliRunner()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'[node]\nname = "bench-1"\nstate_dir = "{tmp_path}/state"\nsocket = "{tmp_path}/agent.sock"\n'
        '[policy]\nbase = "nowhere"\n'
    )
    return path


@pytest.fixture
def trained(config: Path) -> Path:
    """As `config`, where four updates were trained, the last without evaluation episodes."""
    history = History(config.parent / "state" / "training")
    for number in range(3):
        history.append(made_record(number))
    history.append(made_record(3, eval_loss={}, action_mse={}))
    return config


@pytest.mark.parametrize("command", ["history", "plot"])
def test_a_workstation_that_never_trained_is_told_where_to_look(config: Path, command: str) -> None:
    done = RUNNER.invoke(app, ["training", command, "--config", str(config)])
    assert done.exit_code == ExitCode.UNEXPECTED
    assert "no update was trained here yet" in done.stderr
    assert "armfleet status" in done.stderr


def test_who_may_not_read_the_state_is_told_how(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(history: History) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(History, "records", refused)
    done = RUNNER.invoke(app, ["training", "history", "--config", str(config)])
    assert done.exit_code == ExitCode.CONFIG_UNREADABLE
    assert "usermod -aG armfleet" in done.stderr


def test_history_lists_the_last_updates(trained: Path) -> None:
    arguments = ["training", "history", "--config", str(trained), "--last", "2"]
    shown = RUNNER.invoke(app, arguments).stdout
    lines = shown.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "4 updates are in the history"
    records = [json.loads(line) for line in RUNNER.invoke(app, [*arguments, "--json"]).stdout.splitlines()]
    assert [record["version"] for record in records] == [2, 3]


def test_a_row_leaves_what_was_not_measured_empty() -> None:
    cells = dict(zip(COLUMNS, row(made_record(3, eval_loss={}, seconds=0)), strict=True))
    assert (cells["from version"], cells["train loss"], cells["memory, MB"]) == ("3", "0.375", "900")
    assert (cells["eval loss"], cells["steps/s"]) == ("", "")


def test_the_plot_has_a_line_per_task_and_gaps_where_nothing_was_measured() -> None:
    records = [made_record(0), made_record(1, eval_loss={}, train_loss={RED: 0.4})]
    figure = draw("bench-1", records)
    losses, norms, evaluated, *_ = figure.axes
    assert [line.get_label() for line in losses.lines] == [GREEN, RED]
    assert losses.lines[0].get_ydata() == pytest.approx([0.25, float("nan")], nan_ok=True)
    assert losses.lines[1].get_ydata() == pytest.approx([0.5, 0.4])
    assert evaluated.lines[1].get_ydata() == pytest.approx([0.75, float("nan")], nan_ok=True)
    assert [list(line.get_ydata()) for line in norms.lines] == [[1, 1], [2, 2]]
    ticks = figure.axes[-1].xaxis.get_major_formatter()
    assert [ticks(x) for x in (1, 2, 3)] == ["1\nv0", "2\nv1", ""]


def test_dollars_in_a_task_are_no_formula(tmp_path: Path) -> None:
    task = r"put $5 on $\foo"
    write_picture("a", [made_record(train_loss={task: 0.5})], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size


def test_energy_is_shown_where_it_was_told() -> None:
    records = [made_record(0), made_record(1, energy_joules=320.0, recipe="0123456789abcdef")]
    *_, total, per_step = draw("bench-1", records).axes
    assert total.lines[0].get_ydata() == pytest.approx([float("nan"), 320], nan_ok=True)
    assert per_step.lines[0].get_ydata() == pytest.approx([float("nan"), 20], nan_ok=True)
    first, second = (dict(zip(COLUMNS, row(record), strict=True)) for record in records)
    assert (first["GPU energy, J"], first["recipe"]) == ("", "")
    assert (second["GPU energy, J"], second["recipe"]) == ("320", "01234567")


def test_plots_are_written_where_they_are_wanted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "training.html"
    command = ["training", "plot", "--config", str(trained)]
    assert RUNNER.invoke(app, [*command, "--html", str(page)]).exit_code == 0
    assert not (tmp_path / "training.png").exists()
    text = page.read_text()
    assert "<svg" in text
    assert RED in text
    assert "default-src 'none'" in text
    assert re.findall(r'(?:src|href)="(?!#)', text) == []
    assert RUNNER.invoke(app, command).exit_code == 0
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
