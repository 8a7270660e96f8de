"""What a spec is expected to take: the generator's estimate, and the restorer's past calls."""

from __future__ import annotations

import time

import pytest

from atelier_gateway.core.estimates import Estimate
from atelier_gateway.core.generate import Generate
from atelier_gateway.core.restoration_costs import RestorationCosts
from atelier_gateway.core.values import GenerateSpec
from atelier_runtime.errors import InvalidRequest, ServiceUnavailable
from tests.unit.gateway.core.fakes import SIDE, FakeGenerator, FakeRestorer


class Chain:
    def __init__(self) -> None:
        self.generator, self.restorer = FakeGenerator(), FakeRestorer()
        self.generate = Generate(self.generator, self.restorer, max_pixels=2**22)

    async def estimate(self, spec: GenerateSpec) -> Estimate:
        return await self.generate.estimate(spec, deadline=time.monotonic() + 100)

    async def run(self, spec: GenerateSpec) -> None:
        await self.generate.run(spec, deadline=time.monotonic() + 100)


async def test_nothing_is_generated_or_restored() -> None:
    chain = Chain()
    estimate = await chain.estimate(GenerateSpec("x", width=SIDE * 16, height=SIDE * 16, upscale=2))
    assert not chain.generator.specs and not chain.restorer.specs
    [asked] = chain.generator.estimated
    assert asked.output_format == "raw", "as the generator would be asked"
    assert estimate.result == (SIDE * 32, SIDE * 32)
    assert (estimate.restored, estimate.restoration) == (True, None)
    assert estimate.cost == estimate.generator.cost


async def test_past_restorations_are_part_of_the_sum() -> None:
    chain = Chain()
    await chain.run(GenerateSpec("x"))
    one = await chain.estimate(GenerateSpec("x"))
    four = await chain.estimate(GenerateSpec("x", num_images=4))
    assert one.restoration is not None and four.restoration is not None
    assert one.restoration.observations == 1
    assert four.restoration.seconds == pytest.approx(2 * one.restoration.seconds, rel=0.1), "two at once"
    assert one.cost.seconds == one.generator.cost.seconds + one.restoration.seconds
    assert one.cost.high_s == one.generator.cost.high_s + one.restoration.high_s
    without = await chain.estimate(GenerateSpec("x", restore_faces=False))
    assert (without.restored, without.restoration) == (False, None)
    assert chain.generator.estimated[-1].output_format == "png"
    upscaled = await chain.estimate(GenerateSpec("x", restore_faces=False, upscale=2))
    assert upscaled.restored and upscaled.restoration is None, "to upscale only is other work"


async def test_a_call_that_fails_is_not_measured() -> None:
    chain = Chain()
    chain.restorer.error = ServiceUnavailable()
    await chain.run(GenerateSpec("x"))
    assert (await chain.estimate(GenerateSpec("x"))).restoration is None


async def test_what_cannot_be_is_refused_without_asking() -> None:
    chain = Chain()
    with pytest.raises(InvalidRequest):
        await chain.estimate(GenerateSpec("x", width=2048, height=2048, upscale=4))
    with pytest.raises(InvalidRequest, match="is not loaded"):
        await chain.estimate(GenerateSpec("x", model_set="another"))
    assert not chain.generator.estimated


def test_a_larger_image_is_expected_to_take_longer() -> None:
    costs = RestorationCosts()
    small, large = GenerateSpec("x", width=256, height=256), GenerateSpec("x", width=1024, height=1024)
    assert costs.estimate(small) is None
    with costs.measured(small):
        time.sleep(0.01)
    [one, other] = [costs.estimate(spec) for spec in (small, large)]
    assert one is not None and other is not None
    assert other.seconds > 10 * one.seconds and other.observations == 0
    assert other.high_s / other.seconds > one.high_s / one.seconds, "it is inferred"
