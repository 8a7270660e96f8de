"""One gateway with scripted stages for all contract tests; each test begins with the usual scripts."""

from collections.abc import Iterator

import pytest

from tests.contract.scripted_stages import House


@pytest.fixture(scope="session")
def standing_house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


@pytest.fixture
def house(standing_house: House) -> House:
    standing_house.reset()
    return standing_house
