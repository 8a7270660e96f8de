"""Compiling networks with torch.compile: what both services share.

Parts of a network are compiled in place (`compile_part`), so that callers do not change; they compile when
they are first called, inside `warm_up`. From then on nothing is compiled in this process, on whichever
thread: what fits no compiled variant runs eagerly.

docs/decisions/compilation.md says why.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from torch._dynamo.utils import counters
from torch._inductor.async_compile import shutdown_compile_workers
from torch._inductor.utils import clear_caches

from atelier_runtime.device import choose_device, is_out_of_memory
from atelier_runtime.processors import usable_processors
from atelier_runtime.settings import Compile, ServiceSettings, StartupError

logger = logging.getLogger(__name__)

INDUCTOR = "inductor"
_INDUCTOR_MODES: dict[Compile, str] = {"max": "max-autotune-no-cudagraphs"}
_VARIANTS = 100_000  # of one function; torch's own limit of 8 would end at the second size

Backend = str | Callable[..., Any]
Pass = tuple[str, Callable[[], object]]
"""A name for messages, and a call that runs a network at one shape."""


def prepare(settings: ServiceSettings) -> None:
    """Check that this machine can compile, and set up the cache; before anything is compiled.

    Raises `StartupError` naming the setting.
    """
    if settings.compile == "off":
        return
    _check_compiler(settings.compile, choose_device(settings.device))
    if settings.compile_cache:
        # Machine code for another processor may crash, and torch does not tell processors of a kind apart.
        folder = Path(settings.compile_cache).absolute() / _platform()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise StartupError(f"COMPILE_CACHE={settings.compile_cache}: {error.strerror}") from error
    else:
        folder = _temporary_cache()
    _use_cache(folder)


def _use_cache(folder: Path) -> None:
    clear_caches()  # torch's, in memory: they hold paths of the folder used before
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")


def compile_part(part: Any, mode: Compile, backend: Backend = INDUCTOR) -> None:
    """Compile a module in place: one variant for each shape of its inputs; its hooks stay outside.

    `backend`: torch.compile's; the modes of the settings are inductor's.
    """
    inductor_mode = _INDUCTOR_MODES.get(mode) if backend == INDUCTOR else None
    # `forward` rather than the module: its hooks bring inputs into one form before the guards see them
    part.forward = torch.compile(
        part.forward, fullgraph=True, dynamic=False, backend=backend, mode=inductor_mode
    )


def warm_up(settings: ServiceSettings, passes: Sequence[Pass]) -> None:
    """Run each pass, which compiles what it needs; afterwards nothing is compiled any more.

    If that fails with a cache that an earlier process may have left incomplete, everything is compiled anew,
    and replaces it. Raises `StartupError` naming setting, pass and reason.
    """
    start, before = time.perf_counter(), counters["stats"]["unique_graphs"]
    try:
        try:
            _compile(settings.compile, passes)
        except _CompilationFailed as error:
            if not settings.compile_cache:
                raise
            logger.warning("compiling failed; again, without the cache", extra={"error": str(error)})
            torch.compiler.reset()
            with _replaced_cache(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])):
                _compile(settings.compile, passes)
    except _CompilationFailed as error:
        raise StartupError(str(error)) from error
    finally:
        torch.compiler.set_stance("eager_on_recompile")
        shutdown_compile_workers()  # processes of some 300 MB each that nothing will use again
    logger.info(
        "networks compiled",
        extra={
            "graphs": counters["stats"]["unique_graphs"] - before,
            "from_cache": counters["inductor"]["fxgraph_cache_hit"],
            "seconds": round(time.perf_counter() - start, 1),
        },
    )


def compiled(enabled: bool) -> AbstractContextManager[object]:
    """Return a context in which compiled parts run as usual, or, on all threads, eagerly."""
    return nullcontext() if enabled else torch.compiler.set_stance("force_eager")


class _CompilationFailed(Exception):
    """A pass failed; the message names setting, pass and reason."""


def _compile(mode: Compile, passes: Sequence[Pass]) -> None:
    # Settings of torch belong to a context, and each job has its own: they are set where they are needed.
    with (
        warnings.catch_warnings(),
        torch.compiler.set_stance("default"),
        torch._dynamo.config.patch(recompile_limit=_VARIANTS, accumulated_recompile_limit=_VARIANTS),
        torch._inductor.config.patch(compile_threads=usable_processors()),
    ):
        # diffusers memoizes a function of constants; tracing through it is right
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
        for number, (name, run) in enumerate(passes, 1):
            logger.info("compiling", extra={"part": name, "number": number, "of": len(passes)})
            try:
                run()
            except Exception as error:
                if is_out_of_memory(error):
                    raise StartupError(
                        f"COMPILE={mode}: the device has too little memory for {name}"
                    ) from error
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise _CompilationFailed(f"COMPILE={mode}: {name}: {reason}") from error


def _check_compiler(mode: Compile, device: torch.device) -> None:
    if device.type == "cpu":
        variable, language, names = "CXX", "C++", ["g++"]
    else:
        variable, language, names = "CC", "C", ["gcc", "clang"]  # for what starts Triton's kernels
    given = os.environ.get(variable)
    names = [given] if given else names
    if not any(map(shutil.which, names)):
        raise StartupError(
            f"COMPILE={mode}: on a {device.type.upper()} device this takes a {language} compiler, and there "
            f"is no {' or '.join(names)}; install one, name it in {variable}, or set COMPILE=off"
        )


def _platform() -> str:
    """Return a name for what compiled code depends on beside what torch itself compares."""
    parts = (torch.__version__, platform.machine(), sorted(torch.cpu.get_capabilities().items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _temporary_cache() -> Path:
    global _temporary  # removed when the process ends
    if _temporary is None:
        _temporary = tempfile.TemporaryDirectory(prefix="atelier-compiled-", ignore_cleanup_errors=True)
    return Path(_temporary.name)


_temporary: tempfile.TemporaryDirectory[str] | None = None


@contextmanager
def _replaced_cache(folder: Path) -> Iterator[None]:
    """Use a new folder, which takes the cache's place once what is inside has succeeded.

    Other replicas may be using the cache: it is moved away as a whole, and only then.
    """
    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    old = new.with_name(f"{new.name}-old")
    _use_cache(new)
    try:
        yield
        folder.rename(old)
        new.rename(folder)
    finally:
        _use_cache(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
