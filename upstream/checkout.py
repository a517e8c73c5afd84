"""A checkout of SpeechBrain: what is committed, what stands there, writing.

What was written is noted in the checkout's git folder, so that a second run
knows its own files from a person's changes.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path

NOTE = "speech_llm_upstream.json"


class CheckoutError(ValueError):
    """Why nothing can be laid over that folder."""


class Checkout:
    """A checkout, and what was laid over it."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        inside = self.folder / "tests" / "consistency"
        if not inside.is_dir() or not (self.folder / ".git").exists():
            raise CheckoutError(
                f"SPEECHBRAIN: {folder}, no checkout of SpeechBrain's sources: "
                "git clone https://github.com/speechbrain/speechbrain"
            )
        git_folder = self.git("rev-parse", "--absolute-git-dir").strip()
        self.note = Path(git_folder) / NOTE

    def git(self, *words, given=None, fine=(0,)):
        """Run git there; gives what it printed (str)."""
        done = subprocess.run(
            ["git", *words],
            cwd=self.folder,
            input=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        if done.returncode not in fine:
            raise CheckoutError(f"git {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def version(self):
        """The commit and its date (str)."""
        return self.git("log", "-1", "--format=%h of %cs").strip()

    def committed(self, path):
        """The text committed at a path; empty where there is none (str)."""
        try:
            return self.git("show", f"HEAD:{path}")
        except CheckoutError:
            return ""

    def written(self):
        """What the last run wrote: path to fingerprint (dict)."""
        if not self.note.is_file():
            return {}
        return json.loads(self.note.read_text("utf-8"))

    def changed(self):
        """Paths that are not as committed, nor as the last run left them."""
        status = self.git(
            "status", "--porcelain", "-z", "--untracked-files=all"
        )
        paths = [entry[3:] for entry in status.split("\0") if entry]
        ours = self.written()
        return [p for p in paths if ours.get(p) != fingerprint(self.folder / p)]

    def refuse_dirty(self):
        """Stop where a person's changes would be mixed with ours."""
        changed = self.changed()
        if changed:
            shown = ", ".join(changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise CheckoutError(
                f"SPEECHBRAIN: {self.folder} has changes of its own ({shown}"
                f"{more}): commit or stash them, or take a fresh checkout"
            )

    def refuse_ignored(self, files):
        """Stop where git would leave a file out of a pull request in silence."""
        words = "check-ignore", "--stdin", "-z"
        # 1 says that there is none.
        said = self.git(*words, given="\0".join(files), fine=(0, 1))
        ignored = [path for path in said.split("\0") if path]
        if ignored:
            raise CheckoutError(
                f"SPEECHBRAIN: {self.folder}'s .gitignore passes over "
                f"{', '.join(ignored[:5])} ({len(ignored)} files): give them "
                "another name"
            )

    def news(self, files):
        """What writing a plan would do."""
        told = {}
        for path, planned in files.items():
            there = self.folder / path
            if not os.path.lexists(there):
                told[path] = "new"
            else:
                same = fingerprint(there) == planned_fingerprint(planned)
                told[path] = "same" if same else "changed"
        for path in self.written():
            if path not in files and os.path.lexists(self.folder / path):
                told[path] = "gone"
        return told

    def write(self, files):
        """Lay a plan over the checkout; what it no longer has is undone."""
        for path in self.written():
            if path not in files and os.path.lexists(self.folder / path):
                (self.folder / path).unlink()
                if self.committed(path):
                    self.git("checkout", "HEAD", "--", path)
        for path, planned in files.items():
            there = self.folder / path
            there.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(there):
                there.unlink()
            if planned.kind == "link":
                there.symlink_to(planned.text)
                continue
            there.write_text(planned.text, "utf-8")
            if planned.kind == "executable":
                there.chmod(0o755)
        done = {p: planned_fingerprint(f) for p, f in files.items()}
        self.note.write_text(json.dumps(done, indent=1), "utf-8")


def planned_fingerprint(planned):
    """What `fingerprint` says of a thing once it is written."""
    if planned.kind == "link":
        return f"link {planned.text}"
    return hashlib.sha256(planned.text.encode()).hexdigest()


def fingerprint(path):
    """A path's content; empty where there is nothing."""
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    if not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()
