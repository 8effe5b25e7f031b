"""nchan, the publish/subscribe module of nginx, in C: one worker, events by HTTP POST, messages in its own memory."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from bench.harness import (
    SERVER_CORE,
    BenchFailed,
    NotInstalled,
    Process,
    Running,
    event_json,
    free_port,
    scratch,
)
from bench.peers.peer import Event, Peer

INSTALL = "Debian: apt-get install nginx libnginx-mod-nchan"
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
EVERYBODY = "everybody"  # the channel of a broadcast

CONFIG = """\
load_module {module};
daemon off;
worker_processes 1;
pid {scratch}/nginx-{port}.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {scratch}/nginx-body;
  proxy_temp_path {scratch}/nginx-proxy;
  fastcgi_temp_path {scratch}/nginx-fastcgi;
  uwsgi_temp_path {scratch}/nginx-uwsgi;
  scgi_temp_path {scratch}/nginx-scgi;
  keepalive_requests 1000000000;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /ws {{ nchan_subscriber websocket; nchan_channel_id $arg_u; }}
    location = /publish {{ nchan_publisher; nchan_channel_id $arg_u; }}
  }}
}}
"""


def start() -> Running:
    """nginx with one worker; events go to the port of its clients."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or not MODULE.exists():
        raise NotInstalled(f"nginx with nchan ({INSTALL})")
    port = free_port()
    folder = scratch("nginx.log", b"").parent
    text = CONFIG.format(module=MODULE, port=port, scratch=folder)
    config = scratch(f"nginx-{port}.conf", text.encode())
    process = Process("nginx", [nginx, "-p", folder, "-e", "stderr", "-c", config], SERVER_CORE)
    process.wait_for_port(port)
    return Running(port, (process,), redis_port=port, groups={"server": _with_worker(process)})


def _with_worker(process: Process) -> list[int]:
    """The master listens before it forks: wait for the worker, whose CPU is what matters."""
    for _ in range(250):
        if len(pids := process.pids()) > 1:
            return pids
        time.sleep(0.02)
    raise BenchFailed(f"nginx has no worker after 5 s: {process.log()}")


def clients(event: Event) -> tuple[str, ...]:
    """One channel for each person, or the same for all."""
    return ("-F", "-u", f"/ws?u={EVERYBODY}") if event == "all" else ("-F",)


def template(event: Event) -> Path:
    """One POST on a connection that is kept and pipelined."""
    channel = EVERYBODY if event == "all" else "U" * 6
    body = event_json().replace("U" * 6, "*" * 6)
    head = f"POST /publish?u={channel} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return scratch(f"nchan-{event}", (head + body).encode())


NCHAN = Peer("nchan", start, clients, template)
