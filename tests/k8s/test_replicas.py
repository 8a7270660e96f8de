"""Several restorers behind one name: work is shared, new ones are found, one that leaves loses nothing."""

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
from tests.k8s.replicas import Replica, Street, photograph, seconds_until
from tests.processes import wait_for

pytestmark = pytest.mark.slow

CALLS = 200
QUEUED = 60


@pytest.fixture
def empty_street(tmp_path: Path) -> Iterator[Street]:
    """A name without an address."""
    model_set = tiny_restorer.build_set(
        tmp_path / "set",
        detector=tiny_restorer.detector_state({tiny_restorer.FACES_OF_256_PX: 0.9}),
        codeformer=tiny_restorer.codeformer_state(),
        upscaler=False,
    )
    street = Street(tmp_path, model_set)
    try:
        yield street
    finally:
        street.close()


@pytest.fixture
def street(empty_street: Street) -> Street:
    """A gateway, and two restorers that it has found."""
    street = empty_street
    street.add()
    street.add()
    street.open_door()
    wait_for(lambda: street.call("/detect").status_code == 200 and all(counts(street, "DetectFaces")), 60)
    return street


def counts(street: Street, method: str) -> list[int]:
    return [replica.calls(method) for replica in street.replicas]


def test_calls_are_shared_and_a_third_replica_is_used_within_90_seconds(street: Street) -> None:
    before = counts(street, "DetectFaces")
    for _ in range(20):
        street.call("/detect")
    in_turn = [now - then for now, then in zip(counts(street, "DetectFaces"), before, strict=True)]
    assert min(in_turn) >= 7, f"{in_turn}: one connection for all, which changes with its age, would not do"

    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(street.call, ["/restore"] * CALLS))
    assert {answer.status_code for answer in answers} == {200}
    assert any(face["restored"] for face in answers[0].json()["faces"])
    shares = [count / CALLS for count in counts(street, "RestoreFaces")]
    assert sum(shares) == 1 and all(0.4 <= share <= 0.6 for share in shares), shares

    third = street.add()
    with street.steady_calls("/detect", pause_s=0.5) as steady:
        seconds = seconds_until(lambda: third.calls("DetectFaces") > 0, within_s=90)
    print(f"a third replica was used after {seconds:.0f} s")
    assert {answer.status_code for answer in steady} == {200}


def occupy(channel: grpc.Channel) -> list[grpc.Future]:
    """Send one replica, past the gateway, many more calls than it can carry out during the test."""
    request = pb.RestoreFacesRequest(image=image_pb2.Image(data=photograph()), max_faces=4)
    stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)
    calls = [stub.RestoreFaces.future(request, timeout=300) for _ in range(QUEUED)]
    wait_for(lambda: stub.GetStatus(pb.GetStatusRequest()).status.queue_depth >= QUEUED - 5, 60)
    return calls


@contextmanager
def besieged(replica: Replica) -> Iterator[None]:
    """Call one replica, past the gateway, from more clients than it has places for."""
    request = pb.RestoreFacesRequest(image=image_pb2.Image(data=photograph()), max_faces=4)
    over = threading.Event()

    def client() -> None:
        with grpc.insecure_channel(f"{replica.address}:{replica.port}") as channel:
            stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)
            while not over.is_set():
                try:
                    stub.RestoreFaces(request, timeout=300)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    over.wait(0.05)

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(client) for _ in range(4)]
        try:
            yield
        finally:
            over.set()
    for each in running:
        each.result()


def test_a_call_for_which_one_replica_has_no_place_is_carried_out_by_the_other(empty_street: Street) -> None:
    street = empty_street
    # While a connection is made anew there is only the other replica, and no place is then a true answer.
    lasting = {"MAX_CONNECTION_AGE_SECONDS": 3600}
    small, large = street.add(QUEUE_CAPACITY=1, **lasting), street.add(**lasting)
    street.open_door()
    wait_for(lambda: street.call("/detect").status_code == 200 and all(counts(street, "DetectFaces")), 60)
    with besieged(small), street.steady_calls("/detect", pause_s=0.05) as answers:
        wait_for(lambda: small.calls("DetectFaces", "RESOURCE_EXHAUSTED") >= 10, 300)
    assert {answer.status_code for answer in answers} == {200}
    print(f"{len(answers)} calls, {small.calls('DetectFaces', 'RESOURCE_EXHAUSTED')} refused by one replica")
    assert large.calls("DetectFaces", "OK") >= 10


def test_a_draining_replica_gets_nothing_after_a_second_and_finishes_what_it_has(street: Street) -> None:
    leaving, staying = street.replicas
    with grpc.insecure_channel(f"{leaving.address}:{street.port}") as channel:
        accepted = occupy(channel)
        leaving.ask_to_stop()
        wait_for(lambda: "draining" in leaving.log.read_text(), 60)
        time.sleep(1)  # the second that it has
        before, others = leaving.calls("DetectFaces"), staying.calls("DetectFaces")
        for _ in range(20):
            assert street.call("/detect").status_code == 200
        unfinished = [call for call in accepted if not call.done()]
        assert len(unfinished) > 3 and leaving.child.poll() is None, "it was to be there all the time"
        assert leaving.calls("DetectFaces") == before and staying.calls("DetectFaces") == others + 20
        # The test does not wait for all of them; those that nobody waits for are not done.
        for call in unfinished[3:]:
            call.cancel()
        assert all(call.result().faces for call in unfinished[:3]), "what it had accepted was done"
    assert leaving.child.wait(90) == 0


def test_restarting_each_in_turn_loses_no_request(street: Street) -> None:
    with street.steady_calls("/restore", pause_s=0.1) as answers:
        for replica in street.replicas:
            before = len(answers)
            replica.ask_to_stop()
            assert replica.child.wait(90) == 0
            wait_for(lambda before=before: len(answers) >= before + 5, 60)
            replica.start()
            wait_for(lambda replica=replica: replica.calls("RestoreFaces") > 0, 60)
    assert len(answers) > 20
    failed = [answer.text for answer in answers if answer.status_code != 200]
    assert not failed, f"{len(failed)} of {len(answers)}: {failed[:3]}"


def test_without_replicas_a_call_waits_for_a_start(empty_street: Street) -> None:
    street = empty_street
    street.open_door(STAGE_WAIT_SECONDS=100)
    with ThreadPoolExecutor(1) as client:
        first = client.submit(street.call, "/detect")
        time.sleep(6)  # long enough for the first channel to have given up its name
        assert not first.done()
        street.add()
        assert first.result().status_code == 200
