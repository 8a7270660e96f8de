"""The schedulers that the names of samplers and schedules choose; see test_sampler_names.py for the names."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import pytest
import torch

from atelier_generator.plan import steps_run
from atelier_generator.previews import estimate
from atelier_generator.samplers import (
    OWN,
    SAMPLERS,
    SCHEDULES,
    Choice,
    read_choice,
)
from atelier_generator.scheduling import TCD_GAMMA, Schedulers, names_of, set_timesteps, trained_as

SDXL = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
"""Of the published scheduler configuration."""
CHOICES = [
    read_choice(sampler, schedule) for sampler, entry in SAMPLERS.items() for schedule in entry.schedules
]


def scheduler(**options: Any) -> Any:
    build: Any = diffusers.EulerDiscreteScheduler
    return build(**SDXL | options)


TRAININGS: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "v": {"prediction_type": "v_prediction"},
    "v, zero terminal SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
}
COMBINATIONS = [
    (training, choice, steps)
    for training, options in TRAININGS.items()
    for choice in CHOICES
    for steps in (1, 2, 3, 20, 50, 61, 122, 150)
    if Schedulers(scheduler(**options)).problem(choice, steps) is None
]


OTHER_CLASSES = (
    "DEISMultistepScheduler",
    "DDPMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
)
"""With which a network may be stored, and whose timesteps may be trailing."""


def distance_from_the_only_image(
    chosen: Any,
    steps: int,
    *,
    predicts_v: bool = False,
    previewed: bool = False,
    strength: float | None = None,
) -> float:
    """How far a scheduler ends from an image if each prediction is exact for a distribution of it alone.

    `strength`: of a start from another image; None: from noise alone.
    """
    set_timesteps(chosen, steps)
    first = 0 if strength is None else (steps - steps_run(steps, strength)) * chosen.order
    if hasattr(chosen, "set_begin_index"):
        chosen.set_begin_index(first)
    generator = torch.Generator().manual_seed(1)
    image = torch.linspace(-1.5, 1.5, 64).reshape(1, 1, 8, 8)
    latents = torch.randn(image.shape, generator=generator)
    if strength is None:
        latents = latents * chosen.init_noise_sigma
    else:
        latents = chosen.add_noise(image.flip(-1) / 2, latents, chosen.timesteps[first : first + 1])
    takes_noise = "generator" in inspect.signature(chosen.step).parameters
    for index, timestep in enumerate(chosen.timesteps[first:], start=first):
        alpha = alpha_at(chosen, index)
        sigma = math.sqrt(1 - alpha**2)
        seen = chosen.scale_model_input(latents, timestep)
        noise = (seen - alpha * image) / sigma
        prediction = alpha * noise - sigma * image if predicts_v else noise
        extra = {"generator": generator} if takes_noise else {}
        if previewed:
            assert torch.allclose(estimate(chosen, latents, prediction, timestep), image, atol=0.01)
        latents = chosen.step(prediction, timestep, latents, return_dict=False, **extra)[0]
        assert torch.isfinite(latents).all()
    return float((latents - image).abs().max())


def alpha_at(chosen: Any, index: int) -> float:
    """The factor of the image in what the network sees at a step."""
    if not hasattr(chosen, "sigmas"):
        return math.sqrt(float(chosen.alphas_cumprod[int(chosen.timesteps[index])]))
    sigma = chosen.sigmas[index]
    if hasattr(chosen, "sigmas_interpol") and not chosen.state_in_first_order:
        sigma = chosen.sigmas_interpol[index - hasattr(chosen, "sigmas_down")]
    return 1 / math.sqrt(1 + float(sigma) ** 2)


@pytest.mark.parametrize(("training", "choice", "steps"), COMBINATIONS)
def test_every_combination_arrives_at_the_only_image_that_there_is(
    training: str, choice: Choice, steps: int
) -> None:
    """With the exact prediction for a distribution of one image, each sampler must end at that image."""
    chosen = Schedulers(scheduler(**TRAININGS[training])).make(choice)
    missed = distance_from_the_only_image(chosen, steps, predicts_v=training != "epsilon", previewed=True)
    # DDIM's last step ends at the first timestep's noise level, 0.03, not at none.
    assert missed < (0.2 if choice.sampler in ("ddim", "tcd") else 0.01)


FROM_IMAGES = [
    (training, choice, steps, strength)
    for training, choice, steps in COMBINATIONS
    for strength in (0.35, 0.75)
    if steps in (3, 20)
]


@pytest.mark.parametrize(("training", "choice", "steps", "strength"), FROM_IMAGES)
def test_from_another_image_every_combination_arrives_there_too(
    training: str, choice: Choice, steps: int, strength: float
) -> None:
    chosen = Schedulers(scheduler(**TRAININGS[training])).make(choice)
    missed = distance_from_the_only_image(
        chosen, steps, predicts_v=training != "epsilon", previewed=True, strength=strength
    )
    assert missed < (0.2 if choice.sampler in ("ddim", "tcd") else 0.01)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, for KDPM2's
@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_of_trailing_timesteps_no_class_takes_one_too_many(name: str) -> None:
    missed = []
    for steps in (60, 61):
        own = getattr(diffusers, name)(**SDXL | {"timestep_spacing": "trailing"})
        missed.append(distance_from_the_only_image(own, steps))
        assert own.timesteps.min() >= 0
    assert missed[1] < missed[0] + 0.01, "each has its own distance: DDPM clips, some end before sigma is 0"


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.schedule in (None, "trailing")])
def test_there_are_as_many_timesteps_as_steps(choice: Choice, spacing: str) -> None:
    """In floats, `arange(1000, 0, -1000 / 61)` has 62 numbers; so it is with 103, 121 and 122 steps."""
    for training_steps in (1000, 999, 500, 333):
        own = scheduler(num_train_timesteps=training_steps, timestep_spacing=spacing)
        schedulers = Schedulers(own)
        chosen = schedulers.make(choice)
        for steps in range(1, 151):
            if schedulers.problem(choice, steps) is not None:
                continue
            set_timesteps(chosen, steps)
            assert len(chosen.timesteps) == steps * chosen.order - (chosen.order - 1)
            assert chosen.timesteps.min() >= 0 and chosen.timesteps.max() < training_steps
            if (sigmas := getattr(chosen, "sigmas", None)) is not None:
                assert len(sigmas) == len(chosen.timesteps) + 1 and sigmas[-1] == 0 < sigmas[-2]


@pytest.mark.parametrize("name", [name for name, entry in SAMPLERS.items() if "karras" in entry.schedules])
def test_the_schedules_are_those_of_their_papers(name: str) -> None:
    schedulers, steps = Schedulers(scheduler()), 10

    def sigmas(schedule: str | None) -> torch.Tensor:
        chosen = schedulers.make(Choice(name, schedule))
        chosen.set_timesteps(steps)
        values = [float(sigma) for sigma in chosen.sigmas if sigma > 0]
        return torch.tensor(sorted(set(values), reverse=True), dtype=torch.float64)

    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    karras, exponential = sigmas("karras"), sigmas("exponential")
    high, low, rho = karras[0], karras[-1], 7
    expected = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert torch.allclose(karras, expected, rtol=1e-4)
    expected = torch.exp(torch.log(high) + ramp * (torch.log(low) - torch.log(high)))
    assert torch.allclose(exponential, expected, rtol=1e-4)
    assert sigmas("trailing")[0] > 14 > 13 > sigmas(None)[0]  # the last timestep's; leading spacing omits it
    beta = torch.log(sigmas("beta"))
    gaps = beta[:-1] - beta[1:]
    assert gaps[0] < gaps[4] and gaps[-1] > gaps[4]  # beta(0.6, 0.6) is dense at both ends of time


def test_the_sets_own_values_reach_other_samplers_but_nothing_is_clipped() -> None:
    schedulers = Schedulers(scheduler(prediction_type="v_prediction"))
    for choice in CHOICES:
        config = schedulers.make(choice).config
        assert (config.prediction_type, config.beta_end) == ("v_prediction", 0.012)
        assert not config.get("clip_sample") and not config.get("thresholding")


@pytest.mark.parametrize("choice", CHOICES)
def test_a_scheduler_is_called_by_the_names_that_chose_it(choice: Choice) -> None:
    schedulers = Schedulers(scheduler())
    assert schedulers.names(choice) == (choice.sampler, choice.schedule or "default")


def test_a_scheduler_that_no_name_chooses_is_called_by_its_class() -> None:
    own: Any = diffusers.PNDMScheduler(**SDXL)
    schedulers = Schedulers(own)
    assert schedulers.names(OWN) == ("PNDMScheduler", "default")
    field, problem = schedulers.problem(Choice(None, "karras"), 10) or ("", "")
    assert field == "schedule" and "PNDMScheduler" in problem
    assert schedulers.problem(Choice("euler", "karras"), 10) is None
    third: Any = diffusers.DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True)
    assert names_of(third) == ("DPMSolverMultistepScheduler", "karras")


def test_options_that_only_another_class_has_mean_nothing() -> None:
    """diffusers keeps them when it makes a scheduler from the configuration of another class."""
    lcm: Any = diffusers.LCMScheduler(**SDXL | {"timestep_spacing": "trailing"})
    schedulers = Schedulers(lcm)
    assert schedulers.names(OWN) == schedulers.names(Choice("lcm")) == ("lcm", "default")
    assert schedulers.problem(Choice("euler"), 51) is None
    assert schedulers.names(Choice("euler")) == ("euler", "trailing")
    assert schedulers.problem(OWN, 51) is not None
    karras = Schedulers(scheduler(use_karras_sigmas=True))
    assert karras.names(OWN) == ("euler", "karras") == karras.names(Choice("euler"))
    for sampler in ("euler_ancestral", "ddim", "lcm", "tcd"):
        assert karras.names(Choice(sampler)) == (sampler, "default")
    from_lcm: Any = diffusers.EulerDiscreteScheduler.from_config(lcm.config)
    assert Schedulers(from_lcm).problem(OWN, 150) is None


def test_training_that_only_another_class_can_follow_is_not_taken_as_followed() -> None:
    zero_snr = scheduler(rescale_betas_zero_snr=True)
    heun: Any = diffusers.HeunDiscreteScheduler.from_config(zero_snr.config)
    with pytest.raises(ValueError, match="does not have rescale_betas_zero_snr"):
        trained_as(heun, None, True)
    plain: Any = diffusers.HeunDiscreteScheduler(**SDXL)
    assert trained_as(plain, "epsilon", False) is plain


def test_a_schedule_replaces_each_other_that_diffusers_knows() -> None:
    own: Any = diffusers.DPMSolverMultistepScheduler(**SDXL | {"use_lu_lambdas": True})
    schedulers = Schedulers(own)
    plain = Schedulers(diffusers.DPMSolverMultistepScheduler(**SDXL))
    for schedule in ("karras", "exponential", "beta", "trailing"):
        sigmas = []
        for each in (schedulers, plain):
            chosen = each.make(Choice("dpmpp_2m", schedule))
            set_timesteps(chosen, 10)
            sigmas.append(chosen.sigmas)
        assert torch.equal(*sigmas)


def test_no_sampler_takes_more_steps_than_the_network_was_trained_with() -> None:
    schedulers = Schedulers(scheduler(num_train_timesteps=100))
    assert schedulers.problem(Choice("ddim"), 100) is None
    field, problem = schedulers.problem(Choice("ddim"), 101) or ("", "")
    assert field == "num_inference_steps" and "at most 100" in problem


def test_requests_do_not_share_a_scheduler() -> None:
    schedulers = Schedulers(scheduler())
    for choice in (OWN, Choice("dpmpp_2m", "karras")):
        assert schedulers.make(choice) is not schedulers.make(choice)


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_distilled_samplers_have_as_many_steps_as_they_were_distilled_with(sampler: str) -> None:
    schedulers = Schedulers(scheduler())
    assert schedulers.problem(Choice(sampler), 50) is None
    field, problem = schedulers.problem(Choice(sampler), 51) or ("", "")
    assert field == "num_inference_steps" and "at most 50" in problem and sampler in problem


def test_a_network_of_zero_terminal_snr_has_no_sampler_that_cannot_start_at_pure_noise() -> None:
    schedulers = Schedulers(trained_as(scheduler(), "v_prediction", True))
    field, problem = schedulers.problem(Choice("heun"), 10) or ("", "")
    assert field == "sampler" and "euler_ancestral" in problem and "zero terminal SNR" in problem
    assert set(schedulers.samplers()) == SAMPLERS.keys() - {"heun"}
    assert list(Schedulers(scheduler()).samplers()) == list(SAMPLERS)


def test_a_scheduler_is_changed_only_as_far_as_the_training_was_another() -> None:
    own = scheduler()
    assert trained_as(own, None, None) is own
    assert trained_as(own, "epsilon", False) is own
    changed = trained_as(own, "v_prediction", True)
    assert (changed.config.prediction_type, changed.config.timestep_spacing) == ("v_prediction", "trailing")
    changed.set_timesteps(4)
    assert changed.timesteps[0] == 999 and changed.sigmas[0] > 1000
    with pytest.raises(ValueError, match="HeunDiscreteScheduler does not have rescale_betas_zero_snr"):
        trained_as(diffusers.HeunDiscreteScheduler(**SDXL), None, True)


def test_every_schedule_is_followed_by_a_sampler() -> None:
    assert {schedule for entry in SAMPLERS.values() for schedule in entry.schedules} == SCHEDULES.keys()
    assert TCD_GAMMA == 0.3
