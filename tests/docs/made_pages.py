"""The code blocks of README, CONTRIBUTING and docs/, and the simple commands in them; pytest puts this folder on the
path."""

import re
import shlex
from dataclasses import dataclass

SHELL = ("sh", "bash", "shell", "console")
FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<language>[\w+-]*)")
NOTE = re.compile(r"^\s*<!--\s*(?P<kind>file|run):\s*(?P<what>.+?)\s*-->\s*$")
SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
SPAN = re.compile(r"`([^`\n]+)`")
OPERATORS = ("&&", "||", ";", ";;", "|", "&", "(", ")", "|&")
REDIRECTION = re.compile(r"^\d?(>>?|<|<<<|>&|&>|<>)&?\d?$")
ASSIGNMENT = re.compile(r"^[A-Za-z_]\w*=")
KEYWORDS = ("then", "do", "else", "{", "!", "if", "while", "until", "elif", "time", "exec", "nice", "sudo", "env")
CLOSING = ("done", "fi", "}", "esac")


@dataclass(frozen=True)
class Block:
    """A fenced block: where its first line stands, its language, and our HTML comment above it."""

    page: str
    line: int
    language: str
    text: str
    note: tuple[str, str] | None


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and where it stands."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self):
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def pages(root):
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def blocks(page, root):
    """Every fenced block of a page; one that is not closed is our mistake."""
    found, fence, start, body, note = [], None, 0, [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence is None:
            fence = FENCE.match(line)
            if fence:
                start, body = number + 1, []
            elif NOTE.match(line):
                note = (NOTE.match(line)["kind"], NOTE.match(line)["what"])
            elif line.strip():
                note = None
        elif line.strip() == fence["marks"]:
            indent = len(fence["indent"])
            text = "".join(f"{row[indent:] if not row[:indent].strip() else row}\n" for row in body)
            found.append(Block(str(page.relative_to(root)), start, fence["language"], text, note))
            fence, note = None, None
        else:
            body.append(line)
    assert fence is None, f"{page.relative_to(root)}:{start}: the block is not closed"
    return found


def commands(block):
    """The simple commands of a shell block: lines joined at a backslash; here-documents, comments, output left out."""
    found, lines = [], iter(enumerate(block.text.splitlines(), start=block.line))
    for number, line in lines:
        text = line
        while text.endswith("\\"):
            text = text[:-1] + next(lines)[1]
        if block.language == "console":
            if not text.startswith("$ "):
                continue
            text = text[2:]
        here = re.search(r"<<-?\s*['\"]?(\w+)", text)
        if here:
            while next(lines)[1].strip() != here[1]:
                pass
            text = text[: here.start()] + text[here.end() :].lstrip("'\"")
        found += [Command(block.page, number, words) for words in simple_commands(text)]
    return found


def simple_commands(text):
    """``A=1 make x && dvc y > z`` -> (make, x), (dvc, y). What `$(...)` holds comes first."""
    found, inner = [], SUBSTITUTION.search(text)
    while inner:
        found += simple_commands(inner[1])
        text = text[: inner.start()] + "SUBSTITUTED" + text[inner.end() :]
        inner = SUBSTITUTION.search(text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words, command = list(lexer), []
    for word in [*words, ";"]:
        if word in OPERATORS:
            command = without_shell(command)
            found += [tuple(command)] if command else []
            command = []
        else:
            command.append(word)
    return found


def without_shell(words):
    """Without redirections, assignments in front, and the words of loops and conditions."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif REDIRECTION.match(word):
            skip = not word.endswith(("&1", "&2"))
            if kept and kept[-1].isdigit():  # 2>
                kept.pop()
        else:
            kept.append(word)
    if kept and (kept[0] in CLOSING or kept[0] in ("for", "case")):
        return []
    while kept and (ASSIGNMENT.match(kept[0]) or kept[0] in KEYWORDS):
        program = kept.pop(0)
        while program in ("nice", "env", "sudo") and kept and kept[0].startswith("-"):
            option = kept.pop(0)
            if option == "-n":
                kept.pop(0)
    return kept


def inline_commands(page, root):
    """What stands in single backticks in the running text, with its line."""
    fenced, found = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            found += [(f"{page.relative_to(root)}:{number}", span) for span in SPAN.findall(line)]
    return found
