"""The server with a small service of its own, on a real socket."""

import asyncio
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import grpc
import pytest
import pytest_asyncio
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic_settings import SettingsConfigDict

from atelier.common.v1 import service_status_pb2 as pb_status
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc as pb_grpc
from atelier_runtime import channel as channel_module
from atelier_runtime import defaults, errors, metrics, metrics_server, rpc_errors
from atelier_runtime.device_job import Job
from atelier_runtime.device_worker import DeviceWorker
from atelier_runtime.images.workers import ImageWorkers
from atelier_runtime.server import ServiceServer
from atelier_runtime.service import LoadedModels, StatusServicer
from atelier_runtime.service_status import LoadedNetwork, NetworkRole, ServiceStatus
from atelier_runtime.settings import ServiceSettings, StartupError
from bench.chaos.proxy import Fault, Proxy
from tests.ipv6 import HOSTS

SERVICE = "atelier.restorer.v1.RestorerService"


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="ATELIER_TEST_", frozen=True)

    host: str = "127.0.0.1"
    port: int = 0
    metrics_port: int = 0
    queue_capacity: int = 1
    drain_seconds: float = 10.0


class SmallService(StatusServicer, pb_grpc.RestorerServiceServicer):
    """RestoreFaces holds the device until `release`; DetectFaces raises the given error."""

    name = SERVICE

    def __init__(self, worker: DeviceWorker, image_workers: ImageWorkers) -> None:
        self.worker = worker
        self.loading = threading.Event()
        self.loading.set()
        self.busy = threading.Event()
        self.release = threading.Event()
        self.raises: Exception | None = None
        self.load_error: Exception | None = None

    def load(self) -> LoadedModels:
        self.loading.wait(30)
        if self.load_error:
            raise self.load_error
        networks = (LoadedNetwork(NetworkRole.FACE_DETECTOR, "none"),)
        return LoadedModels("small", "5e1f", networks, torch.device("cpu"), torch.float32)

    def warm_up(self) -> None: ...

    def register(self, server: grpc.aio.Server, status: Callable[[], ServiceStatus]) -> None:
        super().__init__(pb.GetStatusResponse, status)
        pb_grpc.add_RestorerServiceServicer_to_server(self, server)

    async def RestoreFaces(self, request: object, context: grpc.aio.ServicerContext) -> object:
        def work(job: Job[None]) -> None:
            self.busy.set()
            while not self.release.wait(0.005):
                job.check()

        await self.worker.submit(work).result()
        return pb.RestoreFacesResponse(model_set="small")

    async def DetectFaces(self, request: object, context: grpc.aio.ServicerContext) -> object:
        if self.raises:
            raise self.raises
        return pb.DetectFacesResponse(width_px=1)


class Running:
    def __init__(self, server: ServiceServer[SmallService], channel: grpc.aio.Channel) -> None:
        self.server = server
        self.service = server.service
        self.stub = pb_grpc.RestorerServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.channel = channel

    async def serving(self, name: str) -> bool:
        response = await self.health.Check(health_pb2.HealthCheckRequest(service=name))
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def scrape(self) -> str:
        return await asyncio.to_thread(get, f"http://127.0.0.1:{self.server.metrics_port}/metrics")


def get_or_nothing(url: str) -> str:
    try:
        return get(url)
    except OSError:
        return ""


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


@pytest_asyncio.fixture
async def loading() -> AsyncIterator[Running]:
    """A started service whose loading waits for `service.loading`."""
    server = ServiceServer("restorer", Settings(), SmallService)
    server.service.loading.clear()
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        running = Running(server, channel)
        yield running
        running.service.loading.set()
        running.service.release.set()
        await server.drain()


@pytest_asyncio.fixture
async def ready(loading: Running) -> Running:
    loading.service.loading.set()
    await loading.server.wait_ready()
    return loading


async def refused(call: grpc.aio.Call) -> errors.AtelierError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return rpc_errors.from_rpc_error(caught.value)


async def test_alive_at_once_ready_only_after_loading(loading: Running) -> None:
    assert await loading.serving("")
    assert not await loading.serving(SERVICE)
    assert not (await loading.stub.GetStatus(pb.GetStatusRequest())).status.ready
    assert isinstance(
        await refused(loading.stub.DetectFaces(pb.DetectFacesRequest())), errors.ServiceNotReady
    )
    loading.service.loading.set()
    await loading.server.wait_ready()
    assert await loading.serving(SERVICE)
    status = (await loading.stub.GetStatus(pb.GetStatusRequest())).status
    assert status.ready and status.model_set == "small" and status.queue_capacity == 1
    assert [(n.role, n.name) for n in status.networks] == [(pb_status.NETWORK_ROLE_FACE_DETECTOR, "none")]
    assert (status.device, status.dtype) == ("cpu", "float32") and status.device_name
    assert not status.HasField("vram_total_bytes") and status.process_memory_bytes > 0


async def test_reflection_lists_the_service(ready: Running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(ready.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [response] = [r async for r in stub.ServerReflectionInfo(requests)]
    assert SERVICE in {s.name for s in response.list_services_response.service}


async def test_every_error_class_arrives_as_it_was_raised(ready: Running) -> None:
    for reason, cls in errors.ERROR_CLASSES.items():
        fields = [errors.FieldViolation("image", "is empty")]
        ready.service.raises = errors.make_error(reason, "message", fields=fields)
        assert type(await refused(ready.stub.DetectFaces(pb.DetectFacesRequest()))) is cls
    ready.service.raises = None
    await ready.stub.DetectFaces(pb.DetectFacesRequest())


async def test_an_unexpected_exception_reveals_only_the_request_id(
    ready: Running, caplog: pytest.LogCaptureFixture
) -> None:
    ready.service.raises = KeyError("/secret/path")
    error = await refused(
        ready.stub.DetectFaces(pb.DetectFacesRequest(), metadata=(("x-request-id", "abc-1"),))
    )
    assert type(error) is errors.InternalError
    assert "abc-1" in error.message and "secret" not in error.message
    assert "/secret/path" in caplog.text


async def test_a_message_that_is_not_protobuf_is_refused(
    ready: Running, caplog: pytest.LogCaptureFixture
) -> None:
    detect = ready.channel.unary_unary(f"/{SERVICE}/DetectFaces")
    compare = ready.channel.unary_stream(f"/{SERVICE}/CompareFidelities")
    for call in (detect(b"\xff\xff"), compare(b"\xff\xff").read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert isinstance(rpc_errors.from_rpc_error(caught.value), errors.MalformedBody)
    health = "/grpc.health.v1.Health"
    check, watch = ready.channel.unary_unary(f"{health}/Check"), ready.channel.unary_stream(f"{health}/Watch")
    reflect = ready.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    for call in (check(b"\xff\xff"), watch(b"\xff\xff").read(), reflect(iter([b"\xff\xff"])).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Traceback" not in caplog.text


async def test_thousands_of_calls_at_once_all_get_an_answer(ready: Running) -> None:
    calls = [ready.stub.GetStatus(pb.GetStatusRequest()) for _ in range(3500)]
    codes = [await call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK}


async def test_the_log_has_the_names_of_refused_fields_and_not_their_values(
    ready: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    violations = [errors.FieldViolation("image.width_px", "must be 1, not 'private'")]
    ready.service.raises = errors.InvalidRequest([*violations, errors.FieldViolation("private words", "x")])
    await refused(ready.stub.DetectFaces(pb.DetectFacesRequest()))
    [line] = [record for record in caplog.records if record.message == "call"]
    assert vars(line)["fields"] == ["image.width_px", "?"]
    assert "private" not in str(vars(line))


async def test_an_idle_connection_lasts_until_it_dies_in_silence_and_that_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(defaults, "PING_INTERVAL_S", 0.2)  # gRPC makes one second of it
    monkeypatch.setattr(channel_module, "PING_TIMEOUT_MS", 3000)
    server = ServiceServer("restorer", Settings(), SmallService)
    await server.start()
    await server.wait_ready()
    no_limit = channel_module.NO_LIMIT
    options = channel_module.channel_options(max_receive_bytes=no_limit, max_send_bytes=no_limit)
    async with (
        Proxy(server.port) as proxy,
        grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}", options=options) as idle,
    ):
        await pb_grpc.RestorerServiceStub(idle).GetStatus(pb.GetStatusRequest(), timeout=20)
        ended = asyncio.create_task(idle.wait_for_state_change(grpc.ChannelConnectivity.READY))
        # by gRPC's defaults clients cease to ping after two pings, and servers disconnect at the fourth
        await asyncio.sleep(5)
        assert not ended.done()
        proxy.fault = Fault.HALF_OPEN
        await asyncio.wait_for(ended, 20)  # gRPC's own: 60 s
        await pb_grpc.RestorerServiceStub(idle).GetStatus(pb.GetStatusRequest(), timeout=20)
    await server.drain()


@pytest.mark.parametrize("host", HOSTS)
async def test_addresses_to_listen_on(host: str) -> None:
    server = ServiceServer("restorer", Settings(host=host), SmallService)
    await server.start()
    await server.wait_ready()
    for address in HOSTS[host]:
        async with grpc.aio.insecure_channel(f"{address}:{server.port}") as channel:
            await pb_grpc.RestorerServiceStub(channel).GetStatus(pb.GetStatusRequest(), timeout=20)
        await asyncio.to_thread(get, f"http://{address}:{server.metrics_port}/metrics")
    await server.drain()


async def test_the_metrics_port_does_not_wait_for_half_of_a_request(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_server._Handler, "limit_s", 0.3)
    server = ServiceServer("restorer", Settings(), SmallService)
    await server.start()
    with ExitStack() as connections:
        address = ("127.0.0.1", server.metrics_port)
        for _ in range(100):
            connection = connections.enter_context(socket.create_connection(address, timeout=20))
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert await asyncio.to_thread(connection.recv, 1) == b""
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        while "atelier_queue_depth" not in await asyncio.to_thread(get_or_nothing, url):
            pass  # as soon as the first have been closed
    assert "Traceback" not in capfd.readouterr().err
    await server.wait_ready()
    await server.drain()


async def test_metrics_change_and_a_full_queue_refuses(ready: Running) -> None:
    before = metrics.REFUSALS.labels("queue_full")._value.get()
    first = ready.stub.RestoreFaces(pb.RestoreFacesRequest())
    assert await asyncio.to_thread(ready.service.busy.wait, 10)
    second = asyncio.ensure_future(ready.stub.RestoreFaces(pb.RestoreFacesRequest()))
    while ready.server.worker.depth == 0:
        await asyncio.sleep(0.005)
    text = await ready.scrape()
    assert "atelier_queue_depth 1.0" in text and "atelier_vram_bytes" not in text
    assert "process_resident_memory_bytes" in text
    error = await refused(ready.stub.RestoreFaces(pb.RestoreFacesRequest()))
    assert isinstance(error, errors.QueueFull) and (error.retry_after_s or 0) >= 1
    assert metrics.REFUSALS.labels("queue_full")._value.get() == before + 1
    assert (await ready.stub.GetStatus(pb.GetStatusRequest())).status.running == 1
    ready.service.release.set()
    await asyncio.gather(first, second)


async def test_a_cancelled_call_and_an_expired_deadline_stop_the_job(ready: Running) -> None:
    call = ready.stub.RestoreFaces(pb.RestoreFacesRequest())
    assert await asyncio.to_thread(ready.service.busy.wait, 10)
    call.cancel()
    while ready.server.worker.running:
        await asyncio.sleep(0.005)
    error = await refused(ready.stub.RestoreFaces(pb.RestoreFacesRequest(), timeout=0.1))
    assert isinstance(error, errors.DeadlineExceeded)
    while ready.server.worker.running:
        await asyncio.sleep(0.005)
    assert ready.server.worker.depth == 0
    ready.service.release.set()
    await ready.stub.RestoreFaces(pb.RestoreFacesRequest())


async def test_draining_finishes_accepted_work_and_refuses_new_work(ready: Running) -> None:
    accepted = ready.stub.RestoreFaces(pb.RestoreFacesRequest())
    assert await asyncio.to_thread(ready.service.busy.wait, 10)
    draining = asyncio.create_task(ready.server.drain())
    while ready.server.readiness.ready:
        await asyncio.sleep(0.005)
    refusal = await refused(ready.stub.DetectFaces(pb.DetectFacesRequest()))
    # gRPC itself may refuse it, or cancel what arrives as it stops: the gateway takes all three for a service
    # that is gone.
    assert isinstance(refusal, errors.ServiceDraining | errors.ServiceUnavailable | errors.Cancelled)
    ready.service.release.set()
    assert (await accepted).model_set == "small"
    assert await draining


async def test_draining_does_not_wait_for_clients_that_watch_the_health(ready: Running) -> None:
    watching = ready.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
    draining = asyncio.create_task(ready.server.drain())
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await watching.read() is grpc.aio.EOF, "it ended without an error"
    assert await draining


async def test_draining_reports_that_something_was_not_finished() -> None:
    server = ServiceServer("restorer", Settings(drain_seconds=0.05), SmallService)
    await server.start()
    await server.wait_ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = pb_grpc.RestorerServiceStub(channel).RestoreFaces(pb.RestoreFacesRequest())
        assert await asyncio.to_thread(server.service.busy.wait, 10)
        assert not await server.drain()
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_an_idle_service_drains_within_0_seconds() -> None:
    server = ServiceServer("restorer", Settings(drain_seconds=0), SmallService)
    await server.start()
    await server.wait_ready()
    assert await server.drain()


async def test_an_error_while_loading_is_raised() -> None:
    server = ServiceServer("restorer", Settings(), SmallService)
    server.service.load_error = StartupError("MODEL_SET=nowhere: there is no file")
    await server.start()
    with pytest.raises(StartupError, match="MODEL_SET=nowhere"):
        await server.wait_ready()
    await server.drain()


async def test_a_port_in_use_is_named(ready: Running) -> None:
    with pytest.raises(StartupError, match=f"PORT={ready.server.port}"):
        await ServiceServer("restorer", Settings(port=ready.server.port), SmallService).start()


def test_a_process_with_a_stuck_thread_ends_after_the_drain() -> None:
    program = """
import hashlib, threading
from atelier_runtime.shutdown import exit_after
threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 2**31 - 1)).start()
exit_after(0.5)
print("waiting", flush=True)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (1, "waiting")
    assert "did not end by itself" in ran.stderr
