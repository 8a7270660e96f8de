"""The program of an image worker: runs one function after the other until its socket is closed.

    python -m atelier_runtime.images.worker DESCRIPTOR MEMORY_BYTES

See `workers`. It must not import torch or gRPC: it starts in 0.2 s and takes 30 MB.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
import traceback
from typing import Any

from atelier_runtime.errors import AtelierError, ErrorReason
from atelier_runtime.images import shared


def main(descriptor: int, memory_bytes: int) -> None:
    """Serve the socket with this descriptor. `memory_bytes`: private memory at most."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to a group; the parent drains, then closes the socket
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError, OSError):
        while True:
            _serve_one(connection)


def _serve_one(connection: socket.socket) -> None:
    function, seconds = shared.receive(connection)
    # SIGALRM ends a process that does not handle it, whatever C code it is in. 0: no limit.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    outcome: Any
    try:
        outcome = function()
    except AtelierError as error:
        outcome = shared.Failure(error.reason, error.message, error.fields)
    except MemoryError:
        outcome = shared.Failure(ErrorReason.OUT_OF_MEMORY)
    except Exception as error:  # sent to the parent, which logs it
        outcome = shared.Failure(ErrorReason.INTERNAL, str(error), traceback=traceback.format_exc())
    signal.setitimer(signal.ITIMER_REAL, 0)
    shared.send(connection, outcome)
    # The variables end here: pixels must not stay in memory until the next image.


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
