"""What reaches the journal."""

import subprocess
import sys
from pathlib import Path

CODE = """
from loguru import logger
from systemd import journal
from shared.logging import setup_logging
journal.sendv = lambda *fields: print(*fields, sep="\\n")
setup_logging("agent")
logger.bind(episode=12).warning("kept")
"""


def test_a_line_is_sent_to_the_journal_with_its_fields():
    """The last step, a socket of journald's, is a stand-in: few machines that run tests have one."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[2],
        env={"JOURNAL_STREAM": "8:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    wanted = {"MESSAGE=kept", "PRIORITY=4", "SYSLOG_IDENTIFIER=armfleet-agent", "ARMFLEET_EPISODE=12"}
    assert wanted | {"CODE_FILE=<string>", "CODE_LINE=7"} <= set(done.stdout.splitlines())
