"""Generates images with the generator's own code; the judge says whether they show what was requested."""

import sys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.attributes import Judge, classify, head_view
from training.figures import Figure
from training.probes import background_name, hair_name
from training.prompts import Expectation
from training.studio import Studio

NAMES = {
    "hair_color": "hair color",
    "hair_style": "hair style",
    "glasses": "glasses",
    "beard": "beard",
    "hat": "hat",
    "background": "background",
}


@dataclass(frozen=True)
class Generated:
    """A prompt's image and what was found in it."""

    expectation: Expectation
    seed: int
    image: NDArray[np.uint8]
    faces: int
    predictions: dict[str, str]
    """The judge's predictions by attribute, for the most confident face or the whole image."""
    probed: dict[str, str | None]
    """Hair and background color, sampled at single spots, by attribute."""


def generate_images(
    studio: Studio, network: Judge, expectations: list[Expectation], seed: int
) -> list[Generated]:
    """Generate and analyze an image for each prompt, with a seed of its own."""
    generated = []
    for number, expectation in enumerate(expectations):
        own_seed = 1_000_000 * (seed + 1) + number
        image = studio.generate(expectation.prompt, own_seed)
        faces = studio.faces(image)
        small = np.asarray(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
        predictions = classify(network, [head_view(image, faces[0].box if faces else None)])[0]
        probed = {"hair_color": hair_name(small), "background": background_name(small)}
        generated.append(Generated(expectation, own_seed, image, len(faces), predictions, probed))
        if (number + 1) % 10 == 0:
            print(f"generated {number + 1} of {len(expectations)}", file=sys.stderr, flush=True)
    return generated


def score_prompts(generated: list[Generated]) -> list[Figure]:
    """Faces where people were requested and elsewhere, and each attribute that was requested."""
    people = [item for item in generated if item.expectation.person]
    others = [item for item in generated if not item.expectation.person]
    figures = [
        Figure.share(
            "portrait prompts with a face", sum(item.faces > 0 for item in people), len(people), 0.95
        ),
        Figure.share(
            "prompts without people with a face",
            sum(item.faces > 0 for item in others),
            len(others),
            at_most=0.03,
        ),
    ]
    for attribute, name in NAMES.items():
        requested = [item for item in people if attribute in item.expectation.expected]
        satisfied = [
            item.predictions[attribute] in item.expectation.expected[attribute] for item in requested
        ]
        figures.append(Figure.share(f"{name} as requested", sum(satisfied), len(requested), at_least=0.85))
        if attribute in ("glasses", "beard", "hat"):
            # Absence is easy, so those that should be present are counted separately.
            present = [
                ok
                for item, ok in zip(requested, satisfied, strict=True)
                if "none" not in item.expectation.expected[attribute]
            ]
            figures.append(Figure.share(f"{name} as requested, if present", sum(present), len(present)))
    for attribute in ("hair_color", "background"):  # a second opinion that needs no network
        requested = [item for item in people if attribute in item.expectation.expected]
        correct = sum(item.probed[attribute] in item.expectation.expected[attribute] for item in requested)
        figures.append(
            Figure.share(f"{NAMES[attribute]} as requested, sampled at one spot", correct, len(requested))
        )
    return figures


def describe(generated: Generated) -> str:
    """One line about a prompt's image: faces, and each attribute as requested and as found."""
    parts = [
        f"{NAMES[name]} {generated.predictions[name]}"
        + ("" if generated.predictions[name] in expected else f" (expected: {expected[0]})")
        for name, expected in generated.expectation.expected.items()
    ]
    return f"{generated.expectation.prompt}: faces {generated.faces}" + "".join(f", {part}" for part in parts)
