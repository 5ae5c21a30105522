"""Whether a daemon runs under systemd, and what it tells it (sd_notify(3); outside systemd nothing)."""

import os

from systemd import daemon


def started_by_systemd() -> bool:
    """Whether this process is the one that systemd started, not a child of it ($SYSTEMD_EXEC_PID in
    systemd.exec(5), since systemd 248)."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def notify_ready(status: str) -> None:
    """Start-up is over; `status` is the line that `systemctl status` shows."""
    daemon.notify(f"READY=1\nSTATUS={status}")


def notify_status(status: str) -> None:
    """Replace the line that `systemctl status` shows."""
    daemon.notify(f"STATUS={status}")


def notify_stopping() -> None:
    """The service has begun to shut down."""
    daemon.notify("STOPPING=1")


def ping_watchdog() -> None:
    """Call at least every `watchdog_interval_s()`; systemd restarts a service that falls silent."""
    daemon.notify("WATCHDOG=1")


def watchdog_interval_s() -> float | None:
    """Half of systemd's WatchdogSec= (as sd_watchdog_enabled(3) recommends), or None without a watchdog."""
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 2e6 if usec else None
