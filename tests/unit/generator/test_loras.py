"""Images with LoRAs: what they change, what they leave as it was, and how long they stay in memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from atelier_generator.generation import Run
from atelier_generator.lora_store import LoraStore
from atelier_generator.lora_tags import Lora
from atelier_generator.models import Models, load_models, place
from atelier_generator.pipeline import Pipeline
from atelier_generator.settings import GeneratorSettings
from atelier_runtime import metrics
from atelier_runtime.checks import raise_violations
from atelier_runtime.errors import InvalidRequest
from tests import tiny_loras
from tests.tiny_sdxl import build_set
from tests.unit.generator.conftest import UnetCalls, generate, load, request_for

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with LoRAs: the same one by each style, another, and halves of it."""
    folder = build_set(tmp_path_factory.mktemp("set"), refiner=True)
    for style in tiny_loras.STYLES:
        tiny_loras.write(folder / f"loras/{style}.safetensors", style)
    tiny_loras.write(folder / "loras/other.safetensors", seed=2)
    tiny_loras.write(folder / "loras/unet.safetensors", part="unet")
    tiny_loras.write(folder / "loras/text.safetensors", part="text_encoder")
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return load(folder)


def pixels(models: Models, *loras: Lora | str, **options: Any) -> np.ndarray:
    named = tuple(Lora(lora) if isinstance(lora, str) else lora for lora in loras)
    return generate(models, loras=named, use_refiner=False, **options).pixels


def levels(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def modules(models: Models) -> list[nn.Module]:
    base = models.text_to_image
    return [m for network in (base.unet, base.text_encoder, base.text_encoder_2) for m in network.modules()]


def test_one_lora_gives_one_image_by_whichever_names_it_is_stored(models):
    plain = pixels(models)
    images = [pixels(models, style) for style in tiny_loras.STYLES]
    assert levels(images[0], plain) > 20
    assert all(np.array_equal(image, images[0]) for image in images)


def test_the_unet_and_the_text_encoders_are_changed(models):
    plain, both = pixels(models), pixels(models, "kohya")
    unet, text = pixels(models, "unet"), pixels(models, "text")
    assert levels(unet, plain) > 5 and levels(text, plain) > 5 and levels(unet, both) > 5


def test_a_tag_is_the_field(models):
    named = pixels(models, Lora("kohya", 0.6))
    assert np.array_equal(pixels(models, prompt="a cat<lora:kohya:0.6>"), named)
    assert levels(pixels(models, Lora("kohya", 0.3)), named) > 5
    assert levels(pixels(models, prompt="<lora:kohya>"), pixels(models)) > 5


def test_weight_0_is_none(models):
    assert np.array_equal(pixels(models, Lora("kohya", 0.0)), pixels(models))
    assert np.array_equal(pixels(models, Lora("kohya", 0.0), "other"), pixels(models, "other"))


def test_two_add_up_in_either_order(models):
    one = pixels(models, "kohya", Lora("other", 0.5))
    assert np.array_equal(pixels(models, Lora("other", 0.5), "kohya"), one)
    assert levels(one, pixels(models, "kohya")) > 5
    halves = pixels(models, "unet", "text", Lora("other", 0.5))
    assert levels(halves, one) > 0, "text is the first encoder alone"
    # The same one under two names, at half the weight each, is itself.
    twice = pixels(models, Lora("kohya", 0.5), Lora("peft", 0.5))
    assert levels(twice, pixels(models, "comfy")) <= 1


def test_a_lora_computes_what_diffusers_and_peft_compute(models, folder):
    """Both our own forward pass with the file of one trainer, and diffusers' loader with the other's."""
    conditions = {"time_ids": torch.ones(1, 6), "text_embeds": torch.ones(1, 32)}
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 4, 32, 32, generator=generator), 500, torch.randn(1, 77, 64, generator=generator)

    def prediction(unet: Any) -> torch.Tensor:
        with torch.inference_mode():
            output: torch.Tensor = unet(*inputs, added_cond_kwargs=conditions, return_dict=False)[0]
        return output

    plain = prediction(models.text_to_image.unet)
    for style in ("kohya", "peft"):
        with models.adapted_unet.applied(models.loras.get([Lora(style)])):
            ours = prediction(models.text_to_image.unet)
        pipeline: Any = diffusers.StableDiffusionXLPipeline
        theirs = pipeline.from_pretrained(folder / "base")
        stored = load_file(folder / f"loras/{style}.safetensors")
        if style == "peft":  # which state alpha in the metadata
            stored |= {k: v * tiny_loras.ALPHA / tiny_loras.RANK for k, v in stored.items() if ".lora_B" in k}
        state, alphas = pipeline.lora_state_dict(stored, unet_config=theirs.unet.config)
        theirs.load_lora_into_unet(state, network_alphas=alphas, unet=theirs.unet)
        expected = prediction(theirs.unet)
        assert torch.allclose(ours, expected, atol=1e-4)
        assert (ours - plain).abs().max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_afterwards_every_image_is_the_one_of_before(folder, dtype):
    settings = GeneratorSettings(device="cpu", dtype=dtype, model_set=str(folder), cpu_threads=1)
    models = load_models(settings)
    before, networks = generate(models, hires_fix=True).pixels, modules(models)
    changed = pixels(models, "kohya", "other", prompt="a cat <lora:text:-1>")
    assert levels(changed, pixels(models)) > 5
    assert modules(models) == networks, "the very same layers"
    assert np.array_equal(generate(models, hires_fix=True).pixels, before)
    with pytest.raises(RuntimeError, match="step"):
        generate(models, loras=(Lora("kohya"),), progress=FailingProgress())
    assert modules(models) == networks
    assert np.array_equal(generate(models, hires_fix=True).pixels, before)


class FailingProgress(list[Any]):
    """Fails the request at its first step."""

    def append(self, progress: Any) -> None:
        raise RuntimeError("step")


def test_a_refiner_runs_without(models):
    """It gets the base's latents, and the words as its own text encoder reads them."""
    texts = []
    for loras in ((), (Lora("text"),)):
        request = request_for(loras=loras, use_refiner=True)
        pending = Pipeline(models).start_prompt(request)
        texts.append(pending.read(lambda: None))
    assert not torch.equal(texts[0].base.embeddings, texts[1].base.embeddings)
    first, second = (text.refiner for text in texts)
    assert first and second and all(map(torch.equal, first.tensors, second.tensors))
    layers: set[type] = set()
    with UnetCalls(models.refiner) as calls:
        hook = models.refiner.unet.register_forward_pre_hook(
            lambda module, inputs: layers.update(type(m) for m in module.modules())
        )
        generate(models, loras=(Lora("kohya"),))
        hook.remove()
    assert len(calls) and not any(kind.__module__.startswith("peft") for kind in layers)


def test_a_second_pass_by_the_base_has_them_too(folder, tmp_path):
    plain = load(build_set(tmp_path))
    plain = replace(plain, loras=load(folder).loras)
    seen: list[bool] = []
    hook = plain.text_to_image.unet.register_forward_pre_hook(
        lambda module, inputs: seen.append(
            any(type(m).__module__.startswith("peft") for m in module.modules())
        )
    )
    generate(plain, loras=(Lora("kohya"),), hires_fix=True)
    hook.remove()
    assert len(seen) > 2 and all(seen)


def test_requests_with_the_same_loras_run_together(models):
    pipeline = Pipeline(models, max_batch=2)

    def key(*loras: Lora, prompt: str = "a") -> object:
        return pipeline.batch_key(request_for(prompt=prompt, loras=loras))

    assert key(Lora("kohya"), Lora("other", 0.5)) == key(Lora("other", 0.5), Lora("kohya"))
    assert key(Lora("kohya", 0.5)) == key(prompt="a dog <lora:kohya:0.5>")
    assert key(Lora("kohya", 0.0)) == key()
    assert len({key(), key(Lora("kohya")), key(Lora("kohya", 0.5)), key(Lora("other"))}) == 4

    requests = [request_for(seed=seed, loras=(Lora("kohya"),), use_refiner=False) for seed in (1, 2)]
    outcome: dict[int | None, Any] = {}
    runs = [pipeline.run(request, lambda: None, lambda progress: None) for request in requests]

    def end(run: Run, error: Exception | None) -> None:
        outcome[run.request.seed] = error or pipeline.finish(run)

    with UnetCalls(models.text_to_image) as calls:
        pipeline.generate_batch(runs, end)
    assert set(calls.batches) == {4}
    for request in requests:
        assert levels(outcome[request.seed].pixels, Pipeline(models).generate(request).pixels) <= 1


def test_with_networks_that_take_turns_no_pixel_changes(models, folder):
    expected = [pixels(models, "kohya"), pixels(models), pixels(models, "other", "kohya")]
    hires = generate(models, loras=(Lora("other"),), hires_fix=True).pixels
    own = load(folder)
    unet = own.text_to_image.unet
    home = [parameter.data_ptr() for parameter in unet.parameters()]
    own = replace(own, placement=place(own.text_to_image, own.refiner, CPU, offload=True))
    on_device: list[bool] = []
    hook = unet.register_forward_pre_hook(
        lambda module, inputs: on_device.append(not set(home) & {p.data_ptr() for p in module.parameters()})
    )
    loaded = own.loras.get([Lora("kohya"), Lora("other")])
    of_loras = {
        matrix.data_ptr() for lora, _ in loaded for d in lora.deltas.values() for matrix in (d.down, d.up)
    }
    hook_of_loras = unet.register_forward_pre_hook(
        lambda module, inputs: on_device.append(not of_loras & {p.data_ptr() for p in module.parameters()})
    )
    for _ in range(2):
        assert np.array_equal(pixels(own, "kohya"), expected[0])
        assert np.array_equal(pixels(own), expected[1])
        assert np.array_equal(pixels(own, "kohya", "other"), expected[2])
        assert np.array_equal(generate(own, loras=(Lora("other"),), hires_fix=True).pixels, hires)
    hook.remove()
    hook_of_loras.remove()
    assert all(on_device)
    own.placement.release()
    assert [parameter.data_ptr() for parameter in unet.parameters()] == home


# --- memory ---


@pytest.fixture
def small_store(models: Models) -> Iterator[LoraStore]:
    """A store with room for two."""
    one = models.loras.folder.offered["kohya"].bytes_in(torch.float32)
    yield LoraStore(models.loras.folder, CPU, torch.float32, 2 * one + 30_000)


def test_a_lora_is_read_once(small_store):
    before = metrics.LORA_LOADS._value.get()
    [first], [second] = (small_store.get([Lora("kohya", weight)]) for weight in (1.0, 0.5))
    assert first[0] is second[0] and (first[1], second[1]) == (1.0, 0.5)
    assert metrics.LORA_LOADS._value.get() == before + 1
    assert metrics.LORA_MEMORY._value.get() == small_store.bytes == first[0].bytes


def test_the_least_recently_used_is_dropped(small_store):
    [(kohya, _)] = small_store.get([Lora("kohya")])
    small_store.get([Lora("peft")])
    small_store.get([Lora("kohya")])
    small_store.get([Lora("comfy")])
    assert small_store.names == ("kohya", "comfy")
    assert small_store.bytes <= small_store.most_bytes
    small_store.get([Lora("other"), Lora("comfy")])
    assert small_store.names == ("comfy", "other")
    assert small_store.get([Lora("kohya")]) != ((kohya, 1.0),)


def test_more_than_fit_together_are_refused(small_store):
    with pytest.raises(InvalidRequest, match=r"loras: these LoRAs take .* MB in memory together"):
        raise_violations(small_store.violations([Lora("kohya"), Lora("peft"), Lora("comfy")]))
    assert not small_store.violations([Lora("kohya"), Lora("peft"), Lora("comfy", 0.0)])


def test_what_is_dropped_leaves_the_memory(models, small_store):
    own = replace(models, loras=small_store)
    pixels(own, "kohya", "peft")
    [(kohya, _)] = small_store.get([Lora("kohya")])
    gone = weakref.ref(next(iter(kohya.deltas.values())).down)
    del kohya
    pixels(own, "peft", "comfy")
    assert gone() is None, "without waiting for the garbage collector"


def test_out_of_memory_drops_the_others_and_tries_once_more(small_store, monkeypatch):
    small_store.get([Lora("other")])
    copy, calls = torch.Tensor.to, []

    def fail_at_first(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if arguments == (CPU,):
            calls.append(small_store.names)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return copy(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", fail_at_first)
    small_store.get([Lora("kohya")])
    assert calls == [("other",), ()]
    assert small_store.names == ("kohya",)

    def fail(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if arguments == (CPU,):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return copy(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", fail)
    with pytest.raises(torch.OutOfMemoryError):
        small_store.get([Lora("peft")])
    monkeypatch.undo()
    small_store.get([Lora("peft")])
    assert small_store.names == ("peft",) and small_store.bytes > 0


def test_threads_can_ask_at_the_same_time(models, small_store):
    """As the thread of the prompts does beside that of the device."""
    expected = {name: pixels(models, name) for name in ("kohya", "other")}
    own = replace(models, loras=small_store)
    pipeline = Pipeline(own)
    requests = [request_for(loras=(Lora(name),), use_refiner=False) for name in ("kohya", "other") * 4]
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for name in tiny_loras.STYLES:
                small_store.get([Lora(name)])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        prompts = [pipeline.start_prompt(request) for request in requests]
        for request, prompt in zip(requests, prompts, strict=True):
            run = pipeline.run(request, lambda: None, lambda progress: None, prompt)
            pipeline.generate_batch([run], lambda run, error: None)
            assert np.array_equal(pipeline.finish(run).pixels, expected[request.loras[0].name])
    finally:
        stop.set()
        thread.join()


class MadeMeanwhile(dict[Any, Any]):
    """The layers of a LoRA, each of which another thread makes just after it is not found."""

    def __contains__(self, layer: object) -> bool:
        found = super().__contains__(layer)
        if not found:
            super().__setitem__(layer, f"the other thread's {layer}")
        return found


def test_a_layer_that_two_threads_make_stays_the_first_ones(folder):
    models = load(folder)
    [(lora, _)] = loras = models.loras.get([Lora("unet")])
    lora.layers = MadeMeanwhile()
    models.adapted_unet.prepare(loras)
    assert lora.layers and all(made == f"the other thread's {layer}" for layer, made in lora.layers.items())


@pytest.mark.parametrize("images", [1, 2])
def test_idle_loras_make_room_for_a_step_that_runs_out_of_memory(folder, images):
    models = load(folder)
    models.loras.get([Lora("other")])
    failed: list[int] = []

    def fail_once(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if not failed:
            failed.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = models.text_to_image.unet.register_forward_pre_hook(fail_once)
    request = request_for(loras=(Lora("kohya"),), use_refiner=False, num_images=images)
    Pipeline(models).generate_images(request)
    hook.remove()
    assert failed and models.loras.names == ("kohya",)
