"""The courier between Flower's grid and the daemon, and the keeper of the run, with both ends played."""

import threading
import time

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from coordinator.exchange.run_keeper import SETTLED_S, RunKeeper
from coordinator.exchange.server_app import Courier
from coordinator.exchange.superlink import RunStatus
from shared.envelope import pack, unpack
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode

CHECK_IN = "c" * 32
LIMIT_S = 20.0


class Grid:
    """Takes messages and gives back what the test put into `replies`; those to messages in `half` come when
    `rest` is set, asking for those in `broken` fails."""

    def __init__(self):
        self.sent, self.replies, self.refuses = [], [], False
        self.half, self.rest, self.broken = set(), threading.Event(), {}

    def get_node_ids(self):
        return [1, 2]

    def push_messages(self, messages):
        if self.refuses:
            return [None]
        self.sent += messages
        return [f"m{len(self.sent)}"]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        if message_id in self.broken:
            raise self.broken[message_id]
        if message_id in self.half:
            self.rest.wait(LIMIT_S)
        return [r for r in self.replies if r.metadata.reply_to_message_id == message_id]


class Daemon:
    """The daemon's socket; `away` makes it fail, `chokes_on` makes it fail on that answer."""

    def __init__(self):
        self.away, self.over, self.plans, self.answers = False, False, [], []
        self.chokes_on, self.ttl_s = None, 60.0

    def _check(self):
        if self.away:
            raise ArmfleetError("nobody answers", code=ExitCode.COORDINATOR_AWAY)

    def post_bytes(self, url, content):
        self._check()
        self.asked = unpack(content)[0]
        due, self.plans = self.plans, []
        items = [{"node_id": n, "check_in": c, "ttl_s": self.ttl_s} for n, c, _ in due]
        return pack({"over": self.over, "check_ins": items}, {c: data for _, c, data in due})

    def post(self, url, content):
        self._check()
        header, blobs = unpack(content)
        if self.chokes_on is not None and self.chokes_on in blobs.values():
            raise ArmfleetError("POST /exchange/replies failed: HTTP 500")
        self.answers.append((header, blobs))


class Replied:
    """Enough of a Flower reply."""

    def __init__(self, to, data=None, error=None):
        self.metadata = type("Metadata", (), {"reply_to_message_id": to})
        self.error, self._data = error, data
        self.content = RecordDict({"envelope": ConfigRecord({"data": data})} if data else {})

    def has_error(self):
        return self.error is not None


@pytest.fixture
def world(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):  # set by the process that runs a ServerApp
        monkeypatch.setattr(TaskIdentity, name, 5)
    grid, daemon = Grid(), Daemon()
    yield grid, daemon, Courier(grid, daemon, run_id=5, poll_s=0.001)
    grid.rest.set()


def until(courier, condition):
    """Let the courier work until something holds: replies come from threads."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        assert courier.step()
        time.sleep(0.001)


def test_a_check_in_goes_out_and_its_answer_comes_back(world):
    grid, daemon, courier = world
    daemon.plans = [(1, CHECK_IN, b"question")]
    assert courier.step()
    assert daemon.asked == {"run_id": 5, "online": [1, 2]}
    (message,) = grid.sent
    assert isinstance(message, Message)
    assert message.content["envelope"]["data"] == b"question"
    assert (message.metadata.dst_node_id, message.metadata.ttl) == (1, 60.0)
    grid.replies = [Replied("m1", b"answer")]
    until(courier, lambda: daemon.answers)
    assert daemon.answers == [({"node_id": 1, "check_in": CHECK_IN, "error": None}, {"reply": b"answer"})]


def test_answers_are_kept_while_the_daemon_is_away(world):
    grid, daemon, courier = world
    daemon.plans = [(1, CHECK_IN, b"question")]
    courier.step()
    daemon.away, grid.replies = True, [Replied("m1", b"answer")]
    until(courier, lambda: courier._answers)
    assert courier.step()
    daemon.away = False
    courier.step()
    assert [blobs["reply"] for _, blobs in daemon.answers] == [b"answer"]


def test_an_answer_that_the_daemon_fails_on_does_not_hold_up_the_others(world):
    grid, daemon, courier = world
    daemon.plans = [(1, CHECK_IN, b"question"), (2, "d" * 32, b"question")]
    courier.step()
    daemon.chokes_on, grid.replies = b"bad", [Replied("m1", b"bad"), Replied("m2", b"good")]
    daemon.plans = [(1, "e" * 32, b"next question")]
    until(courier, lambda: daemon.answers)
    assert [blobs["reply"] for _, blobs in daemon.answers] == [b"good"]
    assert len(grid.sent) == 3, "the plan was asked for all the same"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Replied("m1", error=Error(code=3, reason="expired")), "expired (code 3)"),
        (Replied("m1"), "an answer without an envelope"),
    ],
)
def test_what_went_wrong_is_told(world, reply, reason):
    grid, daemon, courier = world
    daemon.plans = [(1, CHECK_IN, b"question")]
    courier.step()
    grid.replies = [reply]
    until(courier, lambda: daemon.answers)
    assert daemon.answers == [({"node_id": 1, "check_in": CHECK_IN, "error": reason}, {})]


def test_a_reply_that_never_arrives_whole_holds_up_no_other_station(world):
    """Its sender died in the middle; Flower's grid waits three minutes for the rest."""
    grid, daemon, courier = world
    daemon.plans = [(1, CHECK_IN, b"question"), (2, "d" * 32, b"question")]
    grid.half = {"m1"}
    grid.replies = [Replied("m1", error=Error(code=3, reason="half")), Replied("m2", b"good")]
    until(courier, lambda: daemon.answers)
    assert [header["node_id"] for header, _ in daemon.answers] == [2]
    daemon.plans = [(2, "e" * 32, b"next question")]
    until(courier, lambda: len(grid.sent) == 3)
    grid.rest.set()
    until(courier, lambda: len(daemon.answers) > 1)
    assert daemon.answers[1][0]["error"] == "half (code 3)"


def test_a_reply_that_does_not_come_in_time_is_reported(world):
    _, daemon, courier = world
    daemon.ttl_s, daemon.plans = 0.0, [(1, CHECK_IN, b"question")]
    until(courier, lambda: daemon.answers)
    assert "time to live" in daemon.answers[0][0]["error"]


def test_a_run_that_flower_has_ended_ends_the_courier(world):
    grid, daemon, courier = world
    daemon.plans, grid.broken = [(1, CHECK_IN, b"question")], {"m1": RunNotRunningException()}
    with pytest.raises(RunNotRunningException):
        until(courier, lambda: False)


def test_a_message_that_the_superlink_does_not_take_is_reported(world):
    grid, daemon, courier = world
    grid.refuses, daemon.plans = True, [(1, CHECK_IN, b"question")]
    courier.step()
    courier.step()
    assert "did not take" in daemon.answers[0][0]["error"]


def test_the_run_ends_when_the_daemon_says_so(world):
    _, daemon, courier = world
    daemon.over = True
    assert not courier.step()


class Link:
    def __init__(self):
        self.status, self.submitted, self.away = {}, [], False

    def run_status(self, run_id):
        if self.away:
            raise ArmfleetError("the SuperLink doesn't answer")
        return self.status.get(run_id)

    def start_run(self, fab):
        self.submitted.append(fab)
        self.status[len(self.submitted)] = RunStatus("running", "", "")
        return len(self.submitted)


@pytest.fixture
def keeping(tmp_path):
    link, now = Link(), [0.0]
    return link, now, lambda: RunKeeper(link, lambda: b"fab", tmp_path / "run.json", lambda: now[0])


def test_a_run_is_submitted_once_and_found_again_after_a_restart(keeping):
    link, _, make = keeping
    keeper = make()
    keeper.check()
    keeper.check()
    assert (keeper.run_id, len(link.submitted)) == (1, 1)
    again = make()
    again.check()
    assert (again.run_id, len(link.submitted)) == (1, 1)
    assert again.sentence == "run 1 is running"


def test_a_run_that_ended_is_submitted_again_more_slowly_each_time(keeping):
    link, now, make = keeping
    keeper = make()
    keeper.check()
    starts = []
    while len(starts) < 3:
        link.status[keeper.run_id] = RunStatus("finished", "failed", "killed") if keeper.run_id else None
        keeper.check()
        now[0] += 1
        if keeper.run_id is not None and len(link.submitted) > len(starts) + 1:
            starts.append(now[0])
    assert starts[1] - starts[0] < starts[2] - starts[1]


def test_a_run_that_ended_after_hours_is_replaced_at_once(keeping):
    link, now, make = keeping
    keeper = make()
    keeper.check()
    now[0] += SETTLED_S + 1
    link.status[1] = RunStatus("finished", "failed", "")
    keeper.check()
    assert keeper.run_id == 2


def test_a_superlink_that_is_away_is_told_and_waited_for(keeping):
    link, _, make = keeping
    keeper = make()
    keeper.check()
    link.away = True
    keeper.check()
    assert "doesn't answer" in keeper.sentence
    link.away = False
    keeper.check()
    assert (keeper.run_id, len(link.submitted)) == (1, 1)


def test_a_superlink_with_a_new_database_gets_a_new_run(keeping):
    link, _, make = keeping
    keeper = make()
    keeper.check()
    link.status.clear()
    for _ in range(3):
        keeper._not_before = 0
        keeper.check()
    assert len(link.submitted) >= 2


def test_an_exchange_ended_by_the_operator_stays_ended(keeping):
    link, _, make = keeping
    keeper = make()
    keeper.check()
    keeper.stopped = True
    link.status[1] = RunStatus("finished", "completed", "")
    keeper.check()
    assert len(link.submitted) == 1


def test_a_damaged_run_file_leads_to_a_new_run(keeping, tmp_path):
    _link, _, make = keeping
    (tmp_path / "run.json").write_text("{")
    keeper = make()
    keeper.check()
    assert keeper.run_id == 1
