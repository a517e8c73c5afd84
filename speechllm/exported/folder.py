"""Open an exported folder that may have come from anywhere.

Nothing is believed before it is checked: names stay inside the folder, every
file has the size and the hash that the manifest says, no file is there that
it does not name, nothing may carry code, and what the configurations say is
held against the weights before a model of that size is built.
"""

import os
import re

from speechllm.exported.format import (
    AGAIN,
    BACKBONE,
    CARD,
    CODE,
    CONFIG,
    FORMAT,
    MANIFEST,
    TASK,
    TASKS,
    ExportError,
    TaskSettings,
    check_kind,
    file_hash,
    files_of,
    keys_of,
    path_parts,
    read_json,
)

NAME = re.compile(r"[A-Za-z]\w{0,63}")
# Left beside the files by git and by the hub's own client.
IGNORED = (".gitattributes", ".gitignore", ".cache/", ".git/", ".huggingface/")
MOST_FILES = 10_000


class ExportFolder:
    """An exported folder, checked."""

    def __init__(self, path, linked=False, verify=True):
        self.path = str(path)
        self.linked = linked
        if not os.path.isfile(os.path.join(self.path, MANIFEST)):
            raise ExportError(
                f"{self.path}: holds no {MANIFEST}, so it is no exported "
                "speech LLM: give a folder that `speechllm export` wrote"
            )
        self.manifest = self._manifest()
        self._check_files(verify)
        self.config = self.read_json(CONFIG)
        self._check_config()
        self.tasks = {
            name: TaskSettings.from_json(
                self.read_json(f"{TASKS}/{name}/{TASK}"),
                self.file(f"{TASKS}/{name}/{TASK}"),
            )
            for name in self.config["tasks"]
        }

    def file(self, relative):
        """A path inside the folder, checked to stay there (str)."""
        return os.path.join(self.path, *path_parts(relative, self.path))

    def read_json(self, relative):
        """A JSON file of the folder; refuses one that names code."""
        path = self.file(relative)
        content = read_json(path)
        found = sorted(keys_of(content) & CODE)
        if found:
            raise ExportError(
                f"{path}: {found[0]} would have code or kernels of others "
                "loaded, which is never done here: do not use this folder"
            )
        return content

    @property
    def backbone(self):
        """Folder of the backbone (str)."""
        return self.file(BACKBONE)

    @property
    def kept(self):
        """Old indices of the backbone's layers (tuple of int)."""
        return tuple(self.config["backbone"]["kept_layers"])

    def size(self):
        """Bytes of all files (int)."""
        return sum(one["bytes"] for one in self.manifest["files"].values())

    def below(self, folder):
        """Names of the files right in a folder of the export (list)."""
        start = folder.rstrip("/") + "/"
        return [
            name[len(start) :]
            for name in self.manifest["files"]
            if name.startswith(start) and "/" not in name[len(start) :]
        ]

    def _manifest(self):
        path = os.path.join(self.path, MANIFEST)
        content = read_json(path)
        files = content.get("files") if isinstance(content, dict) else None
        sound = isinstance(files, dict) and content.get("format") == FORMAT
        if not sound or len(files) > MOST_FILES:
            raise ExportError(
                f"{path}: is not a manifest of the form {FORMAT}: {AGAIN}, "
                "with a speechbrain_ext of the same age"
            )
        for name, entry in files.items():
            size = entry.get("bytes") if isinstance(entry, dict) else None
            if type(size) is not int or not isinstance(
                entry.get("sha256"), str
            ):
                raise ExportError(f"{path}: the entry {name!r:.80} is broken")
        return content

    def _check_files(self, verify):
        named = self.manifest["files"]
        for name in named:
            check_kind(name, self.path)
            self._check_file(name, named[name], verify)
        for name in files_of(self.path):
            known = name in named or name == MANIFEST
            if not known and not name.startswith(IGNORED):
                raise ExportError(
                    f"{os.path.join(self.path, name)}: is not in the "
                    "manifest: remove it, or export again"
                )
        for name in (CONFIG, CARD):
            if name not in named:
                raise ExportError(
                    f"{os.path.join(self.path, name)}: is not in the "
                    f"manifest: {AGAIN}"
                )

    def _check_file(self, name, entry, verify):
        path = self.file(name)
        if not os.path.isfile(path):
            raise ExportError(f"{path}: is missing: {AGAIN}")
        root = os.path.realpath(self.path) + os.sep
        if not self.linked and not os.path.realpath(path).startswith(root):
            raise ExportError(
                f"{path}: leads out of its folder: do not use this folder"
            )
        size = os.path.getsize(path)
        if size != entry["bytes"]:
            raise ExportError(
                f"{path}: has {size} bytes, not {entry['bytes']}: it was cut "
                f"short or changed: {AGAIN}"
            )
        if verify and file_hash(path) != entry["sha256"]:
            raise ExportError(
                f"{path}: its content is not what the manifest says: it was "
                f"changed or damaged: {AGAIN}"
            )

    def _check_config(self):
        path, config = self.file(CONFIG), self.config
        backbone = config.get("backbone") if isinstance(config, dict) else None
        if not isinstance(backbone, dict) or config.get("format") != FORMAT:
            raise ExportError(
                f"{path}: is not of the form {FORMAT}: give a folder that "
                "`speechllm export` wrote"
            )
        kept, tasks = backbone.get("kept_layers"), config.get("tasks")
        if not isinstance(kept, list) or not all(
            type(one) is int and 0 <= one < 10_000 for one in kept
        ):
            raise ExportError(f"{path}: kept_layers {kept!r:.80} cannot be")
        names = tasks if isinstance(tasks, list) else []
        if not names or not all(
            isinstance(name, str) and NAME.fullmatch(name) for name in names
        ):
            raise ExportError(f"{path}: tasks {tasks!r:.80} cannot be")
        if config.get("default_task") not in names:
            raise ExportError(
                f"{path}: default_task {config.get('default_task')!r:.80} is "
                "none of its tasks"
            )
