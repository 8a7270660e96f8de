"""The names of samplers and schedules, in requests and manifests."""

from __future__ import annotations

import pytest

from atelier_generator.request import GenerateRequest
from atelier_generator.samplers import OWN, Choice, name_problems, read_choice
from atelier_runtime.errors import InvalidRequest
from atelier_runtime.model_defaults import ModelDefaults


@pytest.mark.parametrize(
    ("sampler", "schedule", "choice"),
    [
        (None, None, OWN),
        (None, "default", OWN),
        (None, "karras", Choice(None, "karras")),
        ("euler", None, Choice("euler")),
        ("Euler", None, Choice("euler")),
        ("Euler a", None, Choice("euler_ancestral")),
        ("k_euler_ancestral", None, Choice("euler_ancestral")),
        ("k_euler_a", None, Choice("euler_ancestral")),
        ("Heun", "Exponential", Choice("heun", "exponential")),
        ("DPM++ 2M", "Automatic", Choice("dpmpp_2m")),
        ("DPM++ 2M", "Karras", Choice("dpmpp_2m", "karras")),
        ("DPM++ 2M Karras", None, Choice("dpmpp_2m", "karras")),
        ("DPM++ 2M Karras", "karras", Choice("dpmpp_2m", "karras")),
        ("DPM++ 2M SDE", None, Choice("dpmpp_2m_sde")),
        ("DPM++ 2M SDE Karras", None, Choice("dpmpp_2m_sde", "karras")),
        ("dpmpp_2m_sde_gpu", "sgm_uniform", Choice("dpmpp_2m_sde", "trailing")),
        ("DPM++ 3M SDE Exponential", None, Choice("dpmpp_3m_sde", "exponential")),
        ("DPM++ 2M SGM Uniform", None, Choice("dpmpp_2m", "trailing")),
        (" dpmpp-2m ", "Beta", Choice("dpmpp_2m", "beta")),
        ("DDIM", "SGM Uniform", Choice("ddim", "trailing")),
        ("UniPC", None, Choice("unipc")),
        ("uni_pc", "karras", Choice("unipc", "karras")),
        ("LCM", None, Choice("lcm")),
        ("TCD", "default", Choice("tcd")),
    ],
)
def test_names_are_read_in_the_spellings_of_several_programs(
    sampler: str | None, schedule: str | None, choice: Choice
) -> None:
    assert list(name_problems(sampler, schedule)) == []
    assert read_choice(sampler, schedule) == choice


@pytest.mark.parametrize(
    ("sampler", "schedule", "problems"),
    [
        ("Restart", None, {"sampler": "euler_ancestral"}),
        ("", None, {"sampler": "euler"}),
        ("DPM++ 2M Polyexponential", None, {"sampler": "dpmpp_2m"}),
        ("euler", "polyexponential", {"schedule": "karras"}),
        ("euler", "", {"schedule": "default"}),
        ("karras", "euler", {"sampler": "euler", "schedule": "karras"}),
        ("Euler a", "karras", {"schedule": "default, trailing with the sampler euler_ancestral"}),
        ("Euler a Karras", None, {"schedule": "default, trailing with the sampler euler_ancestral"}),
        ("lcm", "trailing", {"schedule": "one of default with the sampler lcm"}),
        ("DPM++ 2M Karras", "exponential", {"schedule": "karras"}),
        ("DPM++ 2M Karras", "default", {"schedule": "karras"}),
    ],
)
def test_names_that_cannot_be_followed_are_named_with_what_can(
    sampler: str | None, schedule: str | None, problems: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GenerateRequest("a cat", sampler=sampler, schedule=schedule)
    found = {violation.field: violation.message for violation in caught.value.fields}
    assert found.keys() == problems.keys()
    assert all(part in found[field] for field, part in problems.items())


@pytest.mark.parametrize("stored", ["euler", "PNDMScheduler"])
@pytest.mark.parametrize(
    "own",
    [
        ("dpmpp_2m", "karras"),
        ("DPM++ 2M Karras", None),
        ("k_dpmpp_2m", "Karras"),
        ("DPM++ 2M Karras", "karras"),
    ],
)
@pytest.mark.parametrize(
    ("sampler", "schedule", "choice"),
    [
        (None, None, Choice("dpmpp_2m", "karras")),
        ("dpmpp_2m", None, Choice("dpmpp_2m", "karras")),
        ("DPM++ 2M", None, Choice("dpmpp_2m", "karras")),
        ("DPM++ 2M", "beta", Choice("dpmpp_2m", "beta")),
        ("DPM++ 2M", "default", Choice("dpmpp_2m")),
        ("DPM++ 2M Exponential", None, Choice("dpmpp_2m", "exponential")),
        ("DPM++ 2M Automatic", None, Choice("dpmpp_2m")),
        (None, "beta", Choice("dpmpp_2m", "beta")),
        (None, "Automatic", Choice("dpmpp_2m")),
        ("euler", None, Choice("euler")),
        ("Euler Karras", None, Choice("euler", "karras")),
        ("euler", "trailing", Choice("euler", "trailing")),
        ("lcm", None, Choice("lcm")),
    ],
)
def test_a_sets_schedule_goes_with_its_sampler(
    stored: str, own: tuple[str, str | None], sampler: str | None, schedule: str | None, choice: Choice
) -> None:
    model = ModelDefaults(sampler=own[0], schedule=own[1])
    completed = GenerateRequest("a cat", sampler=sampler, schedule=schedule).completed(model, stored)
    assert completed.choice == choice
    assert completed.completed(model, stored) == completed


@pytest.mark.parametrize(
    ("own_schedule", "stored", "sampler", "schedule", "choice"),
    [
        ("karras", "euler", None, None, Choice(None, "karras")),
        ("karras", "euler", "Euler", None, Choice("euler", "karras")),
        ("karras", "euler", "dpmpp_2m", None, Choice("dpmpp_2m")),
        ("karras", "euler", "euler", "beta", Choice("euler", "beta")),
        ("karras", "euler", None, "default", OWN),
        ("karras", "euler", None, "beta", Choice(None, "beta")),
        ("default", "PNDMScheduler", "euler", None, Choice("euler")),
        (None, "euler", None, None, OWN),
        (None, "euler", "euler", None, Choice("euler")),
        (None, "euler", None, "karras", Choice(None, "karras")),
    ],
)
def test_a_sets_sampler_is_the_stored_one_if_the_manifest_names_none(
    own_schedule: str | None, stored: str, sampler: str | None, schedule: str | None, choice: Choice
) -> None:
    model = ModelDefaults(schedule=own_schedule)
    completed = GenerateRequest("a cat", sampler=sampler, schedule=schedule).completed(model, stored)
    assert completed.choice == choice
    assert completed.completed(model, stored) == completed
