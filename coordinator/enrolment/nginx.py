"""The nginx configuration of the public port: TLS, and of everything behind it only two doors.

`/v1/fleet/` leads to the SuperLink (its Fleet API authenticates SuperNodes by their keys); `POST /enrol`
leads to the coordinator's enrolment socket. The rest of the SuperLink (Control and Runtime API: whoever
reaches them runs code) answers 404 without being asked.
"""

from dataclasses import dataclass
from pathlib import Path

from coordinator.config import CoordinatorConfig
from coordinator.layout import CA_CERT, CA_FOLDER, SERVER_CERT, SERVER_KEY
from shared.limits import MAX_MESSAGE_BYTES

ENROL_RATE = "6r/m"
ENROL_BYTES = "4k"
FLEET_BYTES = f"{MAX_MESSAGE_BYTES // 2**20}m"
"""An answer has at most half of it (`shared.limits`)."""


@dataclass(frozen=True)
class Front:
    """Where nginx listens and what stands behind it."""

    listen: str
    """address:port of the public side."""
    fleet_upstream: str
    """`https://127.0.0.1:8000` (the SuperLink), or `http://…` of a relay in front of it."""
    run_dir: Path
    """For the pid file and temporary files; exists and is writable by nginx."""
    user: str = ""
    """Unprivileged user of the workers; empty when nginx itself is started as one."""


def render(config: CoordinatorConfig, front: Front) -> str:
    """A complete nginx.conf."""
    ca = config.state / CA_FOLDER
    verify = (
        f"proxy_ssl_trusted_certificate {ca / CA_CERT}; proxy_ssl_verify on; proxy_ssl_name localhost; "
        "proxy_ssl_server_name on;"
        if front.fleet_upstream.startswith("https://")
        else ""
    )
    temporary = "\n".join(
        f"    {kind}_temp_path {front.run_dir}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
# Written by `armfleet coordinator-nginx`; change coordinator.toml instead.
{f"user {front.user};" if front.user else ""}
worker_processes 1;
pid {front.run_dir}/nginx.pid;
error_log stderr warn;

events {{ worker_connections 1024; }}

http {{
    access_log off;
    server_tokens off;
{temporary}
    limit_req_zone $binary_remote_addr zone=enrol:1m rate={ENROL_RATE};
    limit_req_status 429;

    upstream enrolment {{ server unix:{config.coordinator.enrol_socket}; }}

    server {{
        listen {front.listen} ssl;
        ssl_certificate {ca / SERVER_CERT};
        ssl_certificate_key {ca / SERVER_KEY};
        ssl_protocols TLSv1.2 TLSv1.3;

        location / {{ return 404; }}

        location /v1/fleet/ {{
            client_max_body_size {FLEET_BYTES};
            proxy_request_buffering off;
            proxy_read_timeout 120s;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            {verify}
            proxy_pass {front.fleet_upstream};
        }}

        location = /enrol {{
            limit_except POST {{ deny all; }}
            limit_req zone=enrol burst=10 nodelay;
            client_max_body_size {ENROL_BYTES};
            proxy_read_timeout 60s;
            proxy_pass http://enrolment;
        }}
    }}
}}
"""
