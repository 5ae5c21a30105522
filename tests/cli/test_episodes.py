"""`armfleet episodes`, with the agent's API at the socket and without any agent."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from agent.api import make_api
from agent.config import load_agent_config
from agent.episodes.catalogue import read_catalogue
from agent.episodes.desk import EpisodeDesk
from agent.episodes.importing import run
from agent.episodes.store import EpisodeStore
from agent.lock import only_one
from cli.main import app
from shared.exit_codes import ExitCode
from shared.uds import UdsClient, serve
from tests.agent.episodes.lerobot_datasets import TASKS, write_v3

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "cubes"
    write_v3(folder, (100, 96))
    return folder


@pytest.fixture(scope="module")
def filled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "episodes"
    run(root, 0, [source], lambda event: None)
    return root


class Desk:
    """The agent's part, in a thread of its own: the real API and the real desk."""

    def __init__(self, config: Path) -> None:
        self.config = load_agent_config(config)
        self.refreshed: list[str] = []
        self.judged: list[str] = []
        self.interrupted: list[str] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    async def _serve(self) -> None:
        async def interrupt(reason: str) -> bool:
            self.interrupted.append(reason)
            return True

        desk = EpisodeDesk(self.config, self.refreshed.append, self.judged.append, interrupt)
        status = {"gate": {"waiting": 0}}
        agent = SimpleNamespace(episodes=desk, arm=None, status=lambda: status)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        serving = asyncio.create_task(serve(make_api(agent), self.config.node.socket, self._stop))
        while not self.config.node.socket.exists():
            await asyncio.sleep(0.01)
        self._ready.set()
        with only_one(self.config.node.state_dir):
            await serving
        await desk.stop()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


@pytest.fixture
def config(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "state/episodes")
    path = tmp_path / "agent.toml"
    path.write_text(
        f'[node]\nname = "bench-1"\nstate_dir = "{tmp_path}/state"\nsocket = "{tmp_path}/agent.sock"\n'
        '[policy]\nbase = "none"\n[recording]\nmin_free_mb = 0\n[split]\neval_share = 0.0\n'
    )
    return path


@pytest.fixture(params=[False, True], ids=["no agent", "agent"])
def desk(request: pytest.FixtureRequest, config: Path) -> Iterator[Desk | None]:
    if not request.param:
        yield None
        return
    desk = Desk(config)
    yield desk
    desk.close()


def armfleet(config: Path, *arguments: str, code: int = 0) -> str:
    done = RUNNER.invoke(app, ["episodes", *arguments, "--config", str(config)])
    assert done.exit_code == code, done.output
    return done.output


def store_of(config: Path) -> EpisodeStore:
    loaded = load_agent_config(config)
    return EpisodeStore(loaded.episodes_dir, loaded.split)


def ids(config: Path) -> list[str]:
    return [record.id for record in store_of(config).records()]


def test_the_list_is_filtered(config: Path) -> None:
    first, second = ids(config)
    store_of(config).label(first, "failure")
    output = armfleet(config, "list")
    for text in (first, second, *TASKS, "unjudged", "failure", "2 episodes, 0 of them"):
        assert text in output
    assert second not in armfleet(config, "list", "--task", "RED")
    assert first not in armfleet(config, "list", "--day", "2020-01-01")
    assert first not in armfleet(config, "list", "--verdict", "admitted")
    lines = [json.loads(line) for line in armfleet(config, "list", "--json").splitlines()]
    assert [line["id"] for line in lines] == [first, second]


def test_show_tells_all_and_writes_the_page(config: Path, tmp_path: Path) -> None:
    first = ids(config)[0]
    record = store_of(config).judge(first)
    output = armfleet(config, "show", first)
    for text in (
        record.verdict,
        record.digest,
        TASKS[0],
        "episode 0 of cubes",
        *(n.check for n in record.notes),
    ):
        assert text in output
    assert json.loads(armfleet(config, "show", first, "--json"))["digest"] == record.digest
    armfleet(config, "show", first, "--html", str(tmp_path / "page.html"))
    assert first in (tmp_path / "page.html").read_text()
    assert "no episode 000404" in armfleet(config, "show", "000404", code=1)


def test_play_says_how_to_install_rerun_and_writes_the_page(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    first, _ = ids(config)
    assert "pip install 'lerobot[viz]'" in armfleet(config, "play", first)
    assert (tmp_path / f"episode-{first}.html").exists()


def test_what_the_operator_says_is_written_by_one_process(config: Path, desk: Desk | None) -> None:
    first, second = ids(config)
    for episode in (first, second):
        store_of(config).judge(episode)
    armfleet(config, "label", first, "--failure")
    armfleet(config, "quarantine", second, "--reason", "the lamp fell over")
    failed, quarantined = (store_of(config).read(episode) for episode in (first, second))
    assert (failed.label, quarantined.verdict) == ("failure", "quarantined")
    assert quarantined.decision.reason == "the lamp fell over"
    assert "by hand: the lamp fell over" in armfleet(config, "list")
    armfleet(config, "admit", second, "--reason", "it did not")
    assert store_of(config).read(second).verdict == "admitted"
    armfleet(config, "label", first, code=1)
    armfleet(config, "label", first, "--clear")
    assert store_of(config).read(first).label is None
    output = armfleet(config, "delete", first)
    assert "lies in" in output
    assert ids(config) == [second]
    assert "no episode" in armfleet(config, "delete", first, code=ExitCode.EPISODE_DAMAGED)
    armfleet(config, "delete", first, "--purge")
    if desk is not None:
        assert desk.refreshed == [first, second, second, first, first, first]
        assert "it begins again" in output
        assert len(desk.interrupted) >= 2, "what leaves the training set stops the trainer"


def test_the_catalogue_lies_in_the_state_folder(config: Path, desk: Desk | None, tmp_path: Path) -> None:
    store_of(config).judge(ids(config)[0])
    assert "2 entries" in armfleet(config, "catalogue")
    entries = read_catalogue(tmp_path / "state/datasets.toml").dataset
    assert sorted(entry.task for entry in entries) == sorted(TASKS)


def test_an_import_is_told_as_it_goes(config: Path, desk: Desk | None, source: Path, tmp_path: Path) -> None:
    write_v3(tmp_path / "more", (90,), seed=50)
    output = armfleet(config, "import", str(source), str(tmp_path / "more"))
    assert "imported: 1 episodes" in output
    assert "already there: 2" in output
    (new,) = (record.id for record in store_of(config).records() if record.origin.source == "more")
    record = store_of(config).read(new)
    if desk is None:
        assert record.verdict != "unjudged"
    else:
        assert (desk.refreshed, desk.judged) == ([new], [new])
    assert "no LeRobot dataset" in armfleet(config, "import", str(tmp_path / "nothing"), code=1)
    lines = armfleet(config, "import", str(source), "--json").splitlines()
    assert [json.loads(line).get("outcome") for line in lines] == [None, "known", "known", None]


def test_nothing_is_written_beside_an_agent_that_does_not_answer(config: Path, tmp_path: Path) -> None:
    first, _ = ids(config)
    with only_one(tmp_path / "state"):
        output = armfleet(config, "label", first, "--success", code=ExitCode.ALREADY_RUNNING)
    assert "another agent" in output
    assert store_of(config).read(first).label is None


def test_a_request_that_makes_no_sense_is_refused_by_the_api(config: Path) -> None:
    desk = Desk(config)
    try:
        client = UdsClient(desk.config.node.socket)
        for body in ({"op": "delete", "episodes": ["../../etc"]}, {"op": "burn", "episodes": ["000001"]}):
            with pytest.raises(Exception, match="/episodes/change"):
                client.post("/episodes/change", body)
    finally:
        desk.close()
