"""The single table of defaults and limits, shared by the command line, gRPC and HTTP.

Units are in the names; a range is a pair (lowest, highest), both inclusive.
"""

from typing import Final

PROMPT_CHARS = (1, 2000)
NEGATIVE_PROMPT_CHARS = (0, 2000)
PROMPT_SYNTAX: Final = "plain"
PROMPT_WEIGHT_RANGE = (0.0, 10.0)
"""Of a word in the weighted syntax, with all brackets around it."""

SIDE_PX = 1024
SIDE_PX_RANGE = (256, 2048)
SIDE_PX_MULTIPLE = 8

NUM_INFERENCE_STEPS = 30
NUM_INFERENCE_STEPS_RANGE = (1, 150)
GUIDANCE_SCALE = 7.5
GUIDANCE_SCALE_RANGE = (0.0, 30.0)
SEED_RANGE = (0, 2**53 - 1)
"""The largest seed is the largest integer that a JSON reader with doubles keeps exactly."""

NUM_IMAGES = 1
NUM_IMAGES_RANGE = (1, 10)
PREVIEW_INTERVAL_STEPS_RANGE = (1, NUM_INFERENCE_STEPS_RANGE[1])

STRENGTH = 0.75
"""Of image to image, with a mask or without: that of AUTOMATIC1111's web UI."""
STRENGTH_RANGE = (0.0, 1.0)

USE_REFINER = True
REFINER_STRENGTH = 0.3
REFINER_STRENGTH_RANGE = (0.05, 1.0)
REFINER_MOST_STRENGTH = 0.4
"""Of a hires pass that the refiner runs: refiners are trained on the last noise levels only."""
HIRES_FIX = False
HIRES_BASE_SCALE = 0.75
HIRES_ENLARGEMENT = 2
HIRES_STRENGTH = 0.35
HIRES_STEPS = 25
HIRES_SIDE_PX_RANGE = (256, 4096)
MASK_KIND: Final = "white"
MASK_BLUR_PX = 0.0
MASK_BLUR_PX_RANGE = (0.0, 64.0)
METADATA: Final = "recipe"
USE_UPSCALER = True
LANCZOS_SCALE = 1.5
"""Of the JSON contract's `hires_fix_simple`; over gRPC an unset `lanczos_scale` means no upscaling."""
LANCZOS_SCALE_RANGE = (1.0, 4.0)
MOST_LORAS = 5
LORA_NAME_CHARS = (1, 200)
LORA_WEIGHT = 1.0
LORA_WEIGHT_RANGE = (-4.0, 4.0)

USE_FACE_RESTORATION = True
FIDELITY = 0.6
"""CodeFormer's w: 0 looks best, 1 is closest to the input."""
FIDELITY_RANGE = (0.0, 1.0)
UPSCALE: Final = 1
UPSCALE_CHOICES = (1, 2, 4)
MAX_FACES = 64
MAX_FACES_RANGE = (0, 256)
MAX_FACE_EDITS = 1000
MAX_DETECTED_FACES = MAX_FACE_EDITS
"""In one response; all of them can be sent back with edits."""
MAX_FIDELITIES = 8
MIN_CONFIDENCE = 0.8
CONFIDENCE_RANGE = (0.0, 1.0)
MIN_EYE_DISTANCE_PX = 5.0
MIN_FACE_PX = 0.0
DETECT_SIZE_PX = 640
DETECT_SIZE_PX_RANGE = (64, 2048)
"""0 is allowed too: full resolution."""
MIN_SIMILARITY_RANGE = (-1.0, 1.0)
"""Cosines of two faces' embeddings."""
VISIBILITY = 1.0
VISIBILITY_RANGE = (0.0, 1.0)

OUTPUT_FORMAT: Final = "png"
QUALITY = 92
QUALITY_RANGE = (1, 100)
ON_RESTORE_FAILURE: Final = "return_base"

MAX_PIXELS = 50_000_000
DEADLINE_S = 300.0
PING_INTERVAL_S = 5.0
"""After so much silence a client pings a service, during a call or not; servers allow twice as often."""
