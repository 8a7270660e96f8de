"""Several restorers behind one name: what one refuses another does, and one that stops loses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from tests import tiny_restorer
from tests.k8s.replicas import Replica, ReplicaSet, photo
from tests.processes import wait_for

pytestmark = pytest.mark.slow

QUEUED = 60


@pytest.fixture
def no_replicas(tmp_path: Path) -> Iterator[ReplicaSet]:
    """A name without an address."""
    model_set = tiny_restorer.build_set(
        tmp_path / "set",
        detector=tiny_restorer.detector_state({tiny_restorer.FACES_OF_256_PX: 0.9}),
        codeformer=tiny_restorer.codeformer_state(),
        upscaler=False,
    )
    replica_set = ReplicaSet(tmp_path, model_set)
    try:
        yield replica_set
    finally:
        replica_set.close()


@pytest.fixture
def replica_set(no_replicas: ReplicaSet) -> ReplicaSet:
    """A gateway, and two restorers that it has found."""
    replica_set = no_replicas
    replica_set.add()
    replica_set.add()
    replica_set.start_gateway()
    wait_until_all_are_called(replica_set)
    return replica_set


def wait_until_all_are_called(replica_set: ReplicaSet) -> None:
    wait_for(
        lambda: replica_set.call("/detect").status_code == 200 and all(counts(replica_set, "DetectFaces")), 60
    )


def counts(replica_set: ReplicaSet, method: str) -> list[int]:
    return [replica.calls(method) for replica in replica_set.replicas]


def occupy(channel: grpc.Channel) -> list[grpc.Future]:
    """Send one replica, past the gateway, many more calls than it can execute during the test."""
    request = pb.RestoreFacesRequest(image=image_pb2.Image(data=photo()), max_faces=4)
    stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)
    calls = [stub.RestoreFaces.future(request, timeout=300) for _ in range(QUEUED)]
    wait_for(lambda: stub.GetStatus(pb.GetStatusRequest()).status.queue_depth >= QUEUED - 5, 60)
    return calls


@contextmanager
def besieged(replica: Replica) -> Iterator[None]:
    """Call one replica, past the gateway, from more clients than its queue has slots."""
    request = pb.RestoreFacesRequest(image=image_pb2.Image(data=photo()), max_faces=4)
    stopped = threading.Event()

    def client() -> None:
        with grpc.insecure_channel(f"{replica.address}:{replica.port}") as channel:
            stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)
            while not stopped.is_set():
                try:
                    stub.RestoreFaces(request, timeout=300)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    stopped.wait(0.05)

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(client) for _ in range(4)]
        try:
            yield
        finally:
            stopped.set()
    for each in running:
        each.result()


def test_a_call_that_one_replica_has_no_slot_for_is_executed_by_the_other(no_replicas: ReplicaSet) -> None:
    replica_set = no_replicas
    # While a connection is replaced only the other replica is left, and its full queue is then an error.
    lasting = {"MAX_CONNECTION_AGE_SECONDS": 3600}
    small, large = replica_set.add(QUEUE_CAPACITY=1, **lasting), replica_set.add(**lasting)
    replica_set.start_gateway()
    wait_until_all_are_called(replica_set)
    with besieged(small), replica_set.steady_calls("/detect", pause_s=0.05) as responses:
        wait_for(lambda: small.calls("DetectFaces", "RESOURCE_EXHAUSTED") >= 10, 300)
    assert {response.status_code for response in responses} == {200}
    print(
        f"{len(responses)} calls, {small.calls('DetectFaces', 'RESOURCE_EXHAUSTED')} refused by one replica"
    )
    assert large.calls("DetectFaces", "OK") >= 10


def test_a_draining_replica_gets_nothing_after_a_second_and_finishes_what_it_has(
    replica_set: ReplicaSet,
) -> None:
    leaving, staying = replica_set.replicas
    with grpc.insecure_channel(f"{leaving.address}:{replica_set.port}") as channel:
        accepted = occupy(channel)
        leaving.ask_to_stop()
        wait_for(lambda: "draining" in leaving.log.read_text(), 60)
        time.sleep(1)  # the second that it is granted
        before, others = leaving.calls("DetectFaces"), staying.calls("DetectFaces")
        for _ in range(20):
            assert replica_set.call("/detect").status_code == 200
        unfinished = [call for call in accepted if not call.done()]
        assert len(unfinished) > 3 and leaving.child.poll() is None, "the test needs it alive to the end"
        assert leaving.calls("DetectFaces") == before and staying.calls("DetectFaces") == others + 20
        # The test does not wait for all of them; those that nobody waits for are canceled.
        for call in unfinished[3:]:
            call.cancel()
        assert all(call.result().faces for call in unfinished[:3]), "accepted calls are finished"
    assert leaving.child.wait(90) == 0


def test_without_replicas_a_call_waits_for_a_start(no_replicas: ReplicaSet) -> None:
    replica_set = no_replicas
    replica_set.start_gateway(BACKEND_WAIT_SECONDS=100)
    with ThreadPoolExecutor(1) as client:
        first = client.submit(replica_set.call, "/detect")
        time.sleep(6)  # long enough for the first channel to have failed to resolve the name
        assert not first.done()
        replica_set.add()
        assert first.result().status_code == 200
