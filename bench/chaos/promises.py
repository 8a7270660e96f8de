"""What is promised, R1 to R15, and the tests that show it where no figure does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """One of them. `tests`: files and folders, from the repository's root."""

    text: str
    tests: tuple[str, ...] = ()


PROMISES: dict[str, Promise] = {
    "R1": Promise(
        "A process is alive while it loads, ready only once it is warm, and says so while it is busy",
        (
            "tests/unit/runtime/test_server.py",
            "tests/integration/test_generator.py",
            "tests/integration/test_restorer_event_loop.py",
        ),
    ),
    "R2": Promise(
        "A process that is asked to end (SIGTERM) finishes what it has accepted and takes nothing new",
        (
            "tests/contract/test_process.py",
            "tests/k8s/test_replicas.py",
            "tests/unit/runtime/test_server.py",
        ),
    ),
    "R3": Promise(
        "Restarting each replica in turn under load loses no request", ("tests/k8s/test_replicas.py",)
    ),
    "R4": Promise(
        "Work ends within a step once its client has left or its deadline is over, and leaves nothing behind",
        (
            "tests/integration/test_generator.py",
            "tests/integration/test_restorer_faults.py",
            "tests/contract/test_failures.py",
        ),
    ),
    "R5": Promise(
        "What cannot be done before the deadline is refused and not begun; the rest ends at it (504)",
        ("tests/unit/runtime/test_device_worker.py", "tests/contract/test_failures.py"),
    ),
    "R6": Promise(
        "Five times as many clients as can be served: as many pictures, quick refusals, shares for all",
        ("tests/contract/test_fairness.py", "tests/unit/runtime/test_fair_queue.py"),
    ),
    "R7": Promise(
        "Retries are few, never repeat what cannot succeed, and a job with an Idempotency-Key is made once",
        ("tests/unit/gateway/backends/test_channel.py", "tests/jobs/test_store.py"),
    ),
    "R8": Promise(
        "No fault of the network, of disks, databases, clocks or slow clients makes a request hang past its "
        "deadline; /health tells, and accepted jobs go on",
        ("tests/contract/test_failures.py", "tests/contract/test_transfers.py", "tests/jobs/test_killed.py"),
    ),
    "R9": Promise(
        "Hostile input is refused by name, before work and memory are spent on it",
        (
            "tests/contract/test_bad_input.py",
            "tests/contract/test_photos_bad_input.py",
            "tests/contract/test_openapi_examples.py",
            "tests/unit/runtime/test_images_limits.py",
        ),
    ),
    "R10": Promise(
        "Weights that were changed, or could execute code, are not loaded; the message names the file",
        (
            "tests/unit/runtime/test_weights.py",
            "tests/unit/runtime/test_weights_hostile.py",
            "tests/unit/test_layering.py",
        ),
    ),
    "R11": Promise(
        "Out of memory costs one request; a face that was not restored is reported, never passed off as one",
        (
            "tests/unit/runtime/test_device_worker.py",
            "tests/integration/test_restorer_faults.py",
            "tests/contract/test_failures.py",
        ),
    ),
    "R12": Promise(
        "A process does not grow with what it has served",
        ("tests/contract/test_memory.py", "tests/unit/runtime/test_image_workers.py"),
    ),
    "R13": Promise(
        "Nobody without a key or a certificate gets in where they are required, and no secret gets out",
        (
            "tests/contract/test_keys.py",
            "tests/unit/runtime/test_api_keys.py",
            "tests/contract/test_https.py",
            "tests/unit/runtime/test_tls.py",
        ),
    ),
    "R14": Promise(
        "Metrics are true: every request is counted once, and every query finds its metrics",
        ("tests/contract/test_metrics.py", "tests/k8s/test_live_scrape.py", "tests/tracing/test_gateway.py"),
    ),
    "R15": Promise(
        "A process that is killed takes only what was in it along; jobs go on",
        ("tests/jobs/test_killed.py", "tests/unit/runtime/test_image_workers.py"),
    ),
}
