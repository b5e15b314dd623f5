"""Sound text, bytes and JSON in, unsound ones out. Everything comes from the random generator that is handed in."""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

ODD_NUMBERS = (
    *("0", "-0", "-1", "1", "2", "0.5", "1.0", "7", "127", "128", "255", "256", "65535", "65536", "2147483647"),
    *("2147483648", "-2147483649", "4294967296", "9223372036854775808", "1e308", "1e309", "-1e309", "1e-320", "1e19"),
    *("nan", "NaN", "inf", "-inf", "Infinity", "0x10", "1_000", "1,5", "5e", "+5", "--5", " 5 ", "", "²", "٣", "½"),
    *("9" * 400, "1" * 5000, "0." + "0" * 400 + "1", "600", "600.0000001", "true", "null"),
)
ODD_TEXTS = (
    *("", " ", "\t", "\n", "\r\n", "\0", "\x1b[31m", "\x7f", "\u2028", "\u202e", "\ufeff", "\udc80", "\ud800", "é"),
    *(
        "💥",
        "%",
        "%00",
        "%zz",
        "%0d%0a",
        "%2f%2e%2e",
        "%F0%9F",
        "@",
        ":",
        "/",
        "//",
        "\\",
        "?",
        "#",
        "&",
        "=",
        "[",
        "]",
    ),
    *("{", "}", "..", "../..", "~", "-", "--", "'", '"', "`", "$HOME", "*", "+", "a" * 300, "ä" * 5000, "://", "[::1]"),
    "[::1",
)
_JSON_NUMBERS = (0, -1, 1, 2, 3, 0.5, -0.5, 1e-9, 7, 61, 601, 2**31, 2**63, 2**64, -(2**63), 1e300, 10**30)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_RAW = {
    "\ue000nan": "NaN",
    "\ue000inf": "Infinity",
    "\ue000minus": "-Infinity",
    "\ue000far": "1e999",
    "\ue000long": "1" * 5000,
    "\ue000deep": "[" * 100_000 + "]" * 100_000,
    "\ue000deeper": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "\ue000half": '"\\ud800"',
    "\ue000zero": "-0.0",
    "\ue000bare": "undefined",
}
"""Marks in a tree, and the JSON that they stand for, which Python would not write."""


def mutated_bytes(data: bytes, rng: random.Random, most: int = 4) -> bytes:
    """Return bytes with a few changes anywhere."""
    for _ in range(rng.choice((1, 1, most))):
        at = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 100, 1000)), max(1, len(data) // 2))
        end = at + length
        change = rng.randrange(8)
        if change == 0:
            data = data[:at]
        elif change == 1:
            data = data[:at] + data[end:]
        elif change == 2:
            data = data[:at] + rng.randbytes(length) + data[at:]
        elif change == 3:
            data = data[:at] + data[at:end] * rng.choice((2, 3, 50)) + data[end:]
        elif change == 4:
            data = overwritten(data, at, rng.randbytes(length))
        elif change == 5:
            data = overwritten(data, at, odd_integer(rng, rng.choice((1, 2, 4, 8))))
        elif at < len(data):
            data = overwritten(data, at, bytes([data[at] ^ 1 << rng.randrange(8)]))
    return data


def overwritten(data: bytes, at: int, new: bytes) -> bytes:
    """Return bytes with others in their place, as long as before."""
    return (data[:at] + new + data[at + len(new) :])[: len(data)]


def odd_integer(rng: random.Random, size: int) -> bytes:
    """Return an integer that is at a limit of something, or anything, big-endian or little-endian."""
    top = 1 << 8 * size
    value = rng.choice((0, 1, top - 1, top // 2, top // 2 - 1, rng.randrange(top), rng.randrange(256)))
    return value.to_bytes(size, rng.choice(("big", "little")))


def mutated_text(text: str, rng: random.Random, most: int = 3) -> str:
    """Return text with a few changes; it may hold characters that are in no encoding."""
    for _ in range(rng.choice((1, 1, most))):
        text = _changed_once(text, rng)
    return text


def _changed_once(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    end = at + rng.choice((1, 1, 2, 5, 30))
    change = rng.randrange(8)
    if change == 0:
        return text[:at] + text[end:]
    if change == 1:
        return text[:at] + rng.choice(ODD_TEXTS) + text[at:]
    if change == 2:
        return text[:at] + rng.choice(ODD_TEXTS) + text[end:]
    if change == 3:
        return text[:at] + text[at:end] * rng.choice((2, 3, 40)) + text[end:]
    if change == 4:
        return text[:at] if rng.random() < 0.5 else text[at:]
    if change == 5:
        return text.swapcase() if rng.random() < 0.3 else text[:at] + text[at:end].swapcase() + text[end:]
    if change == 6 and (numbers := list(_NUMBER.finditer(text))):
        found = rng.choice(numbers)
        return text[: found.start()] + rng.choice(ODD_NUMBERS) + text[found.end() :]
    return text[:at] + chr(rng.choice((rng.randrange(256), rng.randrange(0x11_0000)))) + text[end:]


def mutated_json(tree: Any, rng: random.Random) -> bytes:
    """Return a JSON text made of a tree, with changes in the tree or in the text."""
    way = rng.random()
    if way < 0.75:
        return as_json(mutated_tree(tree, rng))
    text = json.dumps(tree, indent=rng.choice((None, 1)))
    if way < 0.88:
        return mutated_text(text, rng).encode("utf-8", "surrogatepass")
    return mutated_bytes(text.encode(), rng)


def as_json(tree: Any) -> bytes:
    """Return a tree's JSON; see _RAW."""
    text = json.dumps(tree, ensure_ascii=False)
    for mark, raw in _RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode("utf-8", "surrogatepass")


def mutated_tree(tree: Any, rng: random.Random, most: int = 3) -> Any:
    """Return a copy of a JSON tree with a few nodes changed, removed, added or put elsewhere."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, most))):
        places = list(_places(tree))
        if not places or rng.random() < 0.02:
            return odd_value(rng, tree)
        parent, key = rng.choice(places)
        change = rng.randrange(8)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            parent[rng.choice(("", "extra", str(key) + " ", str(key).upper(), "\ud800"))] = odd_value(rng, parent[key])
        elif change == 1:
            parent.insert(key, odd_value(rng, parent[key]))
        elif change == 2:
            other, at = rng.choice(places)
            parent[key] = other[at] if at in _keys(other) else None
            tree = json.loads(json.dumps(tree)) if not _is_endless(tree) else {}
        else:
            parent[key] = odd_value(rng, parent[key])
    return tree


def odd_value(rng: random.Random, value: Any) -> Any:
    """Return something in place of a value: near to it, of another type, or of none that JSON has."""
    way = rng.random()
    if way < 0.45 and isinstance(value, int | float) and not isinstance(value, bool):
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value + 0.25, value / 3, str(value)))
    if way < 0.45 and isinstance(value, str):
        return rng.choice((mutated_text(value, rng, 1), value + rng.choice(ODD_TEXTS), [value], {value: value}))
    if way < 0.6:
        return rng.choice(_JSON_NUMBERS)
    if way < 0.75:
        return rng.choice(tuple(_RAW))
    if way < 0.85:
        return rng.choice(ODD_TEXTS)
    return rng.choice((None, True, False, [], {}, [[]], [None], {"": None}, [value] * 3, {"a": value}, [0] * 2000))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every node of a tree as its parent and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        parent = waiting.pop()
        for key in _keys(parent):
            found.append((parent, key))
            waiting.append(parent[key])
    return found


def _keys(node: Any) -> Sequence[Any]:
    if isinstance(node, dict):
        return list(node)
    return range(len(node)) if isinstance(node, list) else ()


def _is_endless(tree: Any) -> bool:
    """Return whether a node has been put inside itself."""
    try:
        json.dumps(tree)
    except (ValueError, RecursionError):
        return True
    return False
