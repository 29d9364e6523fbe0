"""A lexer for the quoting and operators of the POSIX shell (IEEE 1003.1, XCU 2.2 and 2.3). Pure.

It exists because ``shlex`` does not report whether a character was quoted, which decides whether ``;`` is a separator
or a letter. It recognises words, operators and the places where a shell would expand, but no grammar.
"""

from __future__ import annotations

from dataclasses import dataclass

_BLANKS = " \t"
_OPERATOR_CHARS = ";&|<>()\n"
_OPERATORS_LONG = frozenset({"&&", "||", ";;", "<<", ">>", "<&", ">&", "<>", ">|"})
_ESCAPABLE_IN_DOUBLE_QUOTES = '$`"\\'


class LexError(ValueError):
    """The text is not a sequence of shell words: it has an open quote, a trailing backslash or an escaped newline."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An unquoted operator: one of ``; & | < > ( )``, newline, or a longer one such as ``&&``."""

    text: str
    glued: bool
    """True if it follows the previous word without a blank, as in ``2>``."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quote removal, without any expansion."""

    text: str
    quoted: bool
    """True if a part of it was quoted or escaped."""
    expansions: tuple[str, ...]
    """Each ``$`` that a shell would expand, with the character after it. "`" for a backtick."""
    comment: bool
    """True if it begins with an unquoted ``#``, after which a shell ignores the rest of the line."""


Token = Operator | Word


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.tokens: list[Token] = []

    def run(self) -> list[Token]:
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in _BLANKS:
                self._at += 1
            elif char in _OPERATOR_CHARS:
                self._operator()
            else:
                self._word()
        return self.tokens

    def _operator(self) -> None:
        pair = self._text[self._at : self._at + 2]
        text = pair if pair in _OPERATORS_LONG else pair[0]
        glued = self._at > 0 and self._text[self._at - 1] not in _BLANKS
        self._at += len(text)
        self.tokens.append(Operator(text, glued))

    def _word(self) -> None:
        parts: list[str] = []
        expansions: list[str] = []
        quoted = False
        comment = self._text[self._at] == "#"
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in _BLANKS or char in _OPERATOR_CHARS:
                break
            if char == "'":
                parts.append(self._single_quoted())
                quoted = True
            elif char == '"':
                parts.append(self._double_quoted(expansions))
                quoted = True
            elif char == "\\":
                parts.append(self._escaped())
                quoted = True
            else:
                self._note_expansion(expansions)
                parts.append(char)
                self._at += 1
        self.tokens.append(Word("".join(parts), quoted, tuple(expansions), comment))

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise LexError("a single quote is not closed")
        inner = self._text[self._at + 1 : end]
        self._at = end + 1
        return inner

    def _double_quoted(self, expansions: list[str]) -> str:
        parts: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return "".join(parts)
            following = self._text[self._at + 1 : self._at + 2]
            if char == "\\" and following == "\n":
                raise LexError("a newline is escaped")
            if char == "\\" and following and following in _ESCAPABLE_IN_DOUBLE_QUOTES:
                parts.append(following)
                self._at += 2
                continue
            self._note_expansion(expansions)
            parts.append(char)
            self._at += 1
        raise LexError("a double quote is not closed")

    def _escaped(self) -> str:
        following = self._text[self._at + 1 : self._at + 2]
        if not following:
            raise LexError("it ends with a backslash")
        if following == "\n":
            raise LexError("a newline is escaped")
        self._at += 2
        return following

    def _note_expansion(self, expansions: list[str]) -> None:
        char = self._text[self._at]
        if char == "$":
            expansions.append(self._text[self._at : self._at + 2])
        elif char == "`":
            expansions.append(char)


def lex(text: str) -> list[Token]:
    """Split ``text`` into words and operators. Raises ``LexError`` when it is not a sequence of words.

    An escaped newline is an error, although a shell would join the lines, because it only serves to hide text.
    """
    return _Lexer(text).run()
