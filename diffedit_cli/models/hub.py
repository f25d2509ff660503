"""Downloads models from the Hugging Face hub, and lists a download beforehand. Goes online only when called.

No other module of diffedit_cli.models goes online.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from diffedit_cli.engine.networks.family import Family
from diffedit_cli.engine.networks.model_formats import FAMILIES, family_with
from diffedit_cli.errors import ModelError, OutputError, UsageError, reason
from diffedit_cli.models import weights
from diffedit_cli.models.configs import SMALL
from diffedit_cli.models.names import BUILTIN, CLIP, DINO, NAMES, SAM, SEGMENTERS, hub_id, known
from diffedit_cli.storage import hashing, paths
from diffedit_cli.storage.files import amount

INDEX = "model_index.json"
CONFIG = "config.json"
SHA256_DIGITS = 64  # length of a large file's ETag; a small file's is another hash
ALONE = {"BlipForConditionalGeneration", "T5ForConditionalGeneration", CLIP, DINO, *SAM}
"""Classes of transformers that are a whole model, without components: they write prompts, or segment."""


class Extent(Enum):
    """How much of a model to download."""

    WHOLE = "all that an edit reads"
    NETWORK = "the denoising network alone"
    REST = "all but the weights of the denoising network"
    SETTINGS = "the files without weights"


@dataclass(frozen=True)
class File:
    """A file of a repository, its size in bytes, and whether it is on this machine already."""

    name: str
    size: int
    here: bool


@dataclass(frozen=True)
class Offer:
    """The files that `download` would fetch, and the revision and licence of their repository."""

    repository: str
    revision: str
    licence: str
    files: tuple[File, ...]

    @property
    def missing(self) -> list[File]:
        return [file for file in self.files if not file.here]


def offer(name: str, *, variant: str | None = None, extent: Extent = Extent.WHOLE) -> Offer:
    """Asks the hub for a model's files. Raises UsageError for a name that is no hub id, ModelError for all else."""
    repository = hub_id(name)
    if name == BUILTIN:
        raise UsageError("The model builtin is in the package; there is nothing to download.")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UsageError(
            f"{name} is not a model of the hub; name one of diffedit models list, or an id like owner/name."
        )
    _go_online()
    from huggingface_hub import HfApi, try_to_load_from_cache

    with _explained(repository):
        info = HfApi().model_info(repository, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    config = info.config or {}
    if name in SEGMENTERS or ALONE & set(config.get("architectures") or ()):
        chosen = _chosen_alone(repository, list(sizes), variant, extent)
    else:
        families = _families(name, (config.get("diffusers") or {}).get("_class_name"))
        chosen = _chosen(repository, list(sizes), families, variant, extent)
    revision = str(info.sha)
    files = []
    for file in chosen:
        place = try_to_load_from_cache(repository, file, revision=None if file == chosen[-1] else revision)
        files.append(File(file, sizes[file], isinstance(place, str) and revision in Path(place).parts))
    if info.gated and not all(file.here for file in files):
        _check_access(repository)
    licence = info.card_data and (info.card_data.get("license_name") or info.card_data.get("license"))
    if not licence:
        licence = named.licence if (named := known(name)) else "unknown"
    return Offer(repository, revision, str(licence), tuple(files))


def _check_access(repository: str) -> None:
    """Raises ModelError if the licence of a gated repository has not been accepted by whoever is logged in here."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    with _explained(repository):
        try:
            HfApi().auth_check(repository)
        except GatedRepoError:
            raise
        except HfHubHTTPError:
            return  # some mirrors of the hub cannot tell; the download will


def _families(name: str, pipeline: object) -> list[Family]:
    """Returns the family of a named model or of a pipeline; all of them if the hub does not state the pipeline.

    Raises ModelError for a pipeline that diffedit cannot use.
    """
    if name in NAMES:
        return [FAMILIES[NAMES[name].family]]
    return [FAMILIES[family_with(pipeline, name)]] if pipeline else list(FAMILIES.values())


def download(offer: Offer, say: Callable[[str], None]) -> None:
    """Downloads the missing files, each resumed where an earlier download ended. Raises ModelError or OutputError."""
    from huggingface_hub import hf_hub_download

    for file in offer.missing:
        say(f"{file.name} ({amount(file.size)})")
        # The file that identifies a model comes last, by branch name: only then the model counts as present.
        revision = None if file == offer.files[-1] else offer.revision
        with _explained(offer.repository):
            if weights.is_weights(Path(file.name).name):
                _fetch_content(offer, file)
            hf_hub_download(offer.repository, file.name, revision=revision)


def _fetch_content(offer: Offer, file: File) -> None:
    """Downloads a file into the folder where the hub's library looks for its content.

    The library's own download starts over when it is killed; this one resumes.
    """
    from filelock import FileLock
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(offer.repository, file.name, revision=offer.revision)
    told = get_hf_file_metadata(url)
    if not told.etag or "/" in told.etag:
        return  # no name for its content; the library's own download will report why
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=offer.repository, repo_type="model") / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    content, part = folder / told.etag, folder / f"{told.etag}.part"
    with FileLock(f"{part}.lock"):
        if paths.is_there(content):
            return
        with part.open("ab") as half:
            http_get(
                url, half, resume_size=half.tell(), expected_size=told.size, displayed_filename=file.name,
                headers=build_hf_headers(),
            )  # fmt: skip
        if len(told.etag) == SHA256_DIGITS and hashing.of_content(part) != told.etag:
            part.unlink()
            raise ValueError(f"{file.name} has other content than the hub states")
        part.replace(content)


def _go_online() -> None:
    """Undoes the offline setting that the program makes at its start, before the hub's library reads it."""
    os.environ["HF_HUB_OFFLINE"] = "0"
    if sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"


def _chosen(
    repository: str, names: list[str], families: list[Family], variant: str | None, extent: Extent
) -> list[str]:
    """Returns the files that diffedit reads, the index last. Raises ModelError if a required file is missing."""
    if INDEX not in names:
        raise ModelError(f"{repository} is not a diffusers model, it has no {INDEX}; name another.")
    denoisers = {family.denoiser for family in families}
    wanted = {part for family in families for part in family.all_parts}
    wanted = wanted & denoisers if extent is Extent.NETWORK else wanted
    parts: dict[str, list[str]] = {}
    for name in names:
        part, _, file = name.partition("/")
        if part in wanted and "/" not in file:
            parts.setdefault(part, []).append(file)
    chosen = [f"{part}/{file}" for part in parts for file in parts[part] if _is_small(file)]
    for part, files in parts.items():
        if extent is Extent.WHOLE or extent is (Extent.NETWORK if part in denoisers else Extent.REST):
            chosen += [f"{part}/{file}" for file in _weights(repository, part, files, variant)]
    return [*sorted(chosen), INDEX]


def _chosen_alone(repository: str, names: list[str], variant: str | None, extent: Extent) -> list[str]:
    """Returns the files of a model without components, its settings last. Raises ModelError or UsageError."""
    if extent in (Extent.NETWORK, Extent.REST):
        raise UsageError(f"{repository} has no parts to choose from; download all of it.")
    root = [name for name in names if "/" not in name]
    chosen = [name for name in root if _is_small(name) and name != CONFIG]
    if extent is Extent.WHOLE:
        chosen += _weights(repository, "network", root, variant)
    return [*sorted(chosen), CONFIG]


def _is_small(file: str) -> bool:
    """Whether a file holds settings or a vocabulary."""
    return file.endswith(SMALL) and ".index." not in file


def _weights(repository: str, part: str, files: list[str], variant: str | None) -> list[str]:
    """Returns the weights files of a component with their index; none for a tokenizer or scheduler.

    Raises ModelError if there are weights, but none that can be used.
    """
    found = [file for file in files if weights.is_weights(file)]
    chosen = [file for file in found if weights.variant_of(file) == variant]
    if chosen:
        index = f".safetensors.index.{variant}.json" if variant else ".safetensors.index.json"
        is_sharded = any("-of-" in file for file in chosen)
        return chosen + [file for file in files if is_sharded and file.endswith(index)]
    if found:
        others = ", ".join(sorted({weights.variant_of(file) or "the full one" for file in found}))
        raise ModelError(
            f"{repository} has no {variant or 'full'} variant of its {part}, only {others}; choose one with --variant."
        )
    if any(file.endswith((".bin", ".ckpt", ".pt")) for file in files):
        raise ModelError(
            f"{repository} has only pickled weights for its {part}, which can run code and are never read; "
            "name a model with .safetensors weights."
        )
    return []


@contextlib.contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turns all exceptions of the hub's library into an error of one sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    page = f"{constants.ENDPOINT}/{repository}"
    try:
        yield
    except GatedRepoError:
        raise ModelError(
            f"{repository} is gated: accept its licence at {page}, then log in with hf auth login or set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"The hub shows no model {repository}; check the name, or log in with hf auth login if it is private."
        ) from None
    except HFValidationError:
        raise UsageError(f"{repository} is not a model of the hub; name an id like owner/name.") from None
    except Exception as error:  # transport errors, whose types change with the library's version
        if _of_the_disk(error):
            paths.need_home(Path(constants.HF_HUB_CACHE), "keep models in", "set HOME or HF_HOME")
            raise OutputError(
                f"{repository} cannot be kept in {constants.HF_HUB_CACHE}: {error}; free some space, or set HF_HOME."
            ) from error
        cause = error.__cause__ or error  # the library wraps some
        if getattr(getattr(cause, "response", None), "status_code", None) in (401, 403):
            raise ModelError(
                f"The hub does not let you read {repository}; see {page}, then log in with hf auth login or set "
                "HF_TOKEN."
            ) from error
        raise ModelError(
            f"{repository} cannot be downloaded ({reason(cause)}); check the network and repeat the command: "
            "it goes on with the files that are missing."
        ) from error


def _of_the_disk(error: Exception) -> bool:
    """Whether an error comes from the disk: those of the library and of connections are OSErrors, too."""
    return (
        isinstance(error, OSError)
        and error.errno is not None
        and not isinstance(error, (ConnectionError, TimeoutError))
    )
