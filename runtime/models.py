"""Where a model's files lie, and the digest that pins them. Imports no torch.

The digest covers exactly the files that determine the function: configuration, safetensors weights, tokenizer. Hub
metadata, READMEs and other formats of the same weights are left out, so that a hub snapshot and a plain copy agree.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from privacy.canonical import canonical_json, digest
from privacy.errors import ConfigError, VerificationError

WEIGHTS_LABEL = "cloister/v1/weights"
_TOP = re.compile(
    r"config\.json|generation_config\.json|preprocessor_config\.json|modules\.json|sentence_bert_config\.json"
    r"|config_sentence_transformers\.json|.*\.safetensors|.*\.safetensors\.index\.json"
    r"|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|spiece\.model|.*\.spm|.*\.tiktoken"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.tiktoken"]


def resolve_model(source: str, revision: str | None, folders: Mapping[str, Path], hub: Collection[str] = ()) -> Path:
    """The local folder with the model that a plan names, as far as this machine's operator allows.

    `source` was written by somebody else: it is a name in `folders` (the configuration's [models]), or one of the
    Hugging Face hub ids in `hub` (its [models_hub] allow), which may be fetched at the plan's `revision`, a commit
    hash. It is never read as a path, and nothing else is fetched. Raises ConfigError when there is no such model, it
    cannot be fetched, or it holds no safetensors weights.
    """
    if source in folders:
        return _mapped(source, folders[source])
    if source in hub:
        return _checked(_from_hub(source, revision))
    raise ConfigError(
        f"model {source!r}",
        "no folder on this machine is mapped to it, and it is not among the hub models that may be fetched",
        f"Name its folder under [models.{json.dumps(source)}] in silo.toml, or list it in models_hub.allow;"
        " the agent reads silo.toml when it starts.",
    )


def find_model(source: str, revision: str | None, folders: Mapping[str, Path] | None = None) -> Path:
    """The local folder with a model that the person at this machine names: for a coordinator's own job file.

    As `resolve_model`, but `source` may also be the path of a folder or any hub id. Never for what a plan names.
    """
    if folders is not None and source in folders:
        return _mapped(source, folders[source])
    local = Path(source).expanduser()
    if local.is_dir():
        return _checked(local)
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ConfigError(f"model {source!r}", f"there is no folder {local}", "Correct the job file's model.source.")
    return _checked(_from_hub(source, revision))


def weights_digest(folder: Path) -> str:
    """Hex SHA-256, labelled, over the sorted relative names and SHA-256 digests of the files that determine the model.

    Raises ConfigError when the folder is missing, or holds no config.json or no safetensors weights.
    """
    _checked(folder)
    files = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    listed = {name: _sha256(path) for name, path in files if _determines(name)}
    return digest(WEIGHTS_LABEL, canonical_json(listed)).hex()


def check_weights(folder: Path, expected: str) -> None:
    """Raises VerificationError unless the folder's digest is what the plan pins."""
    found = weights_digest(folder)
    if found != expected:
        raise VerificationError(
            f"model in {folder}",
            f"its digest is {found[:16]}... and the plan pins {expected[:16]}...",
            "Fetch the revision that the plan names; nothing was trained.",
        )


def _determines(name: str) -> bool:
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return False
    if len(parts) > 1:  # sentence-transformers' modules, such as 1_Pooling/config.json
        return bool(re.fullmatch(r"\d+_\w+", parts[0])) and parts[-1].endswith((".json", ".safetensors"))
    return _TOP.fullmatch(name) is not None


def _mapped(source: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(
            f"model {source!r}",
            f"there is no folder {folder}",
            "Correct its path: in [models] of silo.toml, or --model-folder.",
        )
    return _checked(folder)


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model folder {folder}", "holds no config.json", "Name the folder of a Hugging Face model.")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        why = "holds no safetensors weights"
        if pickled:
            why = f"holds its weights in {pickled[0]}, a pickle, which could run code when it is loaded"
        raise ConfigError(
            f"model folder {folder}", why, "Convert it with `save_pretrained(..., safe_serialization=True)`."
        )
    return folder


def _from_hub(source: str, revision: str | None) -> Path:
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"model {source!r}",
            "a hub model needs the hash of a commit as its revision, since what a name stands for can change",
            "Give its 40 hex digits as the job file's model.revision, or its folder: --model-folder, or in silo.toml.",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(source, revision=revision, allow_patterns=[*_WANTED, "vocab.*"])
    except HFValidationError as error:
        raise ConfigError(
            f"model {source!r}", "is neither a folder nor a hub id", "Correct the job's model."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"model {source!r} at revision {revision}",
            f"is not in the local cache and cannot be fetched ({type(error).__name__})",
            "Copy its folder to this machine and map the name to it in [models], or allow access to the hub.",
        ) from error
    return Path(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
