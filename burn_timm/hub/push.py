"""Upload of an export folder: exactly the files that an export writes, in one commit."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from ..checkpoints import load_model
from ..configs import read_config
from ..convert.write import origin_told
from ..errors import BurnError, one_line
from ..files import missing, read_json, write_json
from .card import HERE

_logger = logging.getLogger(__name__)

_NEEDED = ("config.json", "model.safetensors", "README.md")
_MORE = ("training.json", "curves.png")
# One of these, left from an earlier push, tells of other weights; timm's own push writes pytorch_model.bin.
_STALE = (*_MORE, "card.json", "pytorch_model.bin")
_ADVICE = re.compile(r" ?For more information check: \S+")  # of the HTTP library: what a status means
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")


def push_folder(
    folder: Path, repo: str, private: bool = False, overwrite: bool = False, record: Path | None = None,
) -> str:
    """Make the Hub repository `repo` hold the files of an export folder, in one commit; returns its address.

    Files go up byte for byte, but for a card that names no repository yet: it gets this one's name and load line.
    After a failure the same call completes the upload.

    Args:
        folder: Holds config.json, model.safetensors and README.md; other files than an export's stay at home.
        repo: OWNER/NAME, or NAME, which is the user's own.
        private: Make a new repository a private one.
        overwrite: The repository may hold files: replace those of the same names, and remove what an earlier export
            left there and this folder lacks. Files that no export writes stay.
        record: A file in which a run notes its last push. While that is the repository's last commit, the run may
            replace its own files without `overwrite`.

    Raises:
        BurnError: The folder is incomplete or damaged, or holds a link; the repository is not empty, or public although
            `private`; or the Hub refuses or cannot be reached. The folder stays as it is.
    """
    files, api = _files(folder), HfApi()
    with _one_line(repo, f"; burn-timm push {folder} {repo} completes it"):
        name = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
        held, sha = _look(api, name, private, overwrite, record)
        stale = {file for file in _STALE if overwrite and file in held and file not in files}
        if overwrite and "LICENSE" in held - files.keys():
            if origin_told(Path(api.hf_hub_download(name, "LICENSE", revision=sha)).parent):
                stale.add("LICENSE")  # that of converted weights must not stand beside others
        files["README.md"] = _named(files["README.md"], name, read_config(folder)["architecture"])
        api.create_repo(name, private=private, exist_ok=True)
        # Not upload_folder: it would read the card from the folder. Files that are there already are left out.
        operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=data) for file, data in files.items()]
        operations += [CommitOperationDelete(path_in_repo=file) for file in stale]
        commit = api.create_commit(
            name, operations, commit_message="Upload packed weights and card",
            parent_commit=sha if held else None,  # as it was looked at
        ).oid
        if left := sorted(held - files.keys() - stale):
            _logger.warning(f"{name}: of its other files, left alone {', '.join(left)}")
    if record is not None:
        write_json(record, {"repo": name, "commit": commit})
    return f"{api.endpoint}/{name}"


def _named(card: bytes, repo: str, architecture: str) -> bytes:
    """A card that was written before its repository was known, with name and load line; any other as it is."""
    if HERE.encode() not in card:
        return card
    text, name = card.decode(), repo.partition("/")[2]
    for start in ("\n# ", "\n- name: "):  # the title, and the name in the Hub's index of results
        text = text.replace(f"{start}{architecture}\n", f"{start}{name}\n")
    return text.replace(HERE, f"hf-hub:{repo}").encode()


def check_target(repo: str, record: Path | None = None) -> str:
    """OWNER/NAME of a repository that `push_folder` would fill; it need not exist.

    Raises:
        BurnError: It is not empty (but for what `record` notes), the token is missing or refused, or the Hub cannot be
            reached.
    """
    api = HfApi()
    with _one_line(repo):
        user = api.whoami()["name"]  # asked even for OWNER/NAME: without a token the Hub says only "no such repository"
        name = repo if "/" in repo else f"{user}/{repo}"
        _look(api, name, private=False, overwrite=False, record=record)
    return name


@contextlib.contextmanager
def _one_line(repo: str, remedy: str = "") -> Iterator[None]:
    try:
        yield
    except BurnError:
        raise
    except Exception as error:  # the Hub's own errors, and those of whichever HTTP library it uses
        raise BurnError(f"{repo}: {_reason(error)}{remedy}") from error


def _reason(error: BaseException) -> str:
    """What an error of the Hub's client says, in one line, without tokens and the signatures of upload addresses."""
    said = _QUERY.sub(r"\1", _ADVICE.sub("", one_line(error, limit=600))).rstrip(".;")
    if type(error) is RuntimeError and error.__cause__ is not None:  # of a large file: only which, not why
        return f"{said}: {_reason(error.__cause__)}"
    return said


def _files(folder: Path) -> dict[str, bytes]:
    """Content by name of the files that an export writes; the network in them must load."""
    if not folder.is_dir():
        raise BurnError(f"{folder}: no such folder; expected the export folder of a run")
    for name in _NEEDED:
        if not (folder / name).is_file():
            error = missing(folder / name)
            no_card = name == "README.md" and not (folder / "export").exists()
            raise BurnError(f"{error}; burn-timm card {folder} writes it") if no_card else error
    names = [name for name in (*_NEEDED, "LICENSE", *_MORE) if (folder / name).exists()]
    for name in names:
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise BurnError(f"{folder / name}: a link or no file; put a copy of the file there")
    if others := sorted(path.name for path in folder.iterdir() if path.name not in names and path.name[0] != "."):
        _logger.warning(f"{folder}: not pushed, for no export writes it: {', '.join(others)}")
    load_model(f"local-dir:{folder}")  # damaged files and another network's config.json stay here
    return {name: (folder / name).read_bytes() for name in names}


def _look(api: HfApi, name: str, private: bool, overwrite: bool, record: Path | None) -> tuple[set[str], str | None]:
    """The files of a repository, none where there is none, and its last commit.

    Raises:
        BurnError: It is public although `private`; or it has files, unless `overwrite`, or its last commit is the push
            that `record` notes.
    """
    try:
        info = api.model_info(name)
    except RepositoryNotFoundError:
        return set(), None
    if private and not info.private:
        raise BurnError(f"{name}: is public, and --private only makes new repositories private; change its settings")
    held = {file.rfilename for file in info.siblings or []} - {".gitattributes"}  # which the Hub puts into each
    if held and not overwrite and _noted(record) != {"repo": name, "commit": info.sha}:
        some = ", ".join(sorted(held)[:3]) + (", ..." if len(held) > 3 else "")
        raise BurnError(f"{name}: holds files already ({some}); name another repository, or burn-timm push --yes")
    return held, info.sha


def _noted(record: Path | None) -> dict | None:
    try:
        return read_json(record) if record else None
    except BurnError:
        return None  # nothing is known: as if somebody else had filled the repository
