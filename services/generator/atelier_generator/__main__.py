"""The command `atelier-generator`.

torch takes seconds to import, so each command imports it late: help and invalid settings do not wait.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from atelier_generator import draw_flags
from atelier_generator.lora_tags import Lora
from atelier_generator.prompt_syntax import PROMPT_SYNTAXES
from atelier_generator.request import GenerateRequest
from atelier_generator.settings import GeneratorSettings
from atelier_runtime import defaults, images
from atelier_runtime import settings as runtime_settings
from atelier_runtime.errors import AtelierError
from atelier_runtime.outcomes import Metadata
from atelier_runtime.settings import StartupError
from atelier_runtime.torch_setup import prepare_torch

_FORMAT_OF_SUFFIX: dict[str, images.Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="atelier-generator",
        description="Atelier's generator: SDXL over gRPC.",
        epilog=runtime_settings.help_text(GeneratorSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True)
    serve_parser = commands.add_parser("serve", help="serve gRPC until SIGTERM")
    serve_parser.set_defaults(command=serve)
    _add_draw(commands.add_parser("draw", help="generate images and write them to files, without a server"))
    inspect_parser = commands.add_parser("inspect", help="describe a model set, folder or single file")
    inspect_parser.set_defaults(command=inspect)
    inspect_parser.add_argument(
        "path", type=Path, help="model set, folder in diffusers' layout, or single-file checkpoint"
    )
    args = parser.parse_args(argv)
    prepare_torch()
    exit_code: int = args.command(args)
    return exit_code


def serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM."""
    settings = runtime_settings.load(GeneratorSettings)
    from atelier_generator.servicer import GeneratorService
    from atelier_runtime.server import run_service

    return run_service("generator", settings, partial(GeneratorService, settings))


def draw(args: argparse.Namespace) -> int:
    """Generate one image or several; errors go to standard error."""
    settings = runtime_settings.load(GeneratorSettings)
    output: Path = args.output
    file_format = _FORMAT_OF_SUFFIX.get(output.suffix.lower())
    if file_format is None:
        print(f"--output: {output} must end with {', '.join(_FORMAT_OF_SUFFIX)}", file=sys.stderr)
        return 2
    options = {name: getattr(args, name) for name in GenerateRequest.__dataclass_fields__ if name in args}
    options["loras"] = tuple(args.loras)
    try:
        options["hires_pass"] = draw_flags.hires_pass_of(args)
        for name in ("image", "mask"):
            options[name] = options[name] and options[name].read_bytes()
        request = GenerateRequest(**options, output_format=file_format)
        if not request.own_size:
            request.check_size(settings.max_pixels)
        from atelier_generator.models import load_models
        from atelier_generator.pipeline import Pipeline
        from atelier_generator.recipe import with_recipe
        from atelier_generator.servicer import loaded_models

        models = load_models(settings)
        pipeline = Pipeline(models)
        completed = pipeline.complete(request)
        if request.from_image:
            from atelier_generator.source_reading import decode_source

            completed = completed.with_source(decode_source(request, settings.max_pixels))
            completed.check_size(settings.max_pixels)
        generations = pipeline.generate_images(completed)
        loaded = loaded_models(models)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except AtelierError as error:
        print(error.message, file=sys.stderr)
        return 1
    except StartupError as error:
        print(f"{GeneratorSettings.model_config['env_prefix']}{error}", file=sys.stderr)
        return 1
    warnings = dict.fromkeys(warning.message for each in generations for warning in each.warnings)
    print(*warnings, sep="\n", end="\n" if warnings else "", file=sys.stderr)
    for number, generation in enumerate(generations, start=1):
        path = output if request.num_images == 1 else output.with_stem(f"{output.stem}-{number}")
        file = images.encode(images.Picture(generation.pixels), file_format, request.quality)
        path.write_bytes(with_recipe(file, completed, generation, loaded))
        print(f"{path}: {completed.result_size}, seed {generation.seed}")
    return 0


def inspect(args: argparse.Namespace) -> int:
    """Print the description of a path as JSON; errors go to standard error."""
    from atelier_generator.nets import inspection
    from atelier_runtime.weights import CheckpointError

    try:
        description = inspection.inspect(args.path)
    except (CheckpointError, StartupError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(description, indent=2))
    return 0


def _lora(text: str) -> Lora:
    name, colon, weight = text.rpartition(":")
    try:
        return Lora(name, float(weight)) if colon else Lora(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{weight!r:.60} is not a number; give NAME or NAME:WEIGHT"
        ) from None


def _add_draw(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=draw)
    parser.add_argument("prompt", help="what to generate")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("picture.png"),
        help="PNG, JPEG or WebP file (default picture.png); of several images picture-1.png, ...",
    )
    parser.add_argument("--negative-prompt", help="what to avoid (default: set by the model set)")
    for flag in ("--sampler", "--schedule"):
        parser.add_argument(flag, help="see docs/http-api.md (default: set by the model set)")
    parser.add_argument(
        "--prompt-syntax",
        choices=PROMPT_SYNTAXES,
        default=GenerateRequest.prompt_syntax,
        help="plain: brackets in both prompts mean themselves; weighted: (word:1.3), [word] and BREAK as "
        f"AUTOMATIC1111 reads them (default {GenerateRequest.prompt_syntax})",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the noise (default: random, and printed); of several images the first",
    )
    parser.add_argument("--image", type=Path, help="an image to start from: a PNG, JPEG or WebP file")
    parser.add_argument(
        "--mask", type=Path, help="where to draw the image anew: a file of its size, white there, else black"
    )
    parser.add_argument(
        "--strength",
        type=float,
        help=f"how much of the image is drawn anew, 0 to 1 (default {defaults.STRENGTH:g})",
    )
    draw_flags.add(parser)
    for flag in ("--width", "--height"):
        parser.add_argument(
            flag,
            dest=f"{flag.removeprefix('--')}_px",
            type=int,
            help=f"(default {defaults.SIDE_PX}, or that of the image)",
        )
    flags: dict[str, tuple[str, type]] = {
        "num_inference_steps": ("--steps", int),
        "guidance_scale": ("--guidance-scale", float),
        "quality": ("--quality", int),
        "num_images": ("--num-images", int),
    }
    for name, (flag, kind) in flags.items():
        default = getattr(GenerateRequest, name)
        shown = "set by the model set" if default is None else default
        parser.add_argument(flag, dest=name, type=kind, default=default, help=f"(default {shown})")
    parser.add_argument(
        "--lora",
        dest="loras",
        action="append",
        type=_lora,
        default=[],
        metavar="NAME[:WEIGHT]",
        help="a LoRA to apply, by its file's name without .safetensors; may be given several times "
        f"(default weight {defaults.LORA_WEIGHT:g})",
    )
    parser.add_argument(
        "--metadata",
        choices=get_args(Metadata),
        default=GenerateRequest.metadata,
        help="what the file says of how it was made: the recipe, or nothing (default %(default)s)",
    )
    for name, flag in (
        ("use_refiner", "--refiner"),
        ("use_upscaler", "--upscaler"),
        ("hires_fix", "--hires-fix"),
    ):
        default = getattr(GenerateRequest, name)
        parser.add_argument(
            flag,
            dest=name,
            action=argparse.BooleanOptionalAction,
            default=default,
            help=f"(default {default})",
        )


if __name__ == "__main__":
    sys.exit(main())
