"""Closes a connection so that a client that is still sending receives its response (RFC 9112, section 9.6).

A socket that is closed while data come resets the connection, and the client loses what it has not read. So
where a request is refused before its body has come, only the sending side is closed, and what comes is
discarded until the client closes.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_MIN_BYTES_PER_SECOND = 64 * 1024
_FAREWELL_S = 1.0


@dataclass(frozen=True)
class LingerLimits:
    """How long what comes after the response is discarded.

    `seconds`: the first period, and each further one as long as 64 KiB a second came in the last.
    `max_bytes`: in all periods together.
    """

    seconds: float
    max_bytes: int


class LingeringTransport(asyncio.Transport):
    """A transport whose `close` lingers while the client is sending; to its user, it is closing then."""

    def __init__(
        self,
        transport: asyncio.Transport,
        limits: LingerLimits,
        *,
        is_sending: Callable[[], bool],
        on_linger: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        """`give_up` is called at the end of the limits, and must `abort`."""
        self._inner = transport
        self._limits = limits
        self._is_sending = is_sending
        self._on_linger = on_linger
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None
        self._discarded_bytes = 0
        self._has_tls = transport.get_extra_info("sslcontext") is not None
        self.lingers = False

    def close(self) -> None:
        """Close, at once or once the client has had time to receive what was written."""
        if self._is_sending():
            self.linger()
        elif not self.is_closing():  # or asyncio's TLS would forget what it needs until the end
            all_is_read = self.unread_bytes() == 0
            self._inner.close()
            if all_is_read and self._has_tls:
                # asyncio waits half a minute for the client's farewell, which few clients send.
                self._timer = asyncio.get_running_loop().call_later(_FAREWELL_S, self._inner.abort)

    def linger(self) -> None:
        """Close the sending side after what was written; what comes must be passed to `discard`."""
        if self.is_closing():
            return
        self.lingers = True
        with suppress(OSError, NotImplementedError):  # the client has gone; TLS closes both sides or none
            self._inner.write_eof()
        self._inner.resume_reading()
        self._start_period()
        self._on_linger()

    def discard(self, size: int) -> None:
        """Count bytes that came and are not read by anyone."""
        self._discarded_bytes += size
        if self._discarded_bytes > self._limits.max_bytes:
            self._give_up()

    def forget(self) -> None:
        """Stop the timer and let go of the callbacks, and so of their owner: the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_sending = lambda: False
        self._on_linger = self._give_up = lambda: None

    def _start_period(self) -> None:
        before = self._discarded_bytes

        def end() -> None:
            enough = _MIN_BYTES_PER_SECOND * self._limits.seconds
            if self._discarded_bytes - before >= enough:
                self._start_period()
            else:
                self._give_up()

        self._timer = asyncio.get_running_loop().call_later(self._limits.seconds, end)

    def unread_bytes(self) -> int:
        """Return the bytes that the client has not received, those in the kernel's buffer among them.

        The kernel asks for more only when megabytes of its buffer are free, for which a slow client needs
        minutes.
        """
        unread = self._inner.get_write_buffer_size()
        connection = self._inner.get_extra_info("socket")
        with suppress(OSError, ValueError):  # a socket of another kind, or closed
            if connection is not None:
                answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
                unread += int.from_bytes(answer, sys.byteorder)
        return unread

    # --- the rest is the transport's ---

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return self.lingers or self._inner.is_closing()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Write; what comes after `close` is dropped."""
        if not self.lingers:
            self._inner.write(data)

    def abort(self) -> None:
        """Close at once."""
        self._inner.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket, for example."""
        return self._inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Receive nothing for now; has no effect while it lingers."""
        if not self.lingers:
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        self._inner.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when `pause_writing` and `resume_writing` are called."""
        if high == 0 and self._has_tls:
            high = 1  # asyncio's TLS would pause at 0 with nothing to write, and not resume
        self._inner.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the bytes that have not been sent."""
        return self._inner.get_write_buffer_size()
