"""Networks that take turns on a device, tried with copies on the CPU as the device's memory."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atelier_generator.models import load_models, place
from atelier_generator.placement import Placement
from atelier_generator.settings import GeneratorSettings
from atelier_runtime.settings import StartupError
from tests.unit.generator.conftest import generate, load

CPU = torch.device("cpu")


def addresses(network: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in network.state_dict().values()]


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    return {"unet": nn.Conv2d(3, 3, 3).to(memory_format=torch.channels_last), "vae": nn.BatchNorm2d(3)}


def test_only_the_networks_in_use_are_on_the_device(networks: dict[str, nn.Module]) -> None:
    home = {name: addresses(network) for name, network in networks.items()}
    values = {name: [v.clone() for v in network.state_dict().values()] for name, network in networks.items()}
    placement = Placement(CPU, {name: [network] for name, network in networks.items()}, offload=True)
    for used in ("unet", "vae", "vae", "unet"):
        placement.use(used)
        for name, network in networks.items():
            at_home = addresses(network) == home[name]
            assert at_home == (name != used)
            assert all(map(torch.equal, network.state_dict().values(), values[name]))
    weight = networks["unet"].state_dict()["weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    placement.release()
    assert all(addresses(network) == home[name] for name, network in networks.items())


def test_without_offload_nothing_moves(networks: dict[str, nn.Module]) -> None:
    home = addresses(networks["unet"])
    placement = Placement(CPU, {"unet": [networks["unet"]]})
    placement.use("unet")
    placement.release()
    assert addresses(networks["unet"]) == home


def test_a_copy_that_fails_halfway_leaves_every_network_at_home(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = {name: addresses(network) for name, network in networks.items()}
    placement = Placement(CPU, {name: [network] for name, network in networks.items()}, offload=True)
    copies: list[torch.Tensor] = []
    copy = torch.Tensor.to

    def fail_at_the_second(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if copies:
            raise torch.OutOfMemoryError("CUDA out of memory")
        copies.append(copy(self, *arguments, **options))
        return copies[0]

    monkeypatch.setattr(torch.Tensor, "to", fail_at_the_second)
    with pytest.raises(torch.OutOfMemoryError):
        placement.use("unet")
    monkeypatch.undo()
    placement.use("vae")
    assert addresses(networks["unet"]) == home["unet"]
    assert addresses(networks["vae"]) != home["vae"]


@pytest.mark.parametrize("options", [{}, {"hires_fix": True}])
def test_offloading_changes_no_pixel(full_models, options, monkeypatch):
    models = load(full_models.model_set.folder)
    offloaded = place(models.text_to_image, models.refiner, CPU, offload=True)
    models = replace(models, placement=offloaded)
    uses: list[str] = []
    use = offloaded.use

    def recorded(name: str) -> None:
        uses.append(name)
        use(name)

    monkeypatch.setattr(offloaded, "use", recorded)
    expected = generate(full_models, **options).pixels
    for _ in range(2):
        assert np.array_equal(generate(models, **options).pixels, expected)
    once = ["text", "base", "refiner", "vae"]
    if options:
        once = ["text", "base", "vae", "vae", "refiner", "vae"]
    assert uses == once * 2


def test_offload_on_a_cpu_is_refused(full_models):
    settings = GeneratorSettings(device="cpu", memory="offload", model_set=str(full_models.model_set.folder))
    with pytest.raises(StartupError, match="MEMORY=offload"):
        load_models(settings)
