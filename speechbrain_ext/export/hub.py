"""Put an export on a hub, after it was checked.

Authors
 * The speechbrain_ext authors, 2026
"""

from huggingface_hub import HfApi
from huggingface_hub.utils import HfHubHTTPError, validate_repo_id

from speechbrain_ext.export.folder import ExportFolder
from speechbrain_ext.export.layout import MANIFEST, ExportError


def push(folder, repo_id, dry_run=True, private=True, revision=None):
    """Upload an export, or tell what would be uploaded.

    Arguments
    ---------
    folder : str
        A folder that `export_runs` wrote; every hash is compared first.
    repo_id : str
        Such as "someone/speech-llm"; made where it does not exist.
    dry_run : bool
        Upload nothing.
    private : bool
        A repository that is made is private.
    revision : str or None
        Branch to upload to.

    Returns
    -------
    dict
        repo_id, files (name to bytes), bytes, uploaded (bool), url.

    Raises
    ------
    ExportError
        If the folder is not sound, the name is none, or the hub refuses.
    """
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
