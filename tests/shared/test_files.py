import os
import signal
import subprocess
import sys

import pytest

from shared.files import durable_folder, remove_in_progress, write_atomic


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    target = tmp_path / "state.json"
    write_atomic(target, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk is gone")))
    with pytest.raises(OSError, match="gone"):
        write_atomic(target, "new")
    assert target.read_text() == "old"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    final = tmp_path / "episode"
    with pytest.raises(IsADirectoryError), durable_folder(final) as work:
        (work / "half").mkdir()
        (work / "half").write_text("x")
    assert list(tmp_path.iterdir()) == []
    with durable_folder(final) as work:
        (work / "whole").write_text("x")
        assert not final.exists()
    assert (final / "whole").read_text() == "x"
    with pytest.raises(FileExistsError), durable_folder(final):
        pass


def test_what_a_killed_writer_left_is_removed_at_start_up(tmp_path):
    code = (
        "import sys, time, pathlib; from shared.files import durable_folder\n"
        f"with durable_folder(pathlib.Path({str(tmp_path / 'e1')!r})) as w:\n"
        "    (w / 'frame').write_text('x'); print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert remove_in_progress(tmp_path) == [".inprogress-e1"]
    assert list(tmp_path.iterdir()) == []
