"""One logging front for all processes: journald with fields under systemd, plain lines elsewhere.

`logger.bind(episode=12).info("…")` can be found again with `journalctl ARMFLEET_EPISODE=12`.
"""

import logging
import os
import sys
from typing import TYPE_CHECKING

from loguru import logger
from systemd import journal

if TYPE_CHECKING:
    from loguru import Message, Record

# syslog(3) priorities of loguru's level numbers.
PRIORITIES = ((50, 2), (40, 3), (30, 4), (25, 5), (20, 6), (0, 7))


def setup_logging(component: str, level: str = "INFO") -> None:
    """Send loguru and the standard library's records to one sink; `component` names the process."""
    logger.remove()
    logger.configure(extra={"component": component})
    if "JOURNAL_STREAM" in os.environ:
        logger.add(_to_journal, level=level)
    else:
        logger.add(sys.stderr, level=level, format=_line, colorize=False)
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def _priority(level: int) -> int:
    return next(priority for floor, priority in PRIORITIES if level >= floor)


def _to_journal(message: "Message") -> None:
    record = message.record
    fields = {f"ARMFLEET_{key.upper()}": str(value) for key, value in record["extra"].items()}
    text = record["message"]
    if record["exception"]:
        text += "\n" + str(message).split("\n", 1)[-1]
    journal.send(
        text,
        PRIORITY=str(_priority(record["level"].no)),
        SYSLOG_IDENTIFIER=f"armfleet-{record['extra'].get('component', '')}",
        CODE_FILE=record["file"].path,
        CODE_LINE=record["line"],
        **fields,
    )


def _line(record: "Record") -> str:
    extra = {key: value for key, value in record["extra"].items() if key != "component"}
    fields = " ".join(f"{key}={value}" for key, value in extra.items())
    tail = f"  [{fields}]" if fields else ""
    tail = tail.replace("{", "{{").replace("}", "}}").replace("<", r"\<")
    return "{time:HH:mm:ss.SSS} {level: <7} {extra[component]}: {message}" + tail + "\n{exception}"


class _Forward(logging.Handler):
    """Hands records of the standard library (LeRobot, Flower, uvicorn) to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.opt(exception=record.exc_info).log(level, "{}: {}", record.name, record.getMessage())
