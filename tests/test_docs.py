"""What the documents promise: their Python blocks run as written, and their relative links lead somewhere.

A file is one namespace and its blocks run in order. `<!-- no-run -->` before a block leaves it out;
`<!-- slow -->` leaves it to the slow run, which runs the whole file: later blocks build on earlier ones.
"""

import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import jax
import pytest

import ufm

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if path.is_file()]

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
LINK = re.compile(r"\]\(\s*<?(?P<target>[^)\s>]+)")  # also the outer link of a badge
REFERENCE = re.compile(r"^ {0,3}\[[^\]^]+\]:\s*<?(?P<target>[^\s>]+)>?", re.MULTILINE)
ATTRIBUTE = re.compile(r"""<(?:img|a|source)\b[^>]*?\b(?:src|href|srcset)=["'](?P<target>[^"']+)["']""")


@dataclass
class Block:
    """A fenced block: its language, its text, the line its text starts on and the comment before it."""

    language: str
    text: str
    line: int
    mark: str


def split(document: str) -> tuple[list[Block], str]:
    """The fenced blocks of a Markdown document, and the document without them."""
    blocks, prose, opened, mark = [], [], None, ""
    for number, line in enumerate(document.splitlines(), start=1):
        fence = FENCE.match(line)
        if opened:
            indent, closing, block = opened
            ends = fence and fence["fence"].startswith(closing) and not fence["info"].strip()
            if ends:
                opened = None
            else:
                block.text += line.removeprefix(indent) + "\n"
            continue
        if fence:
            language = fence["info"].strip().partition(" ")[0].lower()
            blocks.append(Block(language, "", number + 1, mark))
            opened = fence["indent"], fence["fence"], blocks[-1]
        else:
            prose.append(line)
        if line.strip():
            comment = re.fullmatch(r"<!--\s*([\w-]+)\s*-->", line.strip())
            mark = comment[1] if comment else ""
    assert not opened, f"the block that starts on line {opened[2].line} never ends"
    return blocks, "\n".join(prose)


def run(path: Path, *, slow: bool) -> int:
    """Run the Python blocks of a document in one module of their own; returns how many ran."""
    ran = 0
    module = types.ModuleType(f"document_{path.stem.replace('-', '_')}")
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
    try:
        for block in split(path.read_text(encoding="utf-8"))[0]:
            if block.language != "python" or block.mark == "no-run" or (block.mark == "slow" and not slow):
                continue
            # Blank lines in front make a traceback show the document's own line.
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True)
            exec(code, module.__dict__)
            ran += 1
    finally:
        del sys.modules[module.__name__]
    return ran


def has_slow(path: Path) -> bool:
    """Whether a document has a block that only the slow run takes."""
    return any(block.mark == "slow" for block in split(path.read_text(encoding="utf-8"))[0])


def broken_links(path: Path) -> list[str]:
    """Relative link targets of a document that do not exist."""
    prose = re.sub(r"`[^`\n]*`|\$[^$\n]*\$", "", split(path.read_text(encoding="utf-8"))[1])  # code and formulas
    targets = [hit["target"] for pattern in (LINK, REFERENCE, ATTRIBUTE) for hit in pattern.finditer(prose)]
    local = [target for target in targets if not re.match(r"[a-z][a-z0-9+.-]*:|//|#", target, re.IGNORECASE)]
    found = []
    for target in local:
        name = unquote(re.split(r"[#?]", target)[0])
        place = ROOT / name.lstrip("/") if name.startswith("/") else path.parent / name
        if not place.exists():
            found.append(target)
    return found


def named(paths: list[Path]) -> list:
    """The documents as test parameters called by their paths."""
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in paths]


@pytest.mark.parametrize("path", named(DOCUMENTS))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):  # what a reader who pastes the block has
        run(path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", named([path for path in DOCUMENTS if has_slow(path)]))
def test_slow_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):
        run(path, slow=True)


@pytest.mark.parametrize("path", named(DOCUMENTS))
def test_relative_links_exist(path):
    assert broken_links(path) == []


def test_citation_names_this_version():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited
    assert cited[1] == ufm.__version__


SAMPLE = """
# A sample with [a link](there.md#part), [a dead one](gone.md),
![a figure](figure.png "title") and `[code](no.md)`, $[f](x)$,
[![badge](badge.svg)](lost.md)

```python
steps = ["first"]
```

<!-- no-run -->
```python
raise RuntimeError("left out")
```

<!-- slow -->

```python
steps.append("slow")
```

```bash
not python [either](never.md)
```

- in a list

  ```python
  from dataclasses import dataclass

  @dataclass
  class Last:
      name: "str" = "last"

  steps.append(Last().name)
  open("steps.txt", "w").close()
  print(*steps)
  ```

[web](https://example.org) [mail](mailto:a@example.org) [here](#part) [root](/pyproject.toml)

[by name]: lost.md
"""


@pytest.mark.parametrize(("slow", "printed"), [(False, "first last\n"), (True, "first slow last\n")])
def test_runner_on_a_sample(tmp_path, monkeypatch, capsys, slow, printed):
    monkeypatch.chdir(tmp_path)
    document = tmp_path / "sample.md"
    document.write_text(SAMPLE, encoding="utf-8")
    assert has_slow(document)
    assert run(document, slow=slow) == 2 + slow
    assert capsys.readouterr().out == printed
    assert (tmp_path / "steps.txt").exists()


def test_links_of_a_sample(tmp_path):
    document = tmp_path / "sample.md"
    document.write_text(SAMPLE, encoding="utf-8")
    (tmp_path / "there.md").touch()
    assert broken_links(document) == ["gone.md", "figure.png", "badge.svg", "lost.md", "lost.md"]


def test_error_names_the_line_of_the_document(tmp_path):
    document = tmp_path / "wrong.md"
    document.write_text("text\n\n```python\nx = 1\nx / 0\n```\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError) as caught:
        run(document, slow=False)
    assert caught.traceback[-1].lineno + 1 == 5
