"""Loading weights strictly: from a hub, its cache, a folder or a file, or random because it was asked for."""

import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import RequestError
from data.files import sha256_of_file
from featurize.checkpoints import check_dinov2, dinov2_layout, dinov2_names, unwrapped

RANDOM_SEED = 0
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Where the hub's repositories and folders saved from transformers keep their weights, first found.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
CONNECT_TIMEOUT_S = 10
# Keys under which training scripts keep the state; of DINO's two networks the teacher is the one that is used.
WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher")


@dataclass(frozen=True)
class Weights:
    """Where weights come from."""

    source: str  # ``loaded`` (from a hub or a file), ``random``, ``generated`` (the method's own), ``none``
    # digest of names and values, independent of the file they came from; None without weights
    sha256: str | None = None
    origin: str | None = None  # hub name or path, recorded but not compared


NO_WEIGHTS = Weights("none")


class NotOnHub(RequestError):
    """A repository that the hub can be asked about does not hold this file."""


def digest_state(state: Mapping[str, Tensor]) -> str:
    """sha256 over the names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def random_module(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module with its own initialization from a fixed seed; the global generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return make()


def random_weights(module: nn.Module) -> Weights:
    """The record of a module made by `random_module`."""
    return Weights("random", digest_state(module.state_dict()), f"seed {RANDOM_SEED}")


def made_with_weights(
    weights: str,
    make: Callable[[], nn.Module],
    published: Callable[[], tuple[dict[str, Tensor], str]],
    fit: Callable[[dict[str, Tensor], str], Any],
) -> tuple[Any, Weights]:
    """A model as ``--weights`` asks: ``random``, ``pretrained``, or with the weights at a path.

    Args:
        weights: what was asked.
        make: makes an untrained model.
        published: fetches the published state and says what to call it.
        fit: makes the model of a state and its name.
    """
    if weights == "random":
        model = random_module(make)
        return model, random_weights(model)
    state, origin = published() if weights == "pretrained" else (read_state(Path(weights)), weights)
    model = fit(state, origin)
    return model, Weights("loaded", digest_state(model.state_dict()), origin)


# ---------------------------------------------------------------------------------------------- strict loading


def load_weights(
    module: nn.Module,
    weights: str,
    *,
    hub_name: str,
    file: Callable[[], Path] | None = None,
    may_miss: Collection[str] = (),
    unused: Collection[str] = (),
) -> Weights:
    """Fill a module as ``--weights`` asks: ``random`` keeps it, ``pretrained`` asks the hub, else a path.

    Args:
        module: made by `random_module`.
        weights: ``pretrained``, ``random``, or the path of a file of weights or of a folder that holds one.
        hub_name: URL of the published file, or its name where `file` fetches it.
        file: fetches the published file; None means from the URL.
        may_miss: keys that the published files are known to lack, and whose initial values are neutral.
        unused: keys, or prefixes ending in ``.``, of published files that the encoder does not use.

    Raises:
        RequestError: no such file, not weights, keys that are missing or unexpected, or no network.
    """
    if weights == "random":
        return random_weights(module)
    origin = hub_name if weights == "pretrained" else weights
    path = Path(weights) if weights != "pretrained" else file() if file else url_file(hub_name)
    state = unwrapped(read_state(path), module.state_dict().keys(), origin)
    load_strictly(module, state, origin, may_miss, unused)
    return Weights("loaded", digest_state(module.state_dict()), origin)


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    origin: str,
    may_miss: Collection[str] = (),
    unused: Collection[str] = (),
) -> None:
    """Load a state in which every key and shape must match, save those known to be absent or unused."""
    own = module.state_dict()
    state = {key: value for key, value in state.items() if not _listed(key, unused)}
    check_keys(
        origin,
        missing=own.keys() - state.keys() - set(may_miss),
        unexpected=state.keys() - own.keys(),
        shapes=[key for key in own.keys() & state.keys() if own[key].shape != state[key].shape],
    )
    module.load_state_dict(dict(state), strict=False)  # strictness was settled above


def load_transformers(
    model_class: Any,
    config: Any,
    state: dict[str, Tensor],
    origin: str,
    *,
    may_miss: Collection[str] = (),
    unused: Collection[str] = (),
) -> nn.Module:
    """A model of transformers with a published state, which its own loader reads: it knows the layouts of files.

    Args:
        model_class: such as ``Dinov2Model``; a state of the same model with a head on top fits too.
        config: of the architecture.
        state: as published.
        origin: what to call it in messages.
        may_miss: keys, or prefixes ending in ``.``, that may be absent; the caller drops what they would fill.
        unused: keys, or prefixes ending in ``.``, that the model does not use, such as a head's.
    """
    from transformers.utils import logging  # deferred: most models do not need it

    with torch.device("meta"):
        names = set(model_class(config).state_dict())
    if config.model_type.startswith("dinov2"):
        state = dinov2_layout(unwrapped(state, dinov2_names(names), origin))
        state = unwrapped(state, names, origin)
        check_dinov2(state, origin, width=config.hidden_size, registers=hasattr(config, "num_register_tokens"))
    else:
        state = unwrapped(state, names, origin)
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of the keys says less than `check_keys`
    logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # settled below, with names
        )
    finally:
        logging.set_verbosity(before)
    check_keys(
        origin,
        missing=[key for key in info["missing_keys"] if not _listed(key, may_miss)],
        unexpected=[key for key in info["unexpected_keys"] if not _listed(key, unused)],
        shapes=[key for key, *_ in info["mismatched_keys"]],
    )
    return model


def check_keys(origin: str, *, missing: Collection[str], unexpected: Collection[str], shapes: Collection[str]) -> None:
    """Raise a RequestError with the first names of each kind, if there are any."""
    problems = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:4])}{', ...' if len(keys) > 4 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise RequestError(
            f"{origin} does not fit this model: keys {'; '.join(problems)}; check --model, --variant and --bands"
        )


def _listed(key: str, names: Collection[str]) -> bool:
    return key in names or key.startswith(tuple(name for name in names if name.endswith(".")))


# ---------------------------------------------------------------------------------------------- reading files


def read_state(path: Path) -> dict[str, Tensor]:
    """Read weights without running code in them.

    Args:
        path: a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file, or a folder that holds one (or its shards).

    Raises:
        RequestError: absent, damaged, or a pickle with more in it than tensors.
    """
    if path.is_dir():
        path = _file_in(path)
    if not path.is_file():
        raise RequestError(
            f"--weights {path}: no such file; use pretrained, random, or the path of a weights file or its folder"
        )
    if path.name.endswith(".index.json"):
        return {name: value for shard in _shards(path) for name, value in read_state(path.parent / shard).items()}
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            raise RequestError(f"{path} is a Git LFS pointer, not the weights; fetch the file itself (git lfs pull)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # deferred: not needed for other files

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of old pickles: they load, or the error below says enough
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise RequestError(
            f"{path} is not a file of plain tensors ({first_line(error)}); refusing to run code from it"
        ) from error
    except Exception as error:  # safetensors' and torch's readers raise many kinds for a damaged file
        raise RequestError(
            f"{path} is not readable as weights ({first_line(error)}); it is damaged or cut short: download it again"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if isinstance(state, dict):
        state = _flat(state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"{path} holds no weights: expected a dictionary of tensors (a state_dict)")
    return state


def _flat(state: dict[str, Any]) -> dict[str, Any]:
    """States of a model's parts under one dictionary (CROMA's files), as one state with dotted keys."""
    return {
        f"{part}.{key}" if isinstance(inner, dict) else part: value
        for part, inner in state.items()
        for key, value in (inner.items() if isinstance(inner, dict) else [("", inner)])
    }


def _file_in(folder: Path) -> Path:
    """The file of weights in a folder: of a usual name, or the only one."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise RequestError(
            f"--weights {folder}: expected {FILES[0]} or a single weights file in this folder, found {names}"
        )
    return found[0]


def _shards(index: Path) -> list[str]:
    """Names of the files that an index says the weights are spread over."""
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise RequestError(f"{index} is not readable as an index of weights ({first_line(error)})") from error


# ---------------------------------------------------------------------------------------------- the hub


def hub_state(repository: str) -> tuple[dict[str, Tensor], str]:
    """Published weights of a repository of the Hugging Face hub, from its cache where it has them, and their name."""
    absent: NotOnHub | None = None
    for name in sorted(FILES, key=lambda name: cached_file(repository, name) is None):
        try:
            path = hub_file(repository, name)
        except NotOnHub as error:
            absent = absent or error
            continue
        if name.endswith(".index.json"):
            for shard in _shards(path):
                hub_file(repository, shard)
        return read_state(path), f"{repository}/{name}"
    assert absent is not None
    raise absent


def cached_file(repository: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a repository where the hub's cache (``HF_HOME``) has it."""
    from huggingface_hub import errors, hf_hub_download  # deferred, with its HTTP client

    try:
        return Path(hf_hub_download(repository, name, revision=revision, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None
    except errors.HFValidationError as error:
        raise RequestError(f"'{repository}' is neither a folder nor a repository name ({error})") from error


def hub_file(repository: str, name: str, revision: str | None = None, *, remedy: str | None = None) -> Path:
    """A file of a repository of the Hugging Face hub: from the cache (``HF_HOME``), else fetched into it.

    The cache is tried first, so that no network is needed. ``HF_HUB_OFFLINE=1`` allows nothing else.

    Args:
        repository: such as ``facebook/dinov2-base``.
        name: the file's path in it.
        revision: branch or commit; None means the main branch.
        remedy: what the error says to do with a file fetched by hand; None means ``--weights``.

    Raises:
        NotOnHub: no such repository or file.
        RequestError: no network; the message names the URL and what to do with the file.
    """
    import huggingface_hub as hub  # deferred, with its HTTP client
    from huggingface_hub import constants, errors

    if path := cached_file(repository, name, revision):
        return path
    url = hub.hf_hub_url(repository, name, revision=revision)
    if constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise unreachable(url, f"HF_HUB_OFFLINE is set and the file is not in {constants.HF_HUB_CACHE}", remedy)
    try:
        # Asked once by itself: the download below tries again and again for half a minute without network.
        hub.get_hf_file_metadata(url, timeout=CONNECT_TIMEOUT_S)
        return Path(hub.hf_hub_download(repository, name, revision=revision))
    except errors.GatedRepoError as error:
        raise RequestError(f"{url} is gated: accept its terms on the hub and log in (hf auth login)") from error
    except errors.RepositoryNotFoundError as error:
        raise NotOnHub(f"the hub has no repository '{repository}', or it is private: check the name") from error
    except errors.EntryNotFoundError as error:
        raise NotOnHub(f"the hub's repository {repository} has no {name}; check the name") from error
    except Exception as error:  # whatever its HTTP client raises without network
        raise unreachable(url, f"{first_line(error)}; not in {constants.HF_HUB_CACHE} either", remedy) from error


def url_file(url: str) -> Path:
    """The file at a URL, by way of a cache: the Hugging Face hub's where it is there, else torch.hub's.

    Raises:
        RequestError: no network, or other contents than the hash in its name says.
    """
    on_hub = re.fullmatch(r"https://(?:hf\.co|huggingface\.co)/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url)
    name = url.rpartition("/")[2]
    kept = Path(torch.hub.get_dir()) / "checkpoints" / name  # where torchgeo and torchvision keep what they fetch
    if kept.is_file():
        path = kept
    elif on_hub:
        repository, revision, inside = on_hub.groups()
        path = hub_file(repository, inside, revision)
    else:
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True, file_name=name)
        except (OSError, RuntimeError) as error:
            raise unreachable(url, first_line(error)) from error
        path = kept
    check_hash(path, name)
    return path


def check_hash(path: Path, name: str) -> None:
    """Raise a RequestError unless a file has the sha256 in its published name (``model-1a2b3c4d.pth``), if any."""
    marked = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if marked and not (found := sha256_of_file(path)).startswith(marked[1]):
        raise RequestError(f"{path} is damaged: its sha256 begins {found[:8]}, not {marked[1][:8]}; delete it")


def unreachable(url: str, why: str, remedy: str | None = None) -> RequestError:
    """The error for a published file that can neither be downloaded nor found in a cache."""
    name = url.rpartition("/")[2] or "FILE"
    remedy = remedy or f"copy it to this machine and pass it with --weights PATH/{name}"
    return RequestError(
        f"cannot download {url} ({why}); download it on a machine with network access, {remedy}, or use "
        "untrained weights with --weights random"
    )


def first_line(error: Exception) -> str:
    """An error's message, or its kind where it has none, for use inside another message."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
