"""What the publisher signs, seen by a client that trusts the root alone."""

import contextlib
import errno
from datetime import UTC, datetime, timedelta

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from coordinator.registry.targets import Offer, Publisher
from shared.errors import ArmfleetError
from shared.exit_codes import ExitCode
from shared.files import sha256


class Blobs(FetcherInterface):
    def __init__(self, blobs):
        self.blobs = blobs

    def _fetch(self, url):
        name = url.removeprefix("bundle:/")
        if name not in self.blobs:
            raise DownloadHTTPError(name, 404)
        return iter((self.blobs[name],))


class Robot:
    """A node: python-tuf's client on a folder, fed with bundles."""

    def __init__(self, folder, root):
        self.folder, self.root = folder, root
        self.tuf, self.adapters = {"root": 1}, set()
        folder.mkdir()
        (folder / "targets").mkdir()

    def take(self, publisher):
        bundle = publisher.bundle_for(self.tuf, self.adapters)
        updater = Updater(
            str(self.folder),
            "bundle:",
            str(self.folder / "targets"),
            "bundle:",
            Blobs(bundle),
            bootstrap=self.root,
        )
        updater.refresh()
        found = {}
        for slot in ("promoted", "previous", "candidate"):
            if info := updater.get_targetinfo(slot):
                digest = info.hashes["sha256"]
                if digest not in self.adapters:
                    updater.download_target(info)
                    self.adapters.add(digest)
                found[slot] = info.custom["version"]
        for name in bundle:
            if name.endswith(".json") and name.count(".") == 2:
                self.tuf[name.split(".")[1]] = int(name.split(".")[0])
        return found, bundle


def offer(version):
    return Offer(version, f"{version:064x}", "ba5e" * 16, f"adapter {version}".encode())


class Clock:
    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def publisher(tmp_path, clock):
    return Publisher.create(tmp_path / "tuf", tmp_path / "operator/root.pem", clock)


@pytest.fixture
def robot(tmp_path, publisher):
    return Robot(tmp_path / "robot", publisher.root)


def test_a_node_gets_all_slots_at_first_and_only_news_later(publisher, robot):
    publisher.publish({"promoted": offer(0), "candidate": offer(0)})
    assert robot.take(publisher)[0] == {"promoted": 0, "candidate": 0}
    publisher.publish({"promoted": offer(0), "candidate": offer(1)})
    found, bundle = robot.take(publisher)
    assert found == {"promoted": 0, "candidate": 1}
    assert not any("targets" in name for name in bundle)
    assert f"{sha256(b'adapter 1')}.candidate" in bundle
    assert f"{sha256(b'adapter 0')}.promoted" not in bundle
    _, nothing = robot.take(publisher)
    assert list(nothing) == ["timestamp.json"]


def test_a_promotion_and_a_roll_back_send_no_adapter_again(publisher, robot):
    publisher.publish({"promoted": offer(0), "candidate": offer(1)})
    robot.take(publisher)
    for slots in (
        {"promoted": offer(1), "previous": offer(0), "candidate": offer(1)},
        {"promoted": offer(0), "candidate": offer(1)},
    ):
        publisher.publish(slots)
        found, bundle = robot.take(publisher)
        assert found == {slot: o.version for slot, o in slots.items()}
        assert all(name.endswith(".json") for name in bundle)


def test_publishing_the_same_again_signs_nothing(publisher):
    assert publisher.publish({"promoted": offer(0)})
    assert not publisher.publish({"promoted": offer(0)})


def test_a_restarted_publisher_goes_on_counting(publisher, robot, tmp_path, clock):
    publisher.publish({"promoted": offer(0), "candidate": offer(1)})
    robot.take(publisher)
    again = Publisher(tmp_path / "tuf", clock)
    assert again.slots() == {"promoted": 0, "candidate": 1}
    again.publish({"promoted": offer(0), "candidate": offer(2)})
    assert robot.take(again)[0]["candidate"] == 2


@pytest.mark.parametrize("after", range(6))
def test_a_kill_after_any_write_leaves_a_repository_that_verifies(
    publisher, robot, tmp_path, clock, monkeypatch, after
):
    publisher.publish({"promoted": offer(0), "candidate": offer(1)})
    robot.take(publisher)
    from coordinator.registry import targets

    written = []

    def write_then_die(path, data):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, data)

    real = targets.write_atomic
    monkeypatch.setattr(targets, "write_atomic", write_then_die)
    wanted = {"promoted": offer(2), "previous": offer(0), "candidate": offer(2)}
    with contextlib.suppress(KeyboardInterrupt):
        publisher.publish(wanted)
    monkeypatch.undo()
    again = Publisher(tmp_path / "tuf", clock)
    assert robot.take(again)[0] in (
        {"promoted": 0, "candidate": 1},
        {s: o.version for s, o in wanted.items()},
    )
    again.publish(wanted)
    assert robot.take(again)[0] == {"promoted": 2, "previous": 0, "candidate": 2}


@pytest.mark.parametrize("after", range(6))
def test_a_full_disk_leaves_a_publisher_that_can_publish_later(publisher, robot, monkeypatch, after):
    from coordinator.registry import targets

    publisher.publish({"promoted": offer(0), "candidate": offer(1)})
    robot.take(publisher)
    written = []

    def write_while_there_is_room(path, data):
        if len(written) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path.name)
        real(path, data)

    real = targets.write_atomic
    monkeypatch.setattr(targets, "write_atomic", write_while_there_is_room)
    wanted = {"promoted": offer(2), "candidate": offer(2)}
    with contextlib.suppress(OSError):
        publisher.publish(wanted)
    assert robot.take(publisher)[0] in ({"promoted": 0, "candidate": 1}, {"promoted": 2, "candidate": 2})
    monkeypatch.undo()
    publisher.publish(wanted)
    assert robot.take(publisher)[0] == {"promoted": 2, "candidate": 2}


def test_the_candidate_key_cannot_promote(publisher, robot, tmp_path, clock):
    """A stolen daemon key signs a `promoted` into its own role: the client does not see it."""
    publisher.publish({"candidate": offer(1)})
    from tuf.api.metadata import Targets

    evil = offer(9)
    (tmp_path / "tuf/targets" / sha256(evil.payload)).write_bytes(evil.payload)
    info = {"promoted": evil.target("promoted"), "candidate": offer(1).target("candidate")}
    publisher._issue_all(None, Targets(targets=info))
    assert robot.take(publisher)[0] == {"candidate": 1}


def test_old_files_are_removed(publisher, tmp_path):
    for version in range(5):
        publisher.publish({"promoted": offer(0), "candidate": offer(version)})
    names = [path.name for path in (tmp_path / "tuf").glob("*.json")]
    assert len(names) == 5, names
    assert len(list((tmp_path / "tuf/targets").iterdir())) == 2


def test_metadata_is_renewed_after_half_its_life_and_not_before(publisher, robot, clock):
    publisher.publish({"promoted": offer(0)})
    assert publisher.renew() == []
    clock.now += timedelta(days=2)
    assert publisher.renew() == ["timestamp"]
    clock.now += timedelta(days=60)
    assert sorted(publisher.renew()) == ["candidate", "snapshot", "targets", "timestamp"]
    assert publisher.renew() == []
    assert robot.take(publisher)[0] == {"promoted": 0}


def test_a_lost_key_is_named(publisher, tmp_path):
    (tmp_path / "tuf/keys/daemon.pem").unlink()
    with pytest.raises(ArmfleetError, match="signing key") as caught:
        Publisher(tmp_path / "tuf")
    assert caught.value.code == ExitCode.REGISTRY_DAMAGED


def test_damaged_metadata_is_named(publisher, tmp_path):
    (tmp_path / "tuf/timestamp.json").write_text("{")
    with pytest.raises(ArmfleetError, match="signed metadata") as caught:
        Publisher(tmp_path / "tuf")
    assert caught.value.code == ExitCode.REGISTRY_DAMAGED


def test_private_keys_are_for_their_owner_only(publisher, tmp_path):
    for path in (tmp_path / "operator/root.pem", *(tmp_path / "tuf/keys").iterdir()):
        assert path.stat().st_mode & 0o077 == 0
