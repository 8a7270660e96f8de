"""The LoRAs that requests may name: the safetensors files of one folder, listed and checked at startup.

The folder is `loras/` of the model set, or that of the setting LORAS. A file is offered under its name
without .safetensors. What is not offered is logged with the reason, and requests for it are told. Files in
sub-folders, links and files of other formats are not read.

A file in the set's own folder need not be in its manifest: an operator drops it there. One that the manifest
lists has to be the one listed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from atelier_generator.nets.lora_file import LoraFile, NotALora, read_lora
from atelier_generator.nets.lora_layers import Layer
from atelier_runtime import defaults
from atelier_runtime.set_files import Listed, read_verified
from atelier_runtime.settings import StartupError
from atelier_runtime.snapshot import Reader, take
from atelier_runtime.weights import CheckpointError, ModelSet

logger = logging.getLogger(__name__)

FOLDER = "loras"
_SUFFIX = ".safetensors"
_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_MOST_FILES = 1000
_MOST_NAMED = 20
_MOST_CHARS = 40


@dataclass
class LoraFolder:
    """`offered`: by name, in alphabetical order. `refused`: names of files or folders, and what they are.

    `listed`: the files of the set's manifest; `set_folder`: None if the folder is not the set's.
    """

    offered: dict[str, LoraFile] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    listed: Listed = field(default_factory=dict)
    set_folder: Path | None = None

    @classmethod
    def open(
        cls,
        setting: str,
        model_set: ModelSet,
        layers: Mapping[str, Layer],
        most_bytes: int,
        dtype: torch.dtype,
    ) -> LoraFolder:
        """List a folder. `setting`: LORAS, empty for the set's own; `most_bytes`: the limit of all in memory.

        Raises `StartupError` if the folder cannot be read; the set need not have one.
        """
        if setting:
            folder, found = Path(setting).expanduser(), cls()
        else:
            folder = model_set.folder / FOLDER
            found = cls(listed=model_set.files, set_folder=model_set.folder)
        if setting or folder.exists() or folder.is_symlink():
            found._read(folder, layers, most_bytes, dtype)
        found._miss(folder)
        for name, reason in found.refused.items():
            logger.warning(
                "not offered as a LoRA", extra={"file": str(folder / name), "error": f"it {reason}"}
            )
        if found.offered:
            logger.info("LoRAs listed", extra={"folder": str(folder), "loras": len(found.offered)})
        return found

    def reader(self, file: LoraFile) -> Reader:
        """Return how a file is read: one that the manifest lists is compared with it."""
        if self.set_folder is None or not self.is_listed(file):
            return take
        return partial(read_verified, folder=self.set_folder, listed=self.listed, verified={})

    def is_listed(self, file: LoraFile) -> bool:
        """Tell whether the set's manifest lists a file."""
        return self._listed_name(file.path.name) in self.listed

    def refuse(self, name: str, reason: str) -> None:
        """Offer a LoRA no longer, because of what its file is."""
        if (file := self.offered.get(name)) is not None:
            self.refused[file.path.name] = reason  # before: other threads are told why
            self.offered.pop(name, None)

    def find(self, name: str) -> LoraFile | str:
        """Return the file of a LoRA, or why a request may not name it; in any thread."""
        if (file := self.offered.get(name)) is not None:
            return file
        shown = f"'{_short(name)}'"
        if (reason := self.refused.get(f"{name}{_SUFFIX}")) is not None:
            return f"{shown} cannot be used: its file {reason}"
        if not self.offered:
            return f"there is no {shown}: this service has no LoRAs"
        names = [f"'{_short(other)}'" for other in list(self.offered)]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return f"there is no {shown}; there are {', '.join(names[:_MOST_NAMED])}{more}"

    def _read(self, folder: Path, layers: Mapping[str, Layer], most_bytes: int, dtype: torch.dtype) -> None:
        if self.set_folder is not None and folder.is_symlink():
            raise StartupError(
                f"MODEL_SET: {FOLDER} in {self.set_folder} is a link; set LORAS to a folder elsewhere"
            )
        try:
            if not folder.is_dir():
                raise NotADirectoryError(
                    20, "it is not a folder" if folder.exists() else "there is no such folder"
                )
            paths = sorted(folder.iterdir())
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            where = "MODEL_SET" if self.set_folder is not None else "LORAS"
            raise StartupError(f"{where}: {folder}: {getattr(error, 'strerror', error)}") from error
        for path in paths:
            if path.name.startswith("."):
                continue
            try:
                if self._may_be_one(path):
                    self._add(read_lora(path, layers), most_bytes, dtype)
            except NotALora as error:
                self.refused[path.name] = str(error)
            except CheckpointError as error:
                self.refused[path.name] = str(error).removeprefix(str(path)).lstrip(": ")

    def _may_be_one(self, path: Path) -> bool:
        """Tell files of safetensors from previews and notes. Raises `NotALora` for what looks like a LoRA."""
        suffix = path.suffix.lower()
        if path.is_symlink():
            raise NotALora("is a link, and links are not followed; copy what it leads to")
        if path.is_dir():
            raise NotALora("is a folder, and sub-folders are not read")
        if suffix in _PICKLES:
            raise NotALora("is not a safetensors file, and only these are read")
        if suffix != _SUFFIX:
            return False
        if len(self.offered) >= _MOST_FILES:
            raise NotALora(f"is beyond the {_MOST_FILES} files that are read")
        longest = defaults.LORA_NAME_CHARS[1]
        if not path.stem.isprintable() or len(path.stem) > longest:
            raise NotALora(f"has a name that no request can have: {longest} printable characters at most")
        if path.stem in self.offered:
            raise NotALora("has the name of another, but for the case of its ending")
        return True

    def _add(self, file: LoraFile, most_bytes: int, dtype: torch.dtype) -> None:
        if (needed := file.bytes_in(dtype)) > most_bytes:
            raise NotALora(
                f"takes {needed >> 20} MB in memory; LORA_MEMORY_MB allows {most_bytes >> 20} MB for all"
            )
        self.offered[file.name] = file

    def _miss(self, folder: Path) -> None:
        """Refuse what the manifest lists and the folder does not have."""
        for name in self._listed_here():
            if not (folder / name).exists():
                self.refused[name] = "is listed in the manifest, and missing"

    def _listed_here(self) -> Iterator[str]:
        prefix = self._listed_name("")
        return (name.removeprefix(prefix) for name in self.listed if name.startswith(prefix))

    @staticmethod
    def _listed_name(name: str) -> str:
        return f"{FOLDER}/{name}"


def _short(name: str) -> str:
    return name if len(name) <= _MOST_CHARS else f"{name[:_MOST_CHARS]}..."
