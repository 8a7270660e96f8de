"""Posts events to webhooks, signed as Standard Webhooks says (https://www.standardwebhooks.com).

An event is posted until the receiver answers with 2xx, at growing intervals and over restarts of the gateway;
410 ends all events for that URL. Redirects are not followed. A receiver may get an event twice, with the same
`webhook-id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpcore
from standardwebhooks.webhooks import Webhook

from atelier_gateway.jobs.addresses import BlockedAddress, PublicBackend, is_blocked_literal
from atelier_gateway.jobs.outbox import Delivery, Outbox
from atelier_runtime.errors import ServiceUnavailable
from atelier_runtime.metrics import WEBHOOK_ATTEMPTS

logger = logging.getLogger(__name__)

RETRY_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Standard Webhooks' own intervals: ten attempts in three days."""
_JITTER = 0.1
_AT_ONCE = 8
_AT_ONCE_TO_A_HOST = 2
_IDLE_S = 1.0
_POST_S = 20.0
_TIMEOUTS = {"connect": 5.0, "read": 15.0, "write": 15.0, "pool": 15.0}
_GONE = 410


class Webhooks:
    """Posts what is in the outbox."""

    def __init__(
        self,
        outbox: Outbox,
        secrets: Sequence[str],
        *,
        private_addresses: bool = False,
        retry_s: Sequence[float] = RETRY_S,
    ) -> None:
        """`secrets`: all sign every event, so that receivers may know either while one replaces another."""
        self._outbox = outbox
        self._signers = [Webhook(secret) for secret in secrets]
        self._retry_s = retry_s
        for outcome in ("delivered", "failed", "blocked", "gone", "given_up"):
            WEBHOOK_ATTEMPTS.labels(outcome)  # so that the first one is an increase
        self._private_addresses = private_addresses
        backend = None if private_addresses else PublicBackend()
        self._pool = httpcore.AsyncConnectionPool(max_connections=_AT_ONCE, network_backend=backend)

    def may_be_posted_to(self, url: str) -> bool:
        """Return whether a URL's host is a name, or a public address. What a name is, is seen later."""
        return self._private_addresses or not is_blocked_literal(urlsplit(url).hostname or "")

    async def run(self) -> None:
        """Post until the task is canceled; what is under way then is posted again later."""
        posting: dict[asyncio.Task[None], str] = {}
        async with self._pool:
            try:
                while True:
                    while (delivery := await self._next(list(posting.values()))) is not None:
                        task = asyncio.create_task(self._deliver(delivery))
                        posting[task] = delivery.host
                        task.add_done_callback(posting.pop)
                    await asyncio.sleep(_IDLE_S)
            finally:
                for task in posting:
                    task.cancel()
                if posting:
                    await asyncio.wait(set(posting))

    async def _next(self, hosts: Sequence[str]) -> Delivery | None:
        """Return an event to post, while some are posted to these hosts: one that hangs holds few up."""
        if len(hosts) >= _AT_ONCE:
            return None
        busy = {host for host in hosts if hosts.count(host) >= _AT_ONCE_TO_A_HOST}
        try:
            taken = await self._outbox.take(1, busy)
        except Exception as error:  # whoever carries out jobs says so, where the database is away
            if not isinstance(error, ServiceUnavailable):
                logger.exception("webhooks cannot be read")
            return None
        return taken[0] if taken else None

    async def _deliver(self, delivery: Delivery) -> None:
        status, problem, retry_after_s = 0, "", 0.0
        try:
            async with asyncio.timeout(_POST_S):
                status, retry_after_s = await self._post(delivery)
            problem = f"status {status}"
        except BlockedAddress as error:
            WEBHOOK_ATTEMPTS.labels("blocked").inc()
            problem = str(error)
        except TimeoutError:
            problem = f"no answer within {_POST_S:.0f} s"
        except Exception as error:  # httpcore's have no class in common; a URL may be refused by any part
            problem = str(error) or type(error).__name__
        # Where the database is away, the event is posted again, with the same ID.
        with contextlib.suppress(ServiceUnavailable):
            await self._note(delivery, status, problem, retry_after_s)

    async def _note(self, delivery: Delivery, status: int, problem: str, retry_after_s: float) -> None:
        known = {"webhook": delivery.id, "job": delivery.job_id, "attempt": delivery.attempts}
        if 200 <= status < 300:
            WEBHOOK_ATTEMPTS.labels("delivered").inc()
            await self._outbox.remove(delivery)
        elif status == _GONE:
            WEBHOOK_ATTEMPTS.labels("gone").inc()
            logger.info("a webhook's receiver wants no more", extra=known)
            await self._outbox.remove_all(delivery.owner, delivery.url)
        elif delivery.attempts > len(self._retry_s):
            WEBHOOK_ATTEMPTS.labels("given_up").inc()
            logger.error("a webhook was given up", extra={**known, "problem": problem})
            await self._outbox.remove(delivery)
        else:
            WEBHOOK_ATTEMPTS.labels("failed").inc()
            logger.warning("a webhook failed", extra={**known, "problem": problem})
            delay_s = self._retry_s[delivery.attempts - 1] * random.uniform(1, 1 + _JITTER)
            await self._outbox.put_off(delivery, int(1000 * max(delay_s, retry_after_s)))

    async def _post(self, delivery: Delivery) -> tuple[int, float]:
        """Return the response's status, and its Retry-After in seconds."""
        now = datetime.now(UTC)
        signatures = [signer.sign(delivery.id, now, delivery.body) for signer in self._signers]
        headers: dict[bytes | str, bytes | str] = {
            "content-type": "application/json",
            "user-agent": "Atelier",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        content = delivery.body.encode()
        async with self._pool.stream(
            "POST", delivery.url, headers=headers, content=content, extensions={"timeout": _TIMEOUTS}
        ) as response:
            given = {name.lower(): value for name, value in response.headers}.get(b"retry-after", b"")
            retry_after_s = min(float(given), RETRY_S[-1]) if given.isdigit() and len(given) < 9 else 0.0
            return int(response.status), retry_after_s
