"""Put an export on a hub, after it was checked."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import HfHubHTTPError, validate_repo_id

from speechllm.exported.format import MANIFEST, ExportError, ExportFolder


def push(
    folder: str,
    repo_id: str,
    dry_run: bool = True,
    private: bool = True,
    revision: str | None = None,
) -> dict[str, Any]:
    """Upload an export, or tell what would be uploaded."""
    export = ExportFolder(folder)
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ExportError(f"{repo_id}: cannot be a repository: {error}") from (
            error
        )
    files = {n: e["bytes"] for n, e in export.manifest["files"].items()}
    report = {
        "repo_id": repo_id,
        "files": files,
        "bytes": export.size(),
        "uploaded": False,
        "url": None,
    }
    if dry_run:
        return report
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=export.path,
            # Exactly what was checked.
            allow_patterns=[*files, MANIFEST],
            revision=revision,
            commit_message="Upload a speech LLM",
        )
    except (HfHubHTTPError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise ExportError(
            f"{repo_id}: could not be uploaded ({line:.300}): log in with "
            "`hf auth login`, check the name and the network"
        ) from error
    return {**report, "uploaded": True, "url": str(done)}
