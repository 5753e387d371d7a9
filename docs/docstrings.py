"""Our docstrings and annotations as griffe reads them: an extension (mkdocs.yml).

Ours write ``height, width: of the grid``, and griffe knows one name for a description.
Shapes as ``Float[Array, "b *s"]`` are strings that it takes for annotations, and would
print as a product where they happen to be one.
"""

import ast
import re

import griffe

SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+)(: .*(?:\n\1 +\S.*)*)", re.MULTILINE)


class AsWritten(griffe.Extension):
    """Divides descriptions of several names, and keeps shapes what they are."""

    def on_node(self, *, node: ast.AST | griffe.ObjectNode, **_) -> None:
        """Called for every piece of source, before it is made anything of."""
        if isinstance(node, ast.FunctionDef | ast.AnnAssign | ast.Assign):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Subscript):
                    keep_shape(inner)

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Called for everything that was found, before docstrings are parsed."""
        if obj.docstring:
            obj.docstring.value = SEVERAL.sub(divided, obj.docstring.value)


def keep_shape(subscript: ast.Subscript) -> None:
    """Puts a space before a shape: nothing to jaxtyping, no Python to griffe."""
    match subscript.slice:
        case ast.Tuple(elts=[_, ast.Constant(value=str(shape)) as constant]):
            constant.value = f" {shape.strip()}"


def divided(found: re.Match) -> str:
    """One description for each of the names, alike."""
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}{text}" for name in names.split(", "))
