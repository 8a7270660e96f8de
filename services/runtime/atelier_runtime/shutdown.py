"""A hard end for a process that does not end by itself."""

from __future__ import annotations

import logging
import os
import threading

logger = logging.getLogger(__name__)

EXIT_GRACE_SECONDS = 10.0
"""After `drain_seconds`: time to close what is open."""


def exit_after(seconds: float) -> None:
    """End this process with code 1 in so many seconds, unless it has ended by then.

    A thread that is stuck in C code keeps a process alive forever: at its exit Python waits for threads.
    """

    def end() -> None:
        logger.error("did not end by itself; exiting", extra={"seconds": seconds})
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
