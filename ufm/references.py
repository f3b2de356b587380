"""The literature that the oracles cite.

The bibliography is the file ``references.bib`` beside this module; it is read when the module is imported.  An oracle
from outside brings its references with it (:func:`register_reference`), and :func:`bibtex` writes all of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from ._registry import Registry

ARXIV = "arXiv preprint"
"""Venue of what has appeared in no journal and at no conference."""

REFERENCES: Registry[Reference] = Registry("reference")
"""All references by key."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """One publication.

    Attributes:
        key: bibliography key, author + year + first word of the title.
        authors: names as in BibTeX but without the braces of accents, each *Last, First*, joined by ``and``.
        title: title of the publication.
        year: year of the version named by ``venue``.
        venue: journal or conference; ``arXiv preprint`` if neither.
        arxiv: arXiv number, or an empty string.
    """

    key: str
    authors: str
    title: str
    year: int
    venue: str
    arxiv: str = ""

    @property
    def label(self) -> str:
        """Short label in the text: *Zhu et al. 2021*."""
        names = [author.split(",")[0] for author in self.authors.split(" and ")]
        if len(names) > 3:
            return f"{names[0]} et al. {self.year}"
        who = ", ".join(names[:-1]) + " & " + names[-1] if len(names) > 1 else names[0]
        return f"{who} {self.year}"

    def __str__(self) -> str:
        parts = [self.label, self.title]
        if self.venue != ARXIV:
            parts.append(self.venue)
        if self.arxiv:
            parts.append(f"arXiv:{self.arxiv}")
        return ". ".join(parts) + "."


_ENTRY = re.compile(r"@\w+\{(\w+),\n((?:  \w+ = \{.*\},\n)+)\}\n")
_FIELD = re.compile(r"  (\w+) = \{(.*)\},\n")


def read_bibtex(text: str) -> Iterator[Reference]:
    """Read references from BibTeX in the layout that :func:`bibtex` writes, and in no other.

    Args:
        text: entries one after another, each field on a line of its own, the title in two pairs of braces.

    Raises:
        ValueError: an entry is not as :func:`bibtex` would write it.

    >>> [entry.label for entry in read_bibtex(bibtex())][:2]
    ['Alcala et al. 2026', 'Alefeld & Schneider 1982']
    """
    place = 0
    while place < len(text):
        found = _ENTRY.match(text, place)
        reference = found and _parsed(found[1], dict(_FIELD.findall(found[2])))
        if found is None or reference is None or _entry(reference) != found[0]:
            line = text.count("\n", 0, place) + 1
            raise ValueError(f"bibliography: the entry at line {line} cannot be read; write it as the others are")
        yield reference
        place = found.end()


def _parsed(key: str, field: dict[str, str]) -> Reference:
    venue = field.get("journal") or field.get("booktitle", "")
    title, year = field.get("title", "")[1:-1], int(field.get("year", 0))
    return Reference(key, field.get("author", ""), title, year, venue, field.get("eprint", ""))


def register_reference(reference: Reference) -> Reference:
    """Put a reference into the bibliography, and return it; one that is there already stays.

    Raises:
        ValueError: the argument is no :class:`Reference`, or its key is taken by another one.

    >>> register_reference(REFERENCES["liu2024exploration"]).label
    'Liu 2024'
    """
    if not isinstance(reference, Reference):
        raise ValueError(f"reference: {type(reference).__name__} is not a Reference; give ufm.theory.Reference(...)")
    if REFERENCES.get(reference.key) == reference:
        return reference
    return REFERENCES.register(reference.key, reference)


def references_in(citation: str) -> list[Reference]:
    """The references that a citation names, by key or by arXiv number, in the order of their appearance.

    >>> [entry.key for entry in references_in("tirer2022extended, Theorem 3.1; related: arXiv 2411.17278")]
    ['tirer2022extended', 'liu2024exploration']
    """
    by_number = {entry.arxiv: entry for entry in REFERENCES.values() if entry.arxiv}
    known = {**by_number, **REFERENCES}
    words = re.findall(r"\d{4}\.\d{5}|\w+", citation)
    return list(dict.fromkeys(known[word] for word in words if word in known))


def cite(citation: str) -> str:
    """The full references that a citation names, one per line.

    Args:
        citation: a key of :data:`REFERENCES`, or an oracle's ``citation``, which names references by key or by arXiv
            number and may add a theorem.

    Raises:
        KeyError: the citation names no reference of the bibliography.

    >>> cite("liu2024exploration")
    'Liu 2024. The Exploration of Neural Collapse under Imbalanced Data. arXiv:2411.17278.'
    """
    found = references_in(citation)
    if not found:
        raise KeyError(f"{citation!r} names no reference of the bibliography")
    return "\n".join(map(str, found))


def bibtex() -> str:
    """The bibliography in BibTeX, sorted by key; without references from outside, the text of ``references.bib``."""
    return "".join(_entry(REFERENCES[key]) for key in sorted(REFERENCES))


_JOURNALS = (
    "Bernoulli",
    "Journal of Machine Learning Research",
    "Proceedings of the National Academy of Sciences",
    "The Annals of Statistics",
    "Linear Algebra and its Applications",
    "Applied and Computational Harmonic Analysis",
    ARXIV,
)


def _entry(entry: Reference) -> str:
    kind, place = ("article", "journal") if entry.venue in _JOURNALS else ("inproceedings", "booktitle")
    fields = {
        "author": entry.authors,
        "title": f"{{{entry.title}}}",
        place: entry.venue,
        "year": str(entry.year),
    }
    if entry.arxiv:
        fields |= {"eprint": entry.arxiv, "archivePrefix": "arXiv"}
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{entry.key},\n{lines}}}\n"


def _read_own() -> None:
    for reference in read_bibtex(Path(__file__).with_name("references.bib").read_text(encoding="utf-8")):
        REFERENCES.register(reference.key, reference)


_read_own()
