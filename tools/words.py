"""Refuse words and phrases that a reader must translate first, in documentation, messages, docstrings and comments.

``python -m tools.words`` prints each with its place and what to write instead, and fails if there are any. Quoted code and
names are not looked at, apart from the text of Python strings and comments.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

PHRASES = {
    r"can(not)? be told otherwise": "is configurable",
    r"absent is not broken": "a missing band is not an error; an unreadable file is",
    r"(goes|go|going|gone) on (with|at|from|where)": "continues / is resumed",
    r"go(es)? on all the same": "continues",
    r"cannot be\b(?! \w)": "say which values are allowed",
    r"will flatter|flatters?\b": "is too optimistic",
    r"mends? it|\bmend(ed|s)?\b": "fix",
    r"small change": "overhead",
    r"trying again|tried again": "retry",
    r"cannot serve": "has N, but the batch has M",
    r"said once": "logged once",
    r"is no (file|number|amount|class|option|setting|module|callback)\b": "is not a ...",
    r"\bdealt|\bdeals? (targets|them|each)|\bdealing\b": "assign",
    r"\banew\b": "again",
    r"\bdear(er|est)?\b": "expensive",
    r"\btorn\b": "crossing a patch edge",
    r"\bamiss\b": "wrong",
    r"\bof one's own\b": "your own ...",
    r"what becomes of|what became of": "what happens to / what happened to",
    r"is worked out|are worked out|cannot be worked out": "is computed",
    r"\breckons?\b": "computes",
    r"\bby and by\b|\bhither\b|\bthereof\b|\bwherein\b": "(plain words)",
    r"takes? note": "records",
    r"nobody (gives|else)": "no other",
}
"""Pattern, and what to write instead."""

PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/*.md", "configs/**/*.yaml")
CODE = ("lsstcutouts/**/*.py", "benchmarks/*.py", "tools/house.py", "docs/*.py", "train_example.py", "examples/**/*.py")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of what people read in a file."""
    if path.suffix != ".py":
        code = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code ^= line.lstrip().startswith("```")
            if path.suffix == ".yaml":
                yield number, line.partition("#")[2]
            elif not code:
                yield number, re.sub(r"`[^`]*`", "", line)
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.STRING and token.string.strip("'\"").isidentifier():
            continue  # a name, as in __all__
        if token.type in {tokenize.STRING, tokenize.COMMENT, tokenize.FSTRING_MIDDLE}:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, re.sub(r"`[^`]*`", "", line)


def found() -> list[str]:
    """Return each phrase with its place."""
    patterns = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in PHRASES.items()]
    hits = []
    for path in sorted({one for glob in (*PAGES, *CODE) for one in ROOT.glob(glob)}):
        name = str(path.relative_to(ROOT))
        for number, text in texts(path):
            hits += [
                f"{name}:{number}: {m[0]!r}: write {instead!r}" for p, instead in patterns for m in p.finditer(text)
            ]
    return hits


if __name__ == "__main__":
    wrong = found()
    print("\n".join(wrong))
    sys.exit(bool(wrong))
