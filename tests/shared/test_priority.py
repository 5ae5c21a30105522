import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.priority import hasten

CODE = """
import os, sys
from shared.priority import set_priority
set_priority(7)
print(os.getpriority(os.PRIO_PROCESS, 0), open("/proc/self/autogroup").read().split()[-1])
"""


AUTOGROUP = Path("/proc/self/autogroup")


# Without autogroups the file is missing, or is there and empty.
@pytest.mark.skipif(
    not AUTOGROUP.exists() or not AUTOGROUP.read_text().strip(), reason="autogroups are off in this kernel"
)
@pytest.mark.parametrize("leader", [True, False])
def test_a_session_of_its_own_is_lowered_as_a_whole_and_a_shared_one_is_left_alone(leader):
    before = AUTOGROUP.read_text().split()[-1]
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[2],
        start_new_session=leader,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["7", "7" if leader else before]
    assert os.getpriority(os.PRIO_PROCESS, 0) < 7


@pytest.mark.parametrize("autogroup", ["missing/file", ""], ids=["no autogroups", "no plain file"])
def test_the_nice_value_is_set_whatever_the_kernel_says_about_groups(tmp_path, autogroup):
    code = "import os, sys, pathlib; from shared.priority import set_priority\n"
    code += "set_priority(7, pathlib.Path(sys.argv[1])); print(os.getpriority(os.PRIO_PROCESS, 0))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / autogroup)],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["7"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root, or LimitNICE=, may raise a priority")
def test_a_session_that_is_to_end_gets_its_ordinary_priority_back():
    code = "from shared.priority import set_priority; set_priority(19); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as slow:
        slow.stdout.readline()
        autogroup = Path(f"/proc/{slow.pid}/autogroup")
        assert os.getpriority(os.PRIO_PROCESS, slow.pid) == 19
        hasten(slow.pid)
        assert os.getpriority(os.PRIO_PROCESS, slow.pid) == 0
        assert not autogroup.exists() or autogroup.read_text().split()[-1:] in ([], ["0"])
        slow.communicate(b"\n", timeout=30)
    hasten(slow.pid)  # gone: no error
