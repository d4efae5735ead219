"""Checkpoints on the Hugging Face hub: `hf:owner/name`, or `hf:owner/name@revision`, down and up."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from solfa.core.errors import UserError

PREFIX = "hf:"
NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
FILES = ["*.json", "*.safetensors", "*.md", "*.txt", "*.yaml"]  # of a checkpoint folder; code is never fetched

CARD = """---
library_name: solfa
---

# {name}

A checkpoint of solfa, read by `from_pretrained("hf:{repo}")`.
"""


def download(name: str) -> Path:
    """`hf:owner/name`, perhaps with `@revision` -> the folder in the hub's cache.

    Raises: UserError for another form of name, and where the hub cannot be reached or has no such repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    form = NAME.fullmatch(name)
    if form is None:
        raise UserError(f"{name!r} is no name on the hub: write hf:owner/name, or hf:owner/name@revision")
    try:
        return Path(snapshot_download(form[1], revision=form[2], allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise UserError(f"checkpoint {name!r} cannot be fetched from the hub ({type(e).__name__})") from e


def push(
    save: Callable[[Path], None],
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload with solfa",
) -> str:
    """Upload what `save` writes into a folder; -> the address of the commit.

    Args:
        save: a model's `save_pretrained`.
        repo_id: `owner/name`, with or without `hf:`; made if it does not exist.
        private: whether a new repository is; None is the owner's default.
        token: default is the one that `hf auth login` stored.

    Raises: UserError with the hub's reason, such as no token, no right to write, no network.
    """
    from huggingface_hub import HfApi

    repo = repo_id.removeprefix(PREFIX)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        card = Path(folder) / "README.md"
        if not card.exists():
            card.write_text(CARD.format(name=repo.rpartition("/")[2], repo=repo), encoding="utf-8")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=commit_message))
        except Exception as e:  # the hub's errors, and those of the HTTP library below it, which is not always the same
            reason = str(e).strip().partition("\n")[0] or type(e).__name__
            raise UserError(f"{repo} could not be uploaded to the hub: {reason}") from e
