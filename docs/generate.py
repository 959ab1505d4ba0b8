"""Writes what the documents take from the code: `python docs/generate.py`, or `--check` to compare only.

A region of a document is what stands between `<!-- generated: NAME -->` and `<!-- end -->`, each on a line of
its own; REGIONS has the function of each name. FILES are generated from the first line to the last.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from made_core.filters import REASONS
from made_core.output.summary import Summary
from made_core.recipe import Recipe
from made_core.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
REGION = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
WIDTH, COLUMN = 110, 34  # of the annotated recipe: its lines, and where comments begin

HEADER = """\
# Every field of a recipe with its default. A field that is commented out has none: the value is an example.
# Leave out what you do not change. `sources` and `output` are usually given on the command line.
# Generated from made_core/recipe.py by `make docs`.
"""


def reasons() -> str:
    """A table of the reasons."""
    rows = [f"| `{r.name}` | {r.code} | {r.meaning} |" for r in REASONS]
    return "\n".join(["| reason | code | when |", "| --- | --- | --- |", *rows])


def summary() -> str:
    """A table of the summary's fields."""
    return "\n".join(["| field | what |", "| --- | --- |", *_rows(dict(Summary.model_fields))])


def _rows(fields: dict[str, Any], parent: str = "") -> Iterator[str]:
    for name, field in fields.items():
        path = f"{parent}{field.alias or name}"
        if field.description:
            yield f"| `{path}` | {field.description} |"
        yield from _rows(_fields(field.annotation), f"{path}.")


def _fields(annotation: Any) -> dict[str, Any]:
    """The fields of a model, or of the model in `Model | None`; none for other types."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return dict(kind.model_fields)
    return {}


def summary_schema() -> str:
    """The JSON schema of summary.json."""
    return json.dumps(Summary.model_json_schema(by_alias=True), indent=2) + "\n"


def stages() -> str:
    """A table of the stages."""
    rows = [
        f"| `{s.name}` | {s.key} | {'output' if s.in_output else 'store'}, `{s.folder}/` | {s.version} |"
        for s in STAGES
    ]
    return "\n".join(["| stage | key of a unit | files | version |", "| --- | --- | --- | --- |", *rows])


def annotated_recipe() -> str:
    """A recipe in YAML: every field with its default, its description and what is allowed."""
    schema = Recipe.model_json_schema()
    lines, parts = [HEADER], []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            part = schema["$defs"][field["$ref"].rpartition("/")[2]]
            parts.append(list(_line(f"{name}:", part["description"])))
            for inner, of in part["properties"].items():
                parts[-1] += _line(*_setting(inner, of), "  ")
        else:
            lines += _line(*_setting(name, field))
    return "\n\n".join(["\n".join(lines), *map("\n".join, parts)]) + "\n"


def _setting(name: str, field: dict[str, Any]) -> tuple[str, str]:
    """A field's line of YAML, commented out where it has no default, and its comment."""
    value = field.get("default")
    if "description" not in field or (value is None and "examples" not in field):
        raise ValueError(f"recipe field {name} needs a description, and examples where it has no default")
    shown = field["examples"][0] if value is None else value
    text = yaml.safe_dump(shown, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return f"{'# ' if value is None else ''}{name}: {text}", field["description"]


def _line(text: str, comment: str, indent: str = "") -> Iterator[str]:
    """A line with its comment beside it, wrapped, or above it where the line is long."""
    text = indent + text
    if len(text) >= COLUMN:
        yield from (f"{indent}# {c}" for c in _wrapped(comment, WIDTH - len(indent) - 2))
        yield text
        return
    for number, c in enumerate(_wrapped(comment, WIDTH - COLUMN - 2)):
        yield f"{'' if number else text:<{COLUMN}}# {c}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


REGIONS: dict[str, Callable[[], str]] = {"reasons": reasons, "summary": summary, "stages": stages}
FILES: dict[str, Callable[[], str]] = {
    "deployments/recipes/annotated.yaml": annotated_recipe,
    "docs/summary.schema.json": summary_schema,
}


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Each document below `root` that has something generated -> its text as it must be.

    Raises:
        ValueError: a document has a region that REGIONS lacks, or one without an end, or no document
            has a region of REGIONS.
    """
    texts = {root / name: make() for name, make in FILES.items()}
    found: set[str] = set()
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        names = [match[2] for match in REGION.finditer(text)]
        if unknown := set(names) - set(REGIONS):
            raise ValueError(f"{path}: unknown regions {sorted(unknown)}, known: {', '.join(REGIONS)}")
        if len(names) != text.count("<!-- generated: ") or len(names) != text.count("<!-- end -->"):
            raise ValueError(f"{path}: each <!-- generated: NAME --> needs one <!-- end --> after it")
        if names:
            found.update(names)
            texts[path] = REGION.sub(lambda match: f"{match[1]}\n{REGIONS[match[2]]()}\n\n{match[4]}", text)
    if missing := set(REGIONS) - found:
        raise ValueError(f"no document has the regions {sorted(missing)}")
    return texts


def outdated(root: Path = ROOT) -> list[str]:
    """The paths, relative to `root`, of the documents that differ from what the code says."""
    return [
        str(path.relative_to(root))
        for path, text in generated(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """The command line; exits 1 where `--check` finds a document out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if out of date")
    check = parser.parse_args().check
    old = outdated()
    for name in [] if check else old:
        (ROOT / name).write_text(generated()[ROOT / name], encoding="utf-8")
        print(f"wrote {name}")
    if check and old:
        sys.exit(f"out of date: {', '.join(old)}. Run `make docs` and commit what it writes.")


if __name__ == "__main__":
    main()
