"""The program of an image worker: runs one function after the other until its socket is closed.

    python -m atelier_runtime.images.worker DESCRIPTOR MEMORY_BYTES

See `workers`. It must not import torch or gRPC: it starts in 0.2 s and takes 30 MB.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from atelier_runtime.errors import AtelierError, ErrorReason
from atelier_runtime.images import shared


def main(descriptor: int, memory_bytes: int) -> None:
    """Serve the socket with this descriptor. `memory_bytes`: private memory at most, beyond today's."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # for the group: the parent drains
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")  # Pillow has one for every odd tag of a file
    with contextlib.suppress(ImportError):  # the restorer has it
        import cv2

        cv2.setNumThreads(1)
    _limit_memory(memory_bytes)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError, OSError):
        threading.Thread(target=_end_with_parent, args=(connection.fileno(),), daemon=True).start()
        while True:
            _serve_one(connection)


def _limit_memory(memory_bytes: int) -> None:
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return
    held_kib = next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmData:" in line)
    limit = held_kib * 1024 + memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(OSError):  # if memory runs out all the same, the kernel is to choose a worker
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _end_with_parent(descriptor: int) -> None:
    """End this process, in the middle of its work, when the parent has closed its end of the socket."""
    poller = select.poll()
    poller.register(descriptor, 0)  # hang-ups only
    poller.poll()
    os._exit(0)


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
