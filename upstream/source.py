"""Python source with parts taken out, put in, or explained.

Everything is done on the text, by the places that its tree tells, so that
comments and layout stay.
"""

import ast

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _first_line(node):
    """The first line of a statement, decorators included (from 0)."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)]) - 1


def _names_of(node):
    """The names that a top-level statement binds (list of str)."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    return []


def without(text, names):
    """A module without some of its functions, and what only they imported."""
    lines, found = text.split("\n"), set()
    for node in reversed(ast.parse(text).body):
        if names & set(_names_of(node)):
            found |= names & set(_names_of(node))
            del lines[_first_line(node) : node.end_lineno]
    if names - found:
        raise ValueError(f"no {', '.join(sorted(names - found))} to leave out")
    return without_unused_imports("\n".join(lines))


def without_unused_imports(text):
    """A module without the top-level imports that nothing in it uses."""
    tree, lines = ast.parse(text), text.split("\n")
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    for node in reversed(tree.body):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        place = slice(node.lineno - 1, node.end_lineno)
        if any("noqa" in line for line in lines[place]):
            continue
        bound = {a: (a.asname or a.name).split(".")[0] for a in node.names}
        kept = [alias for alias in node.names if bound[alias] in used]
        if not kept:
            del lines[place]
        elif len(kept) < len(node.names):
            node.names = kept
            lines[place] = [ast.unparse(node)]
    return "\n".join(lines)


def with_functions(text, template):
    """A module whose functions are exchanged for a template's of that name."""
    wanted, imports = {}, []
    template_lines = template.split("\n")
    for node in ast.parse(template).body:
        part = template_lines[_first_line(node) : node.end_lineno]
        if isinstance(node, FUNCTIONS):
            wanted[node.name] = part
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            imports += part
    tree, lines = ast.parse(text), text.split("\n")
    for node in reversed(tree.body):
        if isinstance(node, FUNCTIONS) and node.name in wanted:
            place = slice(_first_line(node), node.end_lineno)
            lines[place] = wanted.pop(node.name)
    if wanted:
        raise ValueError(f"no function {', '.join(wanted)} to exchange")
    first = next(
        (n.lineno - 1 for n in tree.body if "Import" in type(n).__name__), 0
    )
    lines[first:first] = imports
    return without_unused_imports("\n".join(lines))


def with_docstrings(text):
    """A module in which every function says what it is."""
    lines = text.split("\n")
    bare = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (*FUNCTIONS, ast.ClassDef))
        and ast.get_docstring(node) is None
    ]
    for node in sorted(bare, key=lambda n: -n.body[0].lineno):
        words = node.name.strip("_").removeprefix("test_").replace("_", " ")
        first = _first_line(node.body[0])
        indent = " " * node.body[0].col_offset
        said = words[:1].upper() + words[1:]
        lines.insert(first, f'{indent}"""{said}."""')
    return "\n".join(lines)


def imported_modules(text):
    """The modules, and possible modules, that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def names_wanted(text):
    """The names that a file of tests imports, or takes as fixtures."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, FUNCTIONS):
            found |= {one.arg for one in node.args.args}
    return found


def settings_read(text):
    """The settings that a source reads by name."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Subscript) and _is_settings(node.value):
            found |= _constants([node.slice])
        elif isinstance(node, ast.Attribute) and _is_settings(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and node.args:
            of = node.func
            if isinstance(of, ast.Attribute) and of.attr == "get":
                of = of.value
                found |= (
                    _constants(node.args[:1]) if _is_settings(of) else set()
                )
            elif _is_settings(node.args[0]):
                found |= _constants(node.args[1:2])
    return found


def _is_settings(node):
    """Whether an expression is a run's settings."""
    name = getattr(node, "id", None) or getattr(node, "attr", None)
    return name in ("hparams", "settings", "configuration")


def _constants(nodes):
    """The texts among some expressions (set of str)."""
    return {
        n.value
        for n in nodes
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
