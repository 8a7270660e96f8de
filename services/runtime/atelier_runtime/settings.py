"""Frozen settings from the environment; an invalid one prevents startup with a line naming the variable."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NoReturn, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from atelier_runtime import defaults
from atelier_runtime.addresses import is_loopback

# Kubernetes sets ATELIER_GATEWAY_SERVICE_HOST and so on for a Service of the name atelier-gateway.
_LINK = re.compile(r"(tcp|udp|sctp)://")
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP|SCTP)")

BUILT_IN = "demo"
"""The model set that comes with the package."""

Compile = Literal["off", "blocks", "max"]
"""How much of a network is compiled."""


Anonymous = Literal["refuse", "warn", "allow"]
"""What becomes of callers without a key."""


def _lower_case(given: object) -> object:
    return given.lower() if isinstance(given, str) else given


def _none_if_empty(given: object) -> object:
    return None if given == "" else given


OptionalFile = Annotated[Path | None, BeforeValidator(_none_if_empty)]
"""A path; an empty variable is as good as none, and not the folder that the process runs in."""


class ProcessSettings(BaseSettings):
    """The settings of every process. A subclass sets `env_prefix` in its `model_config`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    renamed: ClassVar[Mapping[str, str]] = {}
    """Former name -> new name. A variable set under its former name prevents startup."""

    secret: ClassVar[frozenset[str]] = frozenset()
    """Settings whose values are never shown."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0: all, as in the container images."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower_case)] = Field(
        "info", description="Log level."
    )
    max_pixels: int = Field(
        defaults.MAX_PIXELS,
        ge=65_536,
        le=500_000_000,  # what fits into a gRPC message, see images.message_limit_bytes
        description="Maximum pixels of an image, input or output.",
    )
    drain_seconds: float = Field(
        60.0, ge=0, le=3600, description="Time for accepted work to finish after SIGTERM."
    )
    api_keys: str = Field(
        "",
        description="File of API keys, TOML, which `atelier-gateway keys new` writes; it is read again when "
        "it changes. Empty: there are no keys.",
    )
    anonymous: Anonymous | None = Field(
        None,
        description="What becomes of callers without a key: refuse, allow, or warn, which lets them in and "
        "says so at the start where not only this machine can reach the port. By default refuse where there "
        "are keys, else warn.",
    )
    tls_cert: OptionalFile = Field(
        None,
        description="Serve with TLS: a PEM file with the certificate, its own first, then those between it "
        "and the CA. Read again when it changes.",
    )
    tls_key: OptionalFile = Field(
        None, description="Its private key, a PEM file without a password; required with the certificate."
    )
    tls_ca: OptionalFile = Field(
        None,
        description="PEM file of CAs: clients must present a certificate that one of them has signed (mutual "
        "TLS).",
    )

    @property
    def warns_of_anonymous(self) -> bool:
        """Others may come, need neither key nor certificate, and nobody has said that this is meant."""
        silenced = self.anonymous == "allow" or not self.lets_anonymous_in or self.tls_ca is not None
        return not silenced and not is_loopback(self.host)

    @property
    def lets_anonymous_in(self) -> bool:
        """Callers need no key."""
        return self.anonymous in ("allow", "warn") or (self.anonymous is None and not self.api_keys)


class ServiceSettings(ProcessSettings):
    """The settings of every gRPC service."""

    port: int = Field(description="Port of the gRPC server; 0 picks a free one.", ge=0, le=65535)
    metrics_port: int = Field(description="Port of /metrics; 0 picks a free one.", ge=0, le=65535)
    model_set: str = Field(BUILT_IN, description="'demo' or the path of a folder with a manifest.json.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="dtype of the main networks; auto: bfloat16 on a GPU or CPU that computes in it, else "
        "float16 on a GPU and float32 on a CPU.",
    )
    compile: Compile = Field(
        "off",
        description="Compile networks at startup: repeated blocks, or whole networks with tuned kernels, "
        "which takes longer. Needs a C compiler on a GPU, a C++ compiler on a CPU; the images have both.",
    )
    compile_cache: str = Field(
        "",
        description="Folder that keeps what was compiled for the next start; its files are executed, so only "
        "the service may write there. Empty: every start compiles anew.",
    )
    queue_capacity: int = Field(8, ge=0, le=1024, description="Requests that may wait for the device.")
    image_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes that decode and encode images; 0: one for each usable CPU, at most 8.",
    )
    decode_seconds: float = Field(
        30.0, gt=0, le=3600, description="Longest time that decoding one image may take."
    )
    max_connection_age_seconds: float = Field(
        30.0,
        ge=1,
        description="Clients are asked to reconnect after this time, so that they find new replicas.",
    )
    cpu_threads: int = Field(
        0,
        ge=0,
        le=512,
        description="Threads per network operator; 0: one for each CPU that the process may use.",
    )
    reflection: bool = Field(
        True, description="Serve gRPC reflection, by which tools such as grpcurl learn the methods."
    )


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(settings_class: type[SettingsT]) -> SettingsT:
    """Read the settings from the environment, or exit with code 2 and a line for each invalid variable.

    A variable that looks like a setting but is none gets a line too, on standard error.
    """
    try:
        _refuse_renamed(settings_class)
        loaded = settings_class()
    except ValidationError as error:
        _explain_and_exit(settings_class, error)
    warn_of_unknown_variables(settings_class)
    return loaded


def help_text(settings_class: type[BaseSettings]) -> str:
    """Return every variable with its default and description, for the end of a command's help."""
    prefix = settings_class.model_config.get("env_prefix", "")
    lines = ["environment variables:"]
    for name, field in settings_class.model_fields.items():
        default = "none" if field.default == () else field.default
        lines.append(f"  {prefix}{name.upper()} (default {default})\n      {field.description}")
    return "\n".join(lines)


def explain(settings_class: type[BaseSettings], error: ValidationError) -> list[str]:
    """Turn a validation error into lines such as `ATELIER_GENERATOR_PORT=abc: Input should be ...`."""
    prefix = settings_class.model_config.get("env_prefix", "")
    secret: frozenset[str] = getattr(settings_class, "secret", frozenset())
    lines = []
    for problem in error.errors():
        name = f"{prefix}{'_'.join(str(part) for part in problem['loc'])}".upper()
        hidden = problem["type"] == "missing" or problem["loc"][0] in secret
        given = "" if hidden else f"={problem['input']}"
        lines.append(f"{name}{given}: {problem['msg'].removeprefix('Value error, ')}")
    return lines


def _explain_and_exit(settings_class: type[BaseSettings], error: ValidationError) -> NoReturn:
    print("Invalid settings:", *explain(settings_class, error), sep="\n  ", file=sys.stderr)
    raise SystemExit(2)


def _refuse_renamed(settings_class: type[BaseSettings]) -> None:
    """Exit with a line for each variable set under its former name; ignoring it would go unnoticed."""
    prefix = settings_class.model_config.get("env_prefix", "")
    renamed: Mapping[str, str] = getattr(settings_class, "renamed", {})
    given = {name.upper() for name in os.environ}
    lines = [
        f"{prefix}{former.upper()}: has been renamed to {prefix}{name.upper()}"
        for former, name in renamed.items()
        if f"{prefix}{former.upper()}" in given
    ]
    if lines:
        print("Invalid settings:", *lines, sep="\n  ", file=sys.stderr)
        raise SystemExit(2)


def warn_of_unknown_variables(settings_class: type[BaseSettings]) -> None:
    """Print a line for each variable that has the prefix but is no setting, Kubernetes' own left out."""
    prefix = settings_class.model_config.get("env_prefix", "")
    names = [name.upper() for name in settings_class.model_fields]
    for given in sorted(name.upper() for name in os.environ if name.upper().startswith(prefix)):
        name = given.removeprefix(prefix)
        if name in names or _SERVICE_LINK.search(given) or _LINK.match(os.environ.get(given, "")):
            continue
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {prefix}{close[0]}?" if close else ""
        print(f"{given} is not a setting and is ignored{hint}", file=sys.stderr)


class StartupError(Exception):
    """The process cannot start; the message names the setting and the remedy."""
