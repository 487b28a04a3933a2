"""Upload of an export folder, byte for byte: what was packed stays packed."""

import hashlib
import json
import logging
import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import RepositoryNotFoundError

from ..checkpoints import read_state_dict
from ..errors import BurnError, one_line
from ..files import atomic_write
from .card import HERE
from .metadata import card_errors

_logger = logging.getLogger(__name__)

NEEDED = ("config.json", "model.safetensors", "README.md")
# What exports hold beside those, and the weights that timm's own push writes: one left behind tells of other weights.
_ONCE_PUSHED = ("training.json", "card.json", "curves.png", "pytorch_model.bin")
_ADVICE = re.compile(r" ?For more information check: \S+")  # of the HTTP library: what a status means
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")


def push_folder(
    folder: Path, repo: str, private: bool = False, overwrite: bool = False, record: Path | None = None,
) -> str:
    """Make the Hub repository `repo` hold the files of an export folder, in one commit; returns its address.

    Nothing is uploaded where it holds them already. After a failure the same call completes the upload.

    Args:
        folder: Holds config.json, model.safetensors and README.md. Hidden files in it stay at home.
        repo: OWNER/NAME, or NAME, which is the user's own.
        private: Make a new repository a private one.
        overwrite: Replace files of the same names in a repository that has others, and remove what an earlier export
            left there and this folder lacks; files that no export writes stay.
        record: A file of the run, which notes its own last push; what is still as that left it may be replaced.

    Raises:
        BurnError: The folder is incomplete or damaged, its card breaks the Hub's rules, the repository is not empty,
            public although `private`, or the Hub refuses or cannot be reached. The folder stays as it is.
    """
    files = _files(folder)
    _check_card(folder, files["README.md"])
    api = HfApi()
    try:
        name = full_name(repo, api)
        info = _look(name, api, private)
        if HERE.encode() in files["README.md"]:  # uploaded as it is all the same: what is pushed are the folder's bytes
            advice = f"write hf-hub:{name} there and push again with --yes"
            _logger.warning(f"{folder / 'README.md'}: its usage says {HERE}, which only you have; {advice}")
        others = sorted(_held(info).keys() - files.keys()) if info is not None else []
        stale = [file for file in others if file in _ONCE_PUSHED]
        if info is not None and _holds(info, files) and not (stale and overwrite):
            _logger.info(f"{name} holds these files already")
            commit = info.sha
        else:
            if info is not None and not overwrite:
                _require_free(name, info, record)
            api.create_repo(name, private=private, exist_ok=True)
            operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=data) for file, data in files.items()]
            operations += [CommitOperationDelete(path_in_repo=file) for file in stale]
            commit = api.create_commit(
                name, operations, commit_message="Upload packed weights and card",
                parent_commit=info.sha if info is not None and _held(info) else None,  # as it was looked at
            ).oid
            if others:
                left = [file for file in others if file not in stale]
                removed, left = (", ".join(files) or "nothing" for files in (stale, left))
                _logger.warning(f"{name}: of its other files, removed {removed}; left alone {left}")
    except BurnError:
        raise
    except Exception as error:  # the hub's own errors, and those of whichever HTTP library it uses
        raise BurnError(f"{repo}: {reason(error)}; burn-timm push {folder} {repo} completes it") from error
    if record is not None:
        with atomic_write(record) as beside:
            beside.write_text(json.dumps({"repo": name, "commit": commit}) + "\n")
    return f"{api.endpoint}/{name}"


def check_target(repo: str, record: Path | None = None) -> str:
    """OWNER/NAME of a repository that `push_folder` would fill; it need not exist.

    Raises:
        BurnError: It is not empty (but for what `record` notes), the token is missing or refused, or the Hub cannot be
            reached.
    """
    api = HfApi()
    try:
        user = api.whoami()["name"]  # asked even for OWNER/NAME: without a token the Hub says only "no such repository"
        name = repo if "/" in repo else f"{user}/{repo}"
        info = _look(name, api, private=False)
        if info is not None:
            _require_free(name, info, record)
    except BurnError:
        raise
    except Exception as error:
        raise BurnError(f"{repo}: {reason(error)}") from error
    return name


def full_name(repo: str, api: HfApi) -> str:
    return repo if "/" in repo else f"{api.whoami()['name']}/{repo}"


def reason(error: Exception) -> str:
    """What an error of the Hub's client says, in one line, without tokens and the signatures of upload addresses."""
    said = _QUERY.sub(r"\1", _ADVICE.sub("", one_line(error, limit=600))).rstrip(".;")
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):  # of a large file: only which, not why
        return f"{said}: {reason(error.__cause__)}"
    return said


def _files(folder: Path) -> dict[str, bytes]:
    """Content of the folder's files by their paths in the repository."""
    if not folder.is_dir():
        raise BurnError(f"{folder}: no such folder; expected the export folder of a run")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        advice = "expected an export folder"
        if (folder / "export" / "model.safetensors").is_file():
            advice = f"is it {folder / 'export'}?"
        elif missing == ["README.md"]:
            advice = f"burn-timm card {folder} writes it"
        raise BurnError(f"{folder}: has no {missing[0]}; {advice}")
    read_state_dict(folder / "model.safetensors")  # a truncated or altered file stays here
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path.read_bytes() for name, path in paths.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _check_card(folder: Path, card: bytes) -> None:
    """Raise BurnError where the Hub would refuse the card: it would say so only after the repository is made."""
    try:
        errors = card_errors(card.decode())
    except UnicodeDecodeError:
        errors = ["not text in UTF-8"]
    if errors:
        raise BurnError(f"{folder / 'README.md'}: {errors[0]}; correct it there, or burn-timm card writes a new one")


def _look(name: str, api: HfApi, private: bool) -> ModelInfo | None:
    """The repository as it is, None where there is none; BurnError where it is public although `private`."""
    try:
        info = api.model_info(name, files_metadata=True)
    except RepositoryNotFoundError:
        return None
    if private and not info.private:
        raise BurnError(f"{name}: is public, and --private only makes new repositories private; change its settings")
    return info


def _held(info: ModelInfo) -> dict:
    """Its files by name, without the one that the Hub puts into every repository."""
    return {file.rfilename: file for file in info.siblings or [] if file.rfilename != ".gitattributes"}


def _holds(info: ModelInfo, files: dict[str, bytes]) -> bool:
    held = _held(info)
    return all(file in held and _is_same(held[file], data) for file, data in files.items())


def _require_free(name: str, info: ModelInfo, record: Path | None) -> None:
    """Raise BurnError where the repository has files, unless its last commit is the push that `record` notes."""
    held = sorted(_held(info))
    if not held:
        return
    try:
        if record is not None and json.loads(record.read_text()) == {"repo": name, "commit": info.sha}:
            return
    except (OSError, ValueError):
        pass  # nothing is known: as if somebody else had filled it
    some = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
    raise BurnError(f"{name}: holds files already ({some}); name another repository, or burn-timm push --yes")


def _is_same(held, data: bytes) -> bool:
    """The Hub names large files by SHA-256 and small ones as git does."""
    if held.lfs is not None:
        return held.lfs.sha256 == hashlib.sha256(data).hexdigest()
    return held.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
