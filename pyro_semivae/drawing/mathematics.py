r"""Graphs and objectives as LaTeX, in the subset that matplotlib also supports for factorisations and terms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

SYMBOL = re.compile(r"([A-Za-z])(?:_([A-Za-z0-9]{1,2}))?('?)")
TOKEN = re.compile(r"\|\||[A-Za-z][A-Za-z0-9_-]*(?<![-_])[~']?|.", re.S)


def symbol(name: str) -> str:
    r"""Formats a site's name: a single letter with an optional index in italics, a longer name upright.

    >>> symbol("z_c"), symbol("y"), symbol("kind_of")
    ('z_{c}', 'y', '\\mathrm{kind\\_of}')
    """
    if found := SYMBOL.fullmatch(name):
        letter, index, prime = found.groups()
        return f"{letter}{'_{' + index + '}' if index else ''}{prime}"
    return r"\mathrm{" + upright(name) + "}"


ESCAPES = {"\\": r"\backslash ", "^": r"\wedge ", "~": r"\sim ", "#": r"\sharp ", "&": r"\ and\ ", " ": r"\ "}
ESCAPES |= {letter: "\\" + letter for letter in "_$%{}"}


def upright(text: str) -> str:
    r"""Escapes text for use in mathematics.

    >>> upright("50% of a_b")
    '50\\%\\ of\\ a\\_b'
    """
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def factorisation(sites: Mapping[str, Sequence[str]], letter: str) -> str:
    r"""Formats a graph, site -> parents, as a product of densities.

    >>> factorisation({"y": (), "x": ("z_c", "y")}, "p")
    'p(y)\\,p(x \\mid z_{c}, y)'
    """
    given = {name: r" \mid " + ", ".join(map(symbol, parents)) if parents else "" for name, parents in sites.items()}
    return r"\,".join(f"{letter}({symbol(name)}{given[name]})" for name in sites)


def term(name: str) -> str:
    r"""Formats the name of an objective's term.

    >>> term("-w log q(z_c|x)")
    '-w\\,\\log q(z_{c} \\mid x)'
    >>> term("shown: log q(y'|x~)")
    "\\mathrm{shown:}\\ \\log q(y' \\mid \\tilde{x})"
    """
    said, _, rest = name.rpartition(": ")
    parts = [r"\mathrm{" + upright(said) + r":}\ "] if said else []
    depth = 0
    for token in TOKEN.findall(rest):
        depth += (token in "([") - (token in ")]")
        if token == "log":
            parts.append(r"\log")
        elif token == "||":
            parts.append(r"\Vert ")
        elif token == "|":
            parts.append(r" \mid " if depth else r"\vert ")
        elif token == " ":
            parts.append(" " if parts and parts[-1] == r"\log" else r"\,")
        elif token.endswith("~"):
            parts.append(r"\tilde{" + symbol(token[:-1]) + "}")
        elif token[0].isalpha():
            parts.append(symbol(token))
        elif token == "^":
            parts.append("^")
        else:
            parts.append({",": ", ", ";": "; "}.get(token) or ESCAPES.get(token, token))
    return "".join(parts)


def number(value: float) -> str:
    """Formats a value with four significant digits, or from 10,000 on as an integer.

    >>> number(0.01234567), number(250001.2)
    ('0.01235', '250001')
    """
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def objective(values: Mapping[str, float], weights: Mapping[str, float] | None = None) -> str:
    r"""Formats a sum of terms, one per line, with their weights, and with their values underneath.

    Args:
        values: term -> value. weights: term -> factor (default: 1).

    >>> print(objective({"log p(x)": -3.0, "-log q(z)": 2.0}, {"-log q(z)": 0.5}))
    \begin{aligned}
    & \underbrace{\log p(x)}_{-3} \\
    & + 0.5\,\bigl(\underbrace{-\log q(z)}_{2}\bigr)
    \end{aligned}
    """
    lines = []
    for name, value in values.items():
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        inner = r"\underbrace{" + term(name) + "}_{" + number(value) + "}"
        if weight != 1:
            inner = number(weight) + r"\,\bigl(" + inner + r"\bigr)"
        plus = "" if not lines else r"+ " if weight != 1 or not name.startswith("-") else ""
        lines.append(f"& {plus}{inner}")
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"
