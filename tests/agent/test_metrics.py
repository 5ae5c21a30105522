"""What Prometheus is told of the last update."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx

from agent.api import make_api
from agent.metrics import exposition
from agent.training.history import History
from tests.agent.training.records import RED, made_record


def test_every_family_has_help_type_and_rows_in_base_units() -> None:
    record = made_record(
        3, peak_gpu_memory_bytes=5, energy_joules=7.5, start_loss={RED: 0.5}, start_mse={RED: 2.0}
    )
    lines = exposition(record).splitlines()
    rows = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    families = {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}
    assert {name.partition("{")[0] for name in rows} == families
    assert families == {line.split(" ")[2] for line in lines if line.startswith("# HELP")}
    assert rows[f'armfleet_update_action_mse{{task="{RED}"}}'] == "1.5"
    assert rows[f'armfleet_update_start_loss{{task="{RED}"}}'] == "0.5"
    assert rows["armfleet_update_peak_memory_bytes"] == "900000000.0"
    assert rows["armfleet_update_peak_gpu_memory_bytes"] == "5.0"
    assert rows["armfleet_update_energy_joules"] == "7.5"
    assert rows["armfleet_update_duration_seconds"] == "4.0"
    assert rows["armfleet_update_base_version"] == "3.0"
    assert float(rows["armfleet_update_finished_timestamp_seconds"]) == made_record(3).finished.timestamp()


def test_what_was_not_measured_is_not_there() -> None:
    page = exposition(made_record(eval_loss={}, action_mse={}))
    assert "eval_loss" not in page
    assert "gpu" not in page
    assert "energy" not in page
    assert exposition(None) == ""


def test_a_tasks_name_cannot_break_the_page() -> None:
    page = exposition(made_record(train_loss={'a "b" \\ \n c': 1.0}))
    assert 'task="a \\"b\\" \\\\ \\n c"' in page


def test_the_agent_serves_it(tmp_path: Path) -> None:
    desk = SimpleNamespace(change=None, start_import=None)
    agent = SimpleNamespace(config=SimpleNamespace(training_dir=tmp_path), episodes=desk)
    transport = httpx.ASGITransport(make_api(agent))  # type: ignore[arg-type]

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://armfleet") as client:
            return await client.get("/metrics")

    assert asyncio.run(asked()).text == ""
    History(tmp_path).append(made_record())
    answer = asyncio.run(asked())
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text == exposition(made_record())
