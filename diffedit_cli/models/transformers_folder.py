"""Models of transformers beside the diffusion model, such as those that write captions: found, identified, loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffedit_cli.errors import ModelError, reason
from diffedit_cli.models import configs, registry, weights
from diffedit_cli.models.names import hub_id
from diffedit_cli.storage import hashing

CONFIG = "config.json"
JOINED = "+"  # between the names of models that work together


@dataclass(frozen=True)
class TransformersFolder:
    """A folder of one model, checked but not loaded; `architecture` is the class that its settings name."""

    name: str
    path: Path
    architecture: str

    def digest(self, memo: Path) -> str:
        """Returns the digest (hex) of weights and settings; `memo` keeps those of large files. Raises ModelError."""
        total, own = hashlib.sha256(), _weights(self.path)
        try:
            for path in sorted(self.path.iterdir()):
                if path in own or path.suffix in configs.SMALL:
                    total.update(f"{path.name} {hashing.of_file(path, memo)}\n".encode())
        except OSError as error:
            raise ModelError(f"{error.filename} cannot be read: {error.strerror}; get the model again.") from error
        return total.hexdigest()

    def settings(self) -> Mapping[str, Any]:
        """Returns the settings of the network. Raises ModelError."""
        return configs.read(self.name, self.path / CONFIG)

    def network(self, kind: Any) -> Any:
        """Returns the network, of this class of transformers, in float32 on the CPU. Raises ModelError."""
        from diffedit_cli.engine.networks import building

        def load() -> Any:
            import torch

            options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
            with building.no_larger_than(_weights(self.path)):
                network, told = kind.from_pretrained(self.path, dtype=torch.float32, **options)
            if missing := sorted(told["missing_keys"]):  # which transformers fills with random numbers
                raise ValueError(f"its files lack {len(missing)} weights, such as {missing[0]}")
            return network.eval()

        return self._loaded(load)

    def reader(self, kind: Any) -> Any:
        """Returns the tokenizer or processor, of this class of transformers. Raises ModelError."""
        return self._loaded(lambda: kind.from_pretrained(self.path, local_files_only=True))

    def _loaded(self, load: Any) -> Any:
        try:
            return load()
        except MemoryError:
            raise
        except Exception as error:  # transformers raises exceptions of many types
            raise ModelError(f"The model {self.name} cannot be loaded ({reason(error)}); get it again.") from error


def find(name: str, *architectures: str) -> TransformersFolder:
    """Returns a model of one of these classes by short name, hub id or path, if it is on this machine.

    Raises ModelError.
    """
    folder = locate(name)
    if folder is None:
        pulled = hub_id(name).count("/") == 1
        advice = f"download it with: diffedit models pull {name}" if pulled else "name a folder or hub id"
        raise ModelError(f"There is no model {name} on this machine; {advice}.")
    try:
        said = weights.read_json(folder / CONFIG)["architectures"]
    except (OSError, ValueError, KeyError, TypeError):
        said = None
    found = [one for one in said if one in architectures] if isinstance(said, list) else []
    if not found:
        kinds = " or ".join(architectures)
        raise ModelError(f"{name} is not a {kinds}: {folder / CONFIG} names none; name another model.")
    configs.check_folder(name, folder)
    registry.check_shards(name, folder, None, "get it again")
    for path in (held := _weights(folder)):
        weights.refuse_pickle(path)
    if not held:
        raise ModelError(f"The model {name} has no .safetensors weights in {folder}, and others are never read.")
    return TransformersFolder(name, folder, found[0])


def locate(name: str) -> Path | None:
    """Returns the folder of a model by short name, hub id or path, perhaps incomplete; None if there is none."""
    return registry.local(name) or registry.in_hub_cache(hub_id(name), CONFIG)


def joined(name: str) -> list[str]:
    """Returns the names of the models that a name joins; the path of a folder may itself hold a JOINED."""
    return [name] if registry.local(name) is not None else name.split(JOINED)


def _weights(folder: Path) -> list[Path]:
    """Returns the weights files to load: those without a variant."""
    return [path for path in folder.iterdir() if weights.is_weights(path.name) and not weights.variant_of(path.name)]
