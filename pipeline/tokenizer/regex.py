"""Pre-tokenizer regexes in the one dialect of the engine that can say them exactly.

The engine has two regex engines. The folded one (any pattern in ASCII) reduces every non-ASCII character to one of
seven classes with its own Unicode tables, knows no letter case beyond ASCII, and ignores what it cannot parse. The
wide one (any pattern with a non-ASCII character and no `\\p{`) is std::wregex with ECMAScript syntax over code points:
exact, if every class is spelled out. So classes are spelled out, as Hugging Face's own regex engine sees them.
"""

from __future__ import annotations

from pipeline.tokenizer.codepoints import Range, members
from pipeline.tokenizer.definition import unsupported

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The wide engine recurses once per character of a match: more than some 20,000 in a row overflow the stack. Runs are
# cut first, by the folded engine, which does not recurse. Only text without any whitespace for so long differs.
LONGEST_RUN = 8_192
RUN_GUARD = rf"\S{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}}"
SYNTAX = set("\\^$.|?*+()[]{}")
CLASS_ESCAPES = set("sSdDwWhH")


def to_wide(pattern: str) -> str:
    """`pattern` (Oniguruma, as in tokenizer.json) in ECMAScript with explicit classes.

    Raises StageFailed naming a construct that has no counterpart (lookbehind, anchors, backreferences).
    """
    return _Translator(pattern).alternatives()


def spell(ranges: tuple[Range, ...]) -> str:
    """An ECMAScript bracket expression for the ranges."""
    parts = [_literal(low) if low == high else f"{_literal(low)}-{_literal(high)}" for low, high in ranges]
    return "[" + "".join(parts) + "]"


def _literal(code: int) -> str:
    char = chr(code)
    return "\\" + char if char in "\\]^-[" else char


class _Translator:
    """Recursive descent over the pattern; each method returns translated text and moves `at`."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at, self.ignore_case = pattern, 0, False

    def alternatives(self) -> str:
        text = ""
        while self.at < len(self.pattern):
            text += self.item()
        return text

    def item(self) -> str:
        char = self.pattern[self.at]
        if char == "|":
            self.at += 1
            return char
        if char == ")":
            raise unsupported(f"regex with an unbalanced parenthesis: {self.pattern}")
        atom = self.group() if char == "(" else self.single()
        return atom + self.quantifier()

    def group(self) -> str:
        opening = self.opening()
        before, self.ignore_case = self.ignore_case, self.ignore_case or opening == "(?i:"
        text = ""
        while self.at < len(self.pattern) and self.pattern[self.at] != ")":
            text += self.item()
        self.at, self.ignore_case = self.at + 1, before
        return ("(?!" if opening == "(?!" else "(?=" if opening == "(?=" else "(?:") + text + ")"

    def opening(self) -> str:
        for opening in ("(?i:", "(?:", "(?!", "(?="):
            if self.pattern.startswith(opening, self.at):
                self.at += len(opening)
                return opening
        if self.pattern.startswith("(?", self.at):
            raise unsupported(f"regex construct {self.pattern[self.at : self.at + 4]!r} of the pre-tokenizer")
        self.at += 1
        return "("

    def single(self) -> str:
        """One character or class, as a spelled-out class unless it is a plain character."""
        start = self.at
        char = self.pattern[start]
        if char in "^$":
            raise unsupported(f"regex anchor {char!r} of the pre-tokenizer")
        self.at = self.class_end() if char == "[" else self.escape_end() if char == "\\" else start + 1
        source = self.pattern[start : self.at]
        if len(source) == 1 and source != "." and not (self.ignore_case and source.isalpha()):
            return "\\" + source if source in SYNTAX else source
        return spell(members(f"(?i:{source})" if self.ignore_case else source))

    def class_end(self) -> int:
        depth, at = 0, self.at
        while at < len(self.pattern):
            char = self.pattern[at]
            depth += (char == "[") - (char == "]")
            at += 2 if char == "\\" else 1
            if depth == 0:
                return at
        raise unsupported(f"regex with an unclosed class: {self.pattern}")

    def escape_end(self) -> int:
        following = self.pattern[self.at + 1]
        if following in "pP":
            return self.pattern.index("}", self.at) + 1
        if following.isalnum() and following not in CLASS_ESCAPES and following not in "rntfv":
            raise unsupported(f"regex escape '\\{following}' of the pre-tokenizer")
        return self.at + 2

    def quantifier(self) -> str:
        """A possessive quantifier becomes greedy: in these patterns what follows cannot start with what is repeated."""
        rest = self.pattern[self.at :]
        if not rest or rest[0] not in "?*+{":
            return ""
        length = rest.index("}") + 1 if rest[0] == "{" else 1
        quantifier = rest[:length]
        if rest[length : length + 1] == "?":
            quantifier, length = quantifier + "?", length + 1
        elif rest[length : length + 1] == "+" and rest[0] != "{":
            length += 1
        self.at += length
        return quantifier
