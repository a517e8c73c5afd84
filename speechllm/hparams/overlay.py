"""A base with variants and overrides laid over it."""

import difflib
import os
import re

from speechbrain_ext.training.faults import (
    ABSENT,
    ConfigError,
    Fault,
    as_yaml,
    label,
)
from speechllm.hparams.document import (
    INCLUDE,
    MAP,
    Document,
    is_include,
    is_mapping,
)
from speechllm.hparams.includes import inline, inline_all, repoint
from speechllm.hparams.overrides import literal, override_pairs
from speechllm.hparams.resolve import plain_values

COMMAND_LINE = "command line"


def base_chain(path):
    """A YAML and the bases under it, the full one first."""
    documents, seen, named_by, top = [], [], "", path
    while True:
        key = "base" if named_by else "YAML"
        try:
            if os.path.realpath(path) in seen:
                names = [os.path.basename(d.file) for d in documents[::-1]]
                circle = " -> ".join([*names, os.path.basename(path)])
                raise ValueError(f"the bases go in a circle, {circle}")
            document = Document.read(path)
        except OSError:
            mend = "no such file: give the path of a YAML file"
            raise ConfigError(top, [Fault(key, path, mend, named_by)]) from None
        except ValueError as error:
            fault = Fault(key, path, str(error), named_by)
            raise ConfigError(top, [fault]) from None
        documents.insert(0, document)
        seen.append(os.path.realpath(path))
        base = document.find(("base",))
        if base is None:
            return documents
        named_by, path = path, os.path.join(document.folder, base[1].value)


class Overlay:
    """A base with variants and overrides laid over it."""

    def __init__(self, path, overrides, folder):
        self.faults, self.origin, self.inlined = [], {}, set()
        base, *variants = base_chain(path)
        real_folder = os.path.dirname(os.path.realpath(path))
        self.folders = [os.getcwd(), real_folder, base.folder]
        self.folders = list(dict.fromkeys(self.folders))
        self.relative_to = folder
        self.heads = "".join(v.head_comment() for v in variants[::-1])
        for document in (base, *variants):
            repoint(document, folder)
        self.document = base
        self.before, self.placeholders = values_of_base(base)
        for variant in variants:
            self.lay_document(variant, skip="base")
        self.lay_overrides(overrides)

    def located(self, fault):
        """The fault with the file that its value came from."""
        path = tuple(re.findall(r"[^.\[\]]+", fault.key))
        file = self.document.file
        for length in range(len(path) + 1):
            file = self.origin.get(path[:length], file)
        return Fault(fault.key, fault.value, fault.mend, file)

    def fault(self, path, value, mend, file):
        """Note one fault."""
        self.faults.append(Fault(label(path), value, mend, file))

    def inline_all(self):
        """Write every fragment that is still included into the text."""
        self.faults += map(self.located, inline_all(self.document))

    def lay_document(self, source, skip=None):
        """Lay every key of a document over the base."""
        for key, value in source.root.value:
            if key.value != skip:
                self.lay((key.value,), source, key, value)

    def lay(self, path, source, key, value):
        """Lay one value over the base; mappings are merged key by key."""
        found = self.document.find(path)
        if found is None:
            self.unknown(path, source.value_text(key, value), source.file)
        elif not (value.tag == MAP and value.value):
            self.put(path, source, key, value)
        elif is_include(found[1]) and not self.opened(path):
            return
        elif is_mapping(self.document.find(path)[1]):
            for child, below in value.value:
                self.lay(path + (child.value,), source, child, below)
        else:
            self.put(path, source, key, value)

    def opened(self, path):
        """Write in the fragment included at a path; whether that went well."""
        faults = inline(self.document, path)
        self.faults += map(self.located, faults)
        self.inlined.add(path)
        return not faults

    def put(self, path, source, key, value):
        """Put one value in place of the base's."""
        found = self.document.find(path)
        shift = found[0].start_mark.column - key.start_mark.column
        new = source.value_text(key, value, shift)
        if "\n" in new and self.document.find(path[:-1])[1].flow_style:
            mend = "has several lines where the base has braces: write one"
            self.fault(path, ABSENT, mend, source.file)
            return
        self.document.replace(path, new)
        self.inlined.discard(path)
        self.origin = {
            old: file
            for old, file in self.origin.items()
            if old[: len(path)] != path
        }
        self.origin[path] = source.file

    def unknown(self, path, value, file):
        """Note a key that the base does not have."""
        known = self.document.keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, 1)
        if close:
            right = label(path[:-1] + (close[0],))
            mend = f"unknown key: did you mean {right}?"
        elif known:
            mend = f"unknown key: known are {', '.join(known)}"
        else:
            mend = f"unknown key: {label(path[:-1])} has no keys below it"
        self.fault(path, value.strip(), mend, file)

    def lay_overrides(self, overrides):
        """Lay a dict, or a command line's text, over the base."""
        try:
            pairs = override_pairs(overrides)
        except ValueError as error:
            self.faults.append(Fault("overrides", str(overrides), str(error)))
            return
        # A whole fragment first, then its children: --backbone FILE
        # --backbone.source DIR, in whichever order they were given.
        for path, value in sorted(pairs, key=lambda pair: len(pair[0])):
            found = self.document.find(path)
            a_file = isinstance(value, str) and value[:1] not in ("!", "{")
            was_include = found and is_include(found[1])
            if a_file and (was_include or path in self.inlined):
                text = self.include_text(path, value)
            else:
                like = self.before
                for part in path:
                    like = like.get(part) if isinstance(like, dict) else None
                text = literal(value, like, path in self.placeholders)
            if text is not None:
                lines = [f"{'  ' * i}{as_yaml(k)}:" for i, k in enumerate(path)]
                source = "\n".join(lines) + f" {text}"
                self.lay_document(Document(source, COMMAND_LINE))

    def include_text(self, path, value):
        """The include that a file's name on the command line stands for."""
        files = [os.path.join(folder, value) for folder in self.folders]
        file = next((f for f in files if os.path.isfile(f)), None)
        if file is None:
            places = " or ".join(self.folders)
            mend = f"no such file in {places}: give the path of a YAML file"
            self.fault(path, value, mend, COMMAND_LINE)
            return None
        if self.relative_to:
            return INCLUDE + os.path.relpath(file, self.relative_to)
        return INCLUDE + os.path.abspath(file)


def values_of_base(base):
    """A base's plain values and the paths of its placeholders."""
    copy = Document(base.text, base.file)
    copy.folder = base.folder
    inline_all(copy)
    waiting = {path for path, node in copy.walk() if node.tag == "!PLACEHOLDER"}
    return plain_values(copy)[0], waiting
