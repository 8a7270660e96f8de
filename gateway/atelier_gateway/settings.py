"""The gateway's settings: environment variables that begin with `ATELIER_GATEWAY_`."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_settings import NoDecode, SettingsConfigDict

from atelier_runtime import defaults
from atelier_runtime.settings import OptionalFile, ProcessSettings

NO_GENERATOR = "none"
NO_JOBS = "none"

_HOST_AND_PORT = r"(\[[0-9A-Fa-f:.%]+\]|[^\s/:,\[\]]+):(\d{1,5})"
_TARGET = re.compile(
    rf"(dns:(//[^\s/]*/)?)?{_HOST_AND_PORT}|ipv[46]:{_HOST_AND_PORT}(,{_HOST_AND_PORT})*|unix(-abstract)?:\S+"
)
_PORT = re.compile(r":(\d{1,5})(?=,|$)")
_PUBLIC_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._~-]+)*")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_DATABASE = re.compile(r"sqlite:///(?!:memory:)[^\s?#]+|postgres(ql)?://\S+")
_FILES = re.compile(r"file:\S+|(s3|s3a|gs|az|abfs|abfss)://\S+")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9])?")
_ORIGIN = re.compile(r"\*|https?://[^/\s,]+")


def _split_origins(given: object) -> object:
    """Read `http://a:3000, http://b` as a list; an origin does not have a path, nor a slash at its end."""
    if not isinstance(given, str):
        return given
    origins = tuple(part.strip() for part in given.split(",") if part.strip())
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"'{origin}' is not an origin: write * or http(s)://host[:port], separated by commas"
            )
    return origins


def _split_hosts(given: object) -> object:
    """Read `images.example.com, studio` as a list."""
    if not isinstance(given, str):
        return given
    hosts = tuple(part.strip().lower() for part in given.split(",") if part.strip())
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ValueError(f"'{host}' is not the name of a host: write it without http:// and a port")
    return hosts


def _split_networks(given: object) -> object:
    """Read `10.0.0.0/8, 192.168.1.5` as a list."""
    if not isinstance(given, str):
        return given
    networks = tuple(part.strip() for part in given.split(",") if part.strip())
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(
                f"'{network}' is neither an IP address nor a network such as 10.0.0.0/8"
            ) from None
    return networks


def _public_url(given: object) -> object:
    """Read an address, with or without a slash at its end."""
    if isinstance(given, str) and given:
        given = given.rstrip("/")
        if not _PUBLIC_URL.fullmatch(given):
            raise ValueError("is not an address: write http(s)://host[:port][/path]")
    return given


def _root_path(given: object) -> object:
    """Read a path prefix, with or without a slash at its end."""
    if isinstance(given, str) and given:
        given = given.rstrip("/")
        if given and not _ROOT_PATH.fullmatch(given):
            raise ValueError("is not a path: write it as /images, without a host and without spaces")
    return given


def _grpc_target(given: object) -> object:
    """Read a gRPC target: host:port, or with the scheme of one of gRPC's resolvers."""
    if isinstance(given, str) and not _TARGET.fullmatch(given):
        raise ValueError(
            "is not a gRPC address: write host:port or dns:///host:port, without http:// and without a path"
        )
    ports = _PORT.findall(given) if isinstance(given, str) and not given.startswith("unix") else []
    if not all(1 <= int(port) <= 65535 for port in ports):
        raise ValueError("has a port that is not from 1 to 65535")
    return given


def _grpc_target_or_none(given: object) -> object:
    return given if given == NO_GENERATOR else _grpc_target(given)


def _jobs_database(given: object) -> object:
    if isinstance(given, str) and given != NO_JOBS and not _DATABASE.fullmatch(given):
        raise ValueError("is not sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or none")
    return given


def _jobs_files(given: object) -> object:
    if isinstance(given, str) and not _FILES.fullmatch(given):
        raise ValueError(
            "is not file:FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
        )
    return given


def _replicas(count: int, info: ValidationInfo) -> int:
    """SQLite's file belongs to one gateway: the others would not know its jobs."""
    if count > 1 and str(info.data.get("jobs_database", "")).startswith("sqlite:"):
        raise ValueError(
            "gateways cannot share SQLite: ATELIER_GATEWAY_JOBS_DATABASE must be postgresql://... or none"
        )
    return count


def _split_secrets(given: object) -> object:
    """Read `whsec_AAAA,whsec_BBBB` as a list; 24 to 64 bytes each, as Standard Webhooks wants them."""
    if not isinstance(given, str):
        return given
    secrets = tuple(part.strip() for part in given.split(",") if part.strip())
    for number, secret in enumerate(secrets, 1):
        try:
            size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
        except ValueError:
            size = 0
        if not secret.startswith("whsec_") or not 24 <= size <= 64:
            raise ValueError(f"secret {number} is not whsec_ followed by 24 to 64 bytes in base64")
    return secrets


class GatewaySettings(ProcessSettings):
    """Frozen; `atelier_runtime.settings.load` explains a bad value in a line that names the variable."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="ATELIER_GATEWAY_")

    renamed: ClassVar[Mapping[str, str]] = {"stage_wait_seconds": "backend_wait_seconds"}
    secret: ClassVar[frozenset[str]] = frozenset({"jobs_database", "webhook_secrets", "backend_api_key"})

    port: int = Field(7860, ge=0, le=65535, description="Port of the HTTP server; 0 takes a free one.")
    generator: Annotated[str, BeforeValidator(_grpc_target_or_none)] = Field(
        "127.0.0.1:50051",
        min_length=1,
        description="gRPC address of the generator; calls are balanced over all addresses of a name. none: "
        "there is no generator, and photos are restored only.",
    )
    restorer: Annotated[str, BeforeValidator(_grpc_target)] = Field(
        "127.0.0.1:50052", min_length=1, description="gRPC address of the restorer, likewise."
    )
    root_path: Annotated[str, BeforeValidator(_root_path)] = Field(
        "",
        description="Path below which a proxy serves the gateway, such as /images; for the links of /docs. "
        "Requests may come with it or without.",
    )
    public_url: Annotated[str, BeforeValidator(_public_url)] = Field(
        "",
        description="Address of the gateway for its clients, such as https://images.example.com/atelier, for "
        "the addresses of images in OpenAI's interface. Empty: what the request was sent to.",
    )
    deadline_seconds: float = Field(
        defaults.DEADLINE_S, gt=0, le=86_400, description="Time for one request, all services together."
    )
    status_timeout_seconds: float = Field(
        2.0, gt=0, le=60, description="How long /health and /readyz wait for a service to report its status."
    )
    backend_wait_seconds: float = Field(
        2.0,
        ge=0,
        le=3600,
        description="How long a call waits for a replica of its service while there is none; where services "
        "scale to zero, longer than one takes to start.",
    )
    max_body_bytes: int = Field(
        2**20,
        ge=1024,
        description="Largest body of a request, not counting its images, whose limit follows from "
        "MAX_PIXELS. A valid one has less than 0.5 MiB. That of /generate is 192 KiB at most.",
    )
    max_bytes_in_flight: int = Field(
        512 * 2**20,
        ge=2**20,
        description="Bytes of bodies, in requests and responses, that may be in flight together; beyond them "
        "requests get 429. A single request is always admitted.",
    )
    max_connections: int = Field(
        1000,
        ge=4,
        le=1_000_000,
        description="Open connections. At the limit a new one takes the place of the one that has been idle "
        "longest.",
    )
    header_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Longest time from the first byte of a request to the end of its header.",
    )
    stall_seconds: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="In each such period a body must arrive, or a response be read, at 4 KiB a second on "
        "average.",
    )
    jobs_database: Annotated[str, BeforeValidator(_jobs_database)] = Field(
        "sqlite:///.run/jobs.db",
        description="Where jobs are kept: sqlite:///FILE for one gateway (sqlite:////FILE from the root), "
        "postgresql://USER:PASSWORD@HOST/NAME for several. none: there are no jobs.",
    )
    jobs_files: Annotated[str, BeforeValidator(_jobs_files)] = Field(
        "file:.run/jobs",
        description="Where inputs and outputs of jobs are kept: file:FOLDER, or s3://BUCKET/PREFIX, gs:// or "
        "az://, with the credentials of the usual variables. Several gateways need the same.",
    )
    jobs_at_once: int = Field(
        4, ge=0, le=256, description="Jobs that this gateway carries out at once; 0: it only accepts them."
    )
    jobs_waiting: int = Field(1000, ge=1, le=1_000_000, description="Jobs that may wait, in all.")
    jobs_waiting_per_key: int = Field(
        1000, ge=1, le=1_000_000, description="Jobs that may wait, of each API key."
    )
    jobs_lease_seconds: float = Field(
        30,
        ge=3,
        le=3600,
        description="For how long a job belongs to a gateway that is not heard of; then another begins it.",
    )
    jobs_ttl_seconds: float = Field(
        3600,
        ge=60,
        le=604_800,
        description="For how long the outputs of a job are kept once it has ended, unless the job says so.",
    )
    jobs_patience_seconds: float = Field(
        3600,
        ge=0,
        le=604_800,
        description="For how long a job waits for a service that is full or away before that is its error.",
    )
    jobs_max_result_bytes: int = Field(
        512 * 2**20, ge=2**20, description="Largest size of all outputs of a job together."
    )
    replicas: Annotated[int, AfterValidator(_replicas)] = Field(
        1,
        ge=1,
        description="Gateways that share an address. More than one need a PostgreSQL database, or none.",
    )
    webhook_secrets: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_secrets)] = Field(
        (),
        description="Secrets that sign webhooks, whsec_ and base64, separated by commas; the first is the "
        "current one. Without any, jobs with a webhook are refused.",
    )
    webhook_private_addresses: bool = Field(
        False, description="Post webhooks to loopback, link-local and private addresses, too."
    )
    c2pa_certificate: Path | None = Field(
        None,
        description="Certificate chain, a PEM file, with which pictures get signed content credentials "
        "(C2PA). Needs the extra c2pa: pip install 'atelier-gateway[c2pa]'.",
    )
    c2pa_key: Path | None = Field(
        None, description="Its private key, a PEM file without a password; required with the certificate."
    )
    studio: bool = Field(
        True, description="Serve the page for browsers at /. false: / is JSON for them, too."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_origins)] = Field(
        (),
        description="Origins whose pages may send requests and read responses, separated by commas; * for "
        "all. Pages of others can do neither.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_hosts)] = Field(
        (),
        description="Names by which clients may call the gateway (Host), separated by commas, besides "
        "localhost, IP addresses and the host of PUBLIC_URL. Empty: any, but where it listens on loopback "
        "none.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_networks)] = Field(
        ("127.0.0.1", "::1"),
        description="Addresses or networks (CIDR) of proxies whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed, separated by commas. All other clients are who they are.",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of /metrics, without keys; 0 takes a free one. Unset: it is on PORT, and needs a "
        "key with the scope metrics where there are keys.",
    )
    backend_api_key: str = Field(
        "",
        description="API key that the gateway presents to the services, where they have keys. It needs the "
        "scopes generate, restore and all_jobs.",
    )
    backend_tls_ca: OptionalFile = Field(
        None,
        description="PEM file of CAs: call generator and restorer with TLS; one of them must have signed "
        "their certificates. Read again when it changes.",
    )
    backend_tls_cert: OptionalFile = Field(
        None,
        description="Certificate that the gateway presents to generator and restorer, a PEM file, where "
        "these require one.",
    )
    backend_tls_key: OptionalFile = Field(
        None, description="Its private key, a PEM file without a password; required with the certificate."
    )
