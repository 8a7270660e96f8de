"""What a command prints: results to standard output; messages and progress to standard error.

That nobody reads any more (`restore ... | head -1`) does not end the work.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_COLUMNS, _ROWS = 80, 24  # of a terminal that does not know its size, such as a container's


class Console:
    """Prints; in one thread."""

    def __init__(self) -> None:
        self.has_lost_results = False
        """Results could not be printed, though somebody may have wanted to read them."""
        self._bar: tqdm[NoReturn] | None = None
        self._total = 0
        self._done = 0

    def result(self, value: Mapping[str, Any]) -> None:
        """Print a JSON object on a line of its own."""
        line = json.dumps(value)
        try:
            if self._bar is not None and sys.stdout.isatty():
                tqdm.write(line, file=sys.stdout)
            else:
                print(line, flush=True)
        except BrokenPipeError:
            _discard(sys.stdout)
        except OSError as error:
            _discard(sys.stdout)
            self.has_lost_results = True
            self.message(f"results cannot be printed any more: {error.strerror}")

    def message(self, text: str) -> None:
        """Print a message."""
        try:
            if self._bar is not None:
                tqdm.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)
        except OSError:
            _discard(sys.stderr)

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show the progress of `total` images: a bar with rate and time left on a terminal, else lines."""
        self._total, self._done = total, 0
        if total == 1 or sys.stderr is None or not sys.stderr.isatty():
            yield
            return
        width = _columns(sys.stderr)
        bar = tqdm(
            total=total,
            unit="image",
            file=sys.stderr,
            ncols=None if width else _COLUMNS,
            nrows=None if width else _ROWS,
            dynamic_ncols=bool(width),
        )
        with bar, logging_redirect_tqdm():
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def done(self, text: str, *, is_failure: bool = False) -> None:
        """Count an image as done; a failure's message stays on a terminal, another gives way to the next."""
        self._done += 1
        if self._bar is None:
            self.message(f"[{self._done}/{self._total}] {text}")
            return
        if is_failure:
            self.message(text)
        try:
            self._bar.update()
        except OSError:
            _discard(sys.stderr)


def _columns(terminal: TextIO) -> int:
    try:
        return os.get_terminal_size(terminal.fileno()).columns
    except OSError:
        return 0


def _discard(stream: TextIO) -> None:
    """Let what is still written to a stream, also when Python ends, go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
