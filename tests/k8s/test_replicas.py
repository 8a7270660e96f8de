"""Several restorers behind one name: work is shared, new ones are found, one that leaves loses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from atelier.common.v1 import image_pb2
from atelier.restorer.v1 import restorer_service_pb2 as pb
from atelier.restorer.v1 import restorer_service_pb2_grpc
from tests import tiny_restorer
from tests.e2e.conftest import wait_for
from tests.k8s.replicas import Replica, Street, photograph, seconds_until

pytestmark = pytest.mark.slow

CALLS = 200


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    """A gateway, and two restorers that it has found."""
    model_set = tiny_restorer.build_set(
        tmp_path / "set",
        detector=tiny_restorer.detector_state({tiny_restorer.FACES_OF_256_PX: 0.9}),
        codeformer=tiny_restorer.codeformer_state(),
        upscaler=False,
    )
    street = Street(tmp_path, model_set)
    try:
        street.add()
        street.add()
        street.open_door()
        wait_for(lambda: street.call("/detect").status_code == 200 and all(counts(street, "DetectFaces")), 60)
        yield street
    finally:
        street.close()


def counts(street: Street, method: str) -> list[int]:
    return [replica.calls(method) for replica in street.replicas]


def test_calls_are_shared_and_a_third_replica_is_used_within_90_seconds(street: Street) -> None:
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


def keep_busy(street: Street, replica: Replica, seconds: float) -> pb.RestoreFacesResponse:
    """Send a replica, past the gateway, calls that occupy it; return the last one's answer."""
    request = pb.RestoreFacesRequest(image=image_pb2.Image(data=photograph()), max_faces=4)
    with grpc.insecure_channel(
        f"{replica.address}:{street.port}", options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        stub = restorer_service_pb2_grpc.RestorerServiceStub(channel)
        started = time.monotonic()
        stub.RestoreFaces(request, timeout=120)
        needed = int(seconds / (time.monotonic() - started)) + 1
        calls = [stub.RestoreFaces.future(request, timeout=300) for _ in range(needed)]
        wait_for(lambda: stub.GetStatus(pb.GetStatusRequest()).status.queue_depth >= needed - 1, 60)
        replica.ask_to_stop()
        answers: list[pb.RestoreFacesResponse] = [call.result() for call in calls]
    return answers[-1]


def test_a_draining_replica_gets_nothing_after_a_second_and_finishes_what_it_has(street: Street) -> None:
    leaving, staying = street.replicas
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(keep_busy, street, leaving, 12.0)
        wait_for(lambda: "draining" in leaving.log.read_text() or busy.done(), 120)
        time.sleep(1)  # the second that it has
        before, others = leaving.calls("DetectFaces"), staying.calls("DetectFaces")
        made = 0
        while made < 20 and leaving.child.poll() is None and not busy.done():
            assert street.call("/detect").status_code == 200
            made += 1
        assert not busy.done(), "it was to be busy for longer than that"
        assert leaving.calls("DetectFaces") == before
        assert leaving.log.read_text().count("stage_draining") <= 1, "none was sent there to be refused"
        assert made == 20 and staying.calls("DetectFaces") == others + made
        assert busy.result().faces, "what it had accepted was done"
    assert leaving.child.wait(60) == 0


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
