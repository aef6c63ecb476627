"""Mutations that know what kind of file they break: a field of a JSON document, a cell, a tag, a header, a member.

Every choice comes from the ``Random`` that is given, so that the name of an input says all of it.
"""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

# what stands where something else was expected
TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e308",
        "-0.0",
        "1.5",
        "2000000000",
        "9" * 4400,
        "0x10",
        "1_0",
    ),
    *(
        "a\nb",
        "\0",
        "\x1b[31mred",
        "\u202e",
        "../../../x",
        "/",
        ".",
        "..",
        "CON",
        "a:b",
        "a" * 300,
        "é" * 200,
        "\ud800",
    ),
    *("=1+1", "<b>&amp;", "%s{0}", "null", "true", "٣", "²"),
)
VALUES = (
    *(None, True, False, 0, -1, 1, 255, 2**31, 2**63, 2**64, -(2**31), 0.5, -0.5, 1e308, 5e-324),
    *([], {}, [None], [[]], [1, 2, 3, 4], [0, 0, 0], ["a"], {"a": 1}, [{}], [[1, 2], [3]]),
)
RAW = ("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "9" * 4400, "1" + "0" * 400)  # that ``json`` reads, or nearly
DEEP = ("[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000)
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(name: str, data: bytes, random: Random) -> bytes:
    """Return ``data`` of a file called ``name``, broken once to four times; in one of five also byte by byte."""
    kind = STRUCTURED.get(Path(name).suffix.lower())
    if kind is None or random.random() < 0.15:
        return of_bytes(data, random)
    try:
        data = kind(data, random)
    except (ValueError, KeyError, IndexError, struct.error, UnicodeError):  # what was broken before has no such part
        return of_bytes(data, random)
    return of_bytes(data, random) if random.random() < 0.05 else data


# -------------------------------------------------------------------------------------------------------------- bytes


def of_bytes(data: bytes, random: Random) -> bytes:
    """Flip, cut, repeat, insert and overwrite."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(content) + 1)
        length = random.choice((1, 2, 4, 16, 64))
        match random.randrange(7):
            case 0 if at < len(content):
                content[at] ^= 1 << random.randrange(8)
            case 1:
                del content[at:]
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case 4:
                content[at:at] = random.randbytes(length)
            case 5:
                size = random.choice((1, 2, 4))
                number = random.choice(NUMBERS) & (256**size - 1)
                content[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
            case _:
                content[at : at + length] = random.randbytes(length)
    return bytes(content)


# --------------------------------------------------------------------------------------------------------------- text


def of_text(data: bytes, random: Random) -> bytes:
    """Replace, drop and repeat cells and lines; now and then in another encoding."""
    lines = data.decode().split("\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(lines))
        parts = re.split(r"([,\s=:;|<>\[\]\"]+)", lines[at])
        cell = random.randrange(len(parts))
        match random.randrange(7):
            case 0 | 1 | 2:
                parts[cell] = random.choice(TEXTS)
                lines[at] = "".join(parts)
            case 3:
                del parts[cell]
                lines[at] = "".join(parts)
            case 4:
                lines[at:at] = [random.choice(lines)]
            case 5 if len(lines) > 1:
                del lines[at]
            case _:
                lines[at] += random.choice((*",;\t=.\"'[]{}<>#", "a." * 3000 + "a=1", '"' * 3, "\r"))
    return encoded("\n".join(lines), random)


def encoded(text: str, random: Random) -> bytes:
    """Return ``text`` as UTF-8, rarely as something else."""
    name = random.choice(("utf-8",) * 20 + ("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "utf-7"))
    try:
        return text.encode(name, "surrogatepass")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


# --------------------------------------------------------------------------------------------------------------- JSON


def of_json(data: bytes, random: Random) -> bytes:
    """Change a document anywhere in its tree."""
    document = json.loads(data)
    raw: list[str] = []
    for _ in range(random.choice((1, 1, 2, 4))):
        document = changed(document, random, raw)
    text = json.dumps(document, ensure_ascii=random.random() < 0.5)
    for index, token in enumerate(raw):
        text = text.replace(f'"@raw{index}@"', token)
    return encoded(text, random)


def of_json_lines(data: bytes, random: Random) -> bytes:
    """Change one line, or the order of the lines."""
    lines = data.rstrip(b"\n").split(b"\n")
    at = random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            lines[at:at] = [random.choice(lines)]
        case 1:
            lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
        case _:
            lines[at] = of_json(lines[at], random)
    return b"\n".join(lines) + b"\n" * random.randrange(3)


def changed(document: Any, random: Random, raw: list[str]) -> Any:
    """Return ``document`` with one node replaced, dropped, repeated or renamed."""
    places = list(_places(document))
    if not places or random.random() < 0.02:
        return odd(random, raw)
    holder, key = random.choice(places)
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 1:
            holder[random.choice((*TEXTS, "id", "name"))] = holder.pop(key)
        case 2:
            other, field = random.choice(places)
            holder[key] = json.loads(json.dumps(other[field]))
        case _:
            holder[key] = odd(random, raw)
    return document


def odd(random: Random, raw: list[str]) -> Any:
    """Return a value that nobody expected; ``raw`` collects tokens that no value of Python writes."""
    choice = random.random()
    if choice < 0.4:
        return random.choice(TEXTS)
    if choice < 0.8:
        return json.loads(json.dumps(random.choice(VALUES)))
    raw.append(random.choice(DEEP) if choice > 0.98 else random.choice(RAW))
    return f"@raw{len(raw) - 1}@"


def _places(node: Any) -> Any:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield node, key
        yield from _places(value)


# ---------------------------------------------------------------------------------------------------------------- XML

DECLARATIONS = (
    '<?xml version="1.0" encoding="martian"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    "<?xml version='9'?>",
)
ENTITIES = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>'


def of_xml(data: bytes, random: Random) -> bytes:
    """Replace, drop and repeat tags, attributes and texts."""
    tokens = re.findall(r"<[^>]*>|[^<]+", data.decode())
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(tokens))
        match random.randrange(9):
            case 0:
                del tokens[at]
                tokens = tokens or [""]
            case 1:
                tokens[at:at] = tokens[at : at + random.choice((1, 3, 7))]
            case 2:
                tokens[0:0] = [random.choice((*DECLARATIONS, ENTITIES))]
            case 3:
                tokens[at:at] = ["<a>" * random.choice((1, 5000))]
            case 4 | 5:
                numbers = [i for i, token in enumerate(tokens) if token[0] != "<"] or [at]
                tokens[random.choice(numbers)] = random.choice(TEXTS)
            case _:
                pieces = re.split(r'(="[^"]*")', tokens[at])
                piece = random.randrange(len(pieces))
                said = random.choice(TEXTS)
                pieces[piece] = f'="{said}"' if piece % 2 else pieces[piece]
                tokens[at] = "".join(pieces)
    return encoded("".join(tokens), random)


# ------------------------------------------------------------------------------------------------------------- arrays

DESCRIPTIONS = (
    "<f2",
    "<f4",
    ">f8",
    "|b1",
    "|u1",
    "<i8",
    "<c16",
    "|O",
    "<U5",
    "|V3",
    "<M8[s]",
    "[('a', '<f4')]",
    "(",
    "",
    "9",
)
SHAPES = (
    "()",
    "(0,)",
    "(3, 4)",
    "(2, 3, 4)",
    "(1000000, 1000000)",
    "(2, 2, 2, 2)",
    "(-1, 4)",
    "(10**9,)",
    "'a'",
    "(1e3,)",
)


def of_npy(data: bytes, random: Random) -> bytes:
    """Write another header, or make an archive of it."""
    if random.random() < 0.05:
        file = io.BytesIO()
        np.savez(file, np.eye(3))
        return of_bytes(file.getvalue(), random)
    (length,) = struct.unpack_from("<H", data, 8)
    header, rest = data[10 : 10 + length].decode("latin1"), data[10 + length :]
    match random.randrange(5):
        case 0:
            header = re.sub(r"'descr': '[^']*'", f"'descr': {random.choice(DESCRIPTIONS)!r}", header)
        case 1:
            header = re.sub(r"\([^)]*\)", random.choice(SHAPES), header)
        case 2:
            header = header.replace("False", random.choice(("True", "None", "[" * 500, "1", "'a'", "\0")))
        case 3:
            rest = (
                np.array(random.choices((np.nan, np.inf, -np.inf, 1e38, 0), k=len(rest) // 2)).astype("<f2").tobytes()
            )
        case _:
            header = of_text(header.encode(), random).decode("latin1")
    content = header.encode("latin1", "replace")
    version = random.choice((b"\x01\x00",) * 8 + (b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    return data[:6] + version + struct.pack("<H", min(len(content), 65535)) + content + rest


def of_safetensors(data: bytes, random: Random) -> bytes:
    """Change the header, which is JSON, or the numbers."""
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.3:
        at = 4 * random.randrange(len(rest) // 4)
        value = struct.pack("<f", random.choice((float("nan"), float("inf"), 1e38)))
        return data[:8] + header + rest[:at] + value + rest[at + 4 :]
    header = of_json(header, random)
    said = len(header) if random.random() < 0.9 else random.choice((0, 1, 2**31, 2**63))
    return struct.pack("<Q", said) + header + rest


# ------------------------------------------------------------------------------------------------------------ archives

MEMBERS = (
    "a.txt",
    "b/c.txt",
    "",
    ".",
    "/",
    "../x",
    "/abs",
    "a/../../x",
    "c:\\x",
    "C:/x",
    "a\0b",
    "a\nb",
    "é" * 130,
    "NUL",
)
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def of_zip(data: bytes, random: Random) -> bytes:
    """Write another archive: odd names, kinds of compression, flags; then break it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", random.choice(COMPRESSIONS)) as archive:
        for _ in range(random.choice((0, 1, 3))):
            member = zipfile.ZipInfo(random.choice(MEMBERS) or "x")
            member.external_attr = random.choice((0, 0o100644, 0o120777, 0o040755, 0o060000)) << 16
            member.compress_type = random.choice(COMPRESSIONS)
            archive.writestr(member, random.choice((b"", b"content", bytes(random.choice((10, 3_000_000))))))
    content = file.getvalue()
    match random.randrange(4):
        case 0:
            return content
        case 1:  # encrypted, or compressed in a way that nobody knows
            at = content.find(random.choice((b"PK\x01\x02", b"PK\x03\x04")))
            place = at + random.choice((6, 8, 10))
            return content[:place] + bytes([random.choice((1, 9, 99, 255))]) + content[place + 1 :]
        case _:
            return of_bytes(content, random)


def of_tar(data: bytes, random: Random) -> bytes:
    """Write another archive: odd names, types and sizes; then break it."""
    file = io.BytesIO()
    mode: Any = random.choice(("w", "w:gz", "w:bz2", "w:xz"))
    with tarfile.open(fileobj=file, mode=mode, format=random.choice((0, 1, 2))) as archive:
        for _ in range(random.choice((0, 1, 3))):
            member = tarfile.TarInfo(random.choice(MEMBERS))
            member.type = random.choice((b"0",) * 6 + (b"1", b"2", b"3", b"5", b"6", b"S", b"x"))
            member.linkname = random.choice(("", "/etc/passwd", "a.txt"))
            content = random.choice((b"", b"content", bytes(2000), data))
            member.size = len(content)
            try:
                archive.addfile(member, io.BytesIO(content))
            except (ValueError, tarfile.TarError):  # a name that tar cannot write
                continue
    content = file.getvalue()
    return content if random.random() < 0.3 else of_bytes(content, random)


STRUCTURED: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": of_json,
    ".jsonl": of_json_lines,
    ".xml": of_xml,
    ".csv": of_text,
    ".txt": of_text,
    ".toml": of_text,
    ".yaml": of_text,
    ".npy": of_npy,
    ".safetensors": of_safetensors,
    ".zip": of_zip,
    ".tar": of_tar,
}
