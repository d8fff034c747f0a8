"""Loading weights strictly: from a hub, from a file, or random because it was asked for."""

import hashlib
import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.errors import RequestError

RANDOM_SEED = 0


@dataclass(frozen=True)
class Weights:
    """Where weights come from.

    Args:
        source: ``loaded`` (from a hub or a file), ``random``, ``generated`` (the method's own), ``none``.
        sha256: digest of names and values, the same whatever file they came in; None without weights.
        origin: hub name or path, recorded but not compared.
    """

    source: str
    sha256: str | None = None
    origin: str | None = None


NO_WEIGHTS = Weights("none")


def digest_state(state: Mapping[str, Tensor]) -> str:
    """sha256 over the names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def random_module(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module with its own initialisation from a fixed seed, leaving the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return make()


def load_weights(
    module: nn.Module,
    weights: str,
    *,
    hub: Callable[[], Mapping[str, Tensor]],
    hub_name: str,
    may_miss: Collection[str] = (),
    unused: Collection[str] = (),
) -> Weights:
    """Fill a module as ``--weights`` asks: ``random`` keeps it, ``pretrained`` asks the hub, else a path.

    Args:
        module: made by `random_module`.
        weights: ``pretrained``, ``random`` or the path of a ``.pt``, ``.pth`` or ``.safetensors`` file.
        hub: fetches the published state.
        hub_name: what to fetch by hand when the hub cannot be reached.
        may_miss: keys that the published files are known to lack, and whose initial values are neutral.
        unused: keys, or prefixes ending in ``.``, of published files that the encoder has no use for.

    Raises:
        RequestError: no such file, not weights, keys that are missing or unexpected, or no network.
    """
    if weights == "random":
        return Weights("random", digest_state(module.state_dict()), f"seed {RANDOM_SEED}")
    if weights == "pretrained":
        try:
            state, origin = hub(), hub_name
        except (OSError, RuntimeError) as error:
            raise RequestError(
                f"cannot fetch {hub_name} ({_first_line(error)}); fetch it on a machine with network and pass it "
                "with --weights PATH, or ask for untrained weights with --weights random"
            ) from error
    else:
        state, origin = read_state(Path(weights)), weights
    load_strictly(module, state, origin, may_miss, unused)
    return Weights("loaded", digest_state(module.state_dict()), origin)


def load_strictly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    origin: str,
    may_miss: Collection[str] = (),
    unused: Collection[str] = (),
) -> None:
    """Load a state in which every key and shape must match, save those known to be absent or unused.

    Raises:
        RequestError: with the names of the keys that do not.
    """
    own = module.state_dict()
    prefixes = tuple(key for key in unused if key.endswith("."))
    state = {key: value for key, value in state.items() if key not in unused and not key.startswith(prefixes)}
    missing = sorted(own.keys() - state.keys() - set(may_miss))
    unexpected = sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(shapes)))
        if keys
    ]
    if problems:
        raise RequestError(f"{origin} does not fit this model: keys {'; '.join(problems)}; check --variant")
    module.load_state_dict(dict(state), strict=False)  # strictness was settled above


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of weights without running code in it.

    Raises:
        RequestError: absent, damaged, or a pickle with more in it than tensors.
    """
    if not path.is_file():
        raise RequestError(f"--weights {path}: no such file; use pretrained, random or the path of a weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # deferred: not needed for other files

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise RequestError(
            f"--weights {path}: not a file of plain tensors ({_first_line(error)}); refusing to run code from it"
        ) from error
    except Exception as error:  # safetensors' and torch's readers raise many kinds for a damaged file
        raise RequestError(f"--weights {path}: not readable as weights ({_first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"--weights {path}: expected a dictionary of tensors (a state_dict)")
    return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
