"""The command `atelier-generator`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from atelier_runtime import settings as runtime_settings

from atelier_generator.settings import GeneratorSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="atelier-generator", description="Atelier's drawing stage: SDXL over gRPC."
    )
    commands = parser.add_subparsers(title="commands", required=True)
    serve_parser = commands.add_parser(
        "serve",
        help="serve gRPC until SIGTERM",
        description="Serve gRPC until SIGTERM.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve_parser.set_defaults(command=serve)
    chosen = parser.parse_args(arguments)
    exit_code: int = chosen.command(chosen)
    return exit_code


def serve(chosen: argparse.Namespace) -> int:
    """Serve until told to stop."""
    settings = runtime_settings.load(GeneratorSettings)
    # Imported late: torch takes seconds, and help or a bad setting should not wait for it.
    from atelier_runtime.server import run_stage

    from atelier_generator.servicer import GeneratorStage

    return run_stage("generator", settings, partial(GeneratorStage, settings))


def _settings_help() -> str:
    prefix = GeneratorSettings.model_config["env_prefix"]
    lines = ["settings, from the environment:"]
    for name, field in GeneratorSettings.model_fields.items():
        lines.append(f"  {prefix}{name.upper()} (default {field.default})\n      {field.description}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
