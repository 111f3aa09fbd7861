# SPDX-License-Identifier: Apache-2.0
"""The truth log of a server or client: one JSON object per line on standard output.

`at` is CLOCK_MONOTONIC in nanoseconds, the clock of the kernel's meter. Used by every script in this folder, and read by
tests/src/real/truth.rs.
"""

import json
import sys
import threading
import time

_lock = threading.Lock()


def now() -> int:
    return time.monotonic_ns()


def log(event: str, request: int, at: int | None = None, **more) -> None:
    line = json.dumps({"event": event, "request": request, "at": at or now(), **more})
    with _lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def listening(address: str) -> None:
    print(f"listening on {address}", flush=True)


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `ip:port` or `[ip]:port`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
