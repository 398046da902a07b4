r"""The file: a header, chunks that stand for themselves, and where they are.

    ALLEGORY  u16 format                                                            all little endian
    u32 length, u32 crc, zlib of JSON: the model's checksum, the shape of an example, the grids of the latents, ...
    a chunk:  u32 length of its numbers, u32 words, u32 crc of both, the numbers, the words
    the end:  u64 where each chunk begins, u32 how many examples each holds, u32 chunks, u32 crc, u32 0x444E4521

A chunk's numbers are whole, in seven bits a byte, and deflated. Chunks are read one at a time, whichever is wanted, and
a byte that is not what it was costs the one that it stands in.

Shapes: W words, C chunks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from zlib import compress, crc32, decompress, error

import numpy as np

from allegory.compression.stack import Array

__all__ = ["Chunk", "Reader", "Writer"]

MAGIC, FORMAT, END = b"ALLEGORY", 2, 0x444E4521
HEAD, CHUNK, TAIL = struct.Struct("<8sHII"), struct.Struct("<III"), struct.Struct("<III")


@dataclass(frozen=True)
class Chunk:
    """Examples that are decoded together.

    Attributes:
        rows: how many.
        numbers: what else the receiver has to know, whole numbers.
        words: (W,) uint32 the stack.
    """

    rows: int
    numbers: tuple[int, ...]
    words: Array


class Writer:
    """Writes a file, a chunk at a time.

    Args:
        stream: to write to.
        header: what is the same for all chunks, for JSON.
    """

    def __init__(self, stream: BinaryIO, header: dict[str, Any]) -> None:
        self._stream, self._places = stream, [0]
        self._rows: list[int] = []
        packed = compress(json.dumps(header, separators=(",", ":")).encode(), 9)
        self._write(HEAD.pack(MAGIC, FORMAT, len(packed), crc32(packed)) + packed)
        self.header = self._places[-1]

    def add(self, chunk: Chunk) -> None:
        """Writes a chunk after those before it."""
        numbers, words = compress(_varints(chunk.numbers), 9), chunk.words.astype("<u4").tobytes()
        self._rows.append(chunk.rows)
        self._places.append(self._places[-1])
        self._write(CHUNK.pack(len(numbers), len(chunk.words), crc32(numbers + words)) + numbers + words)

    def close(self) -> int:
        """Writes where the chunks are. Returns the bytes of the file."""
        table = np.array(self._places[:-1], "<u8").tobytes() + np.array(self._rows, "<u4").tobytes()
        self._write(table + TAIL.pack(len(self._rows), crc32(table), END))
        return self._places[-1]

    def _write(self, content: bytes) -> None:
        self._stream.write(content)
        self._places[-1] += len(content)


class Reader:
    """Reads a file.

    Args:
        stream: that can be searched.

    Attributes:
        header: as it was written.
        rows: of each chunk.

    Raises:
        ValueError: no such file, or one of a newer version, truncated, damaged, or with something after its end.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        size = stream.seek(0, 2)
        if self._read(0, len(MAGIC)) != MAGIC:
            raise ValueError("this is no file of allegory compress: it does not begin with ALLEGORY")
        if size < HEAD.size:
            raise ValueError(TRUNCATED)
        _, version, length, check = HEAD.unpack(self._read(0, HEAD.size))
        if version != FORMAT:
            raise ValueError(
                f"this file has format {version}, and this version of allegory reads format {FORMAT}: wanted the "
                f"version that wrote it{', or a newer one' if version > FORMAT else ''}"
            )
        packed = self._read(HEAD.size, length)
        if len(packed) < length or size < HEAD.size + length + TAIL.size:
            raise ValueError(TRUNCATED)
        if crc32(packed) != check:
            raise ValueError("the header of this file is damaged: wanted an undamaged copy")
        self.header: dict[str, Any] = json.loads(decompress(packed))
        count, check, end = TAIL.unpack(self._read(size - TAIL.size, TAIL.size))
        begin = size - TAIL.size - 12 * count
        table = self._read(begin, 12 * count) if begin > HEAD.size else b""
        if end != END or crc32(table) != check:
            raise ValueError(TRUNCATED)
        self.places = [*np.frombuffer(table, "<u8", count).tolist(), begin]
        self.rows: list[int] = np.frombuffer(table, "<u4", count, 8 * count).tolist()

    def chunk(self, index: int) -> Chunk:
        """One of the chunks.

        Raises:
            ValueError: it is damaged.
        """
        damaged = ValueError(
            f"chunk {index} of {len(self.rows)} is damaged, {self.rows[index]} examples from {sum(self.rows[:index])} "
            "on; the others can be read, decompress(..., rows=...)"
        )
        begin, end = self.places[index : index + 2]
        content = self._read(begin, end - begin)
        if len(content) < CHUNK.size:
            raise damaged
        length, words, check = CHUNK.unpack_from(content)
        body = content[CHUNK.size :]
        if len(body) != length + 4 * words or crc32(body) != check:
            raise damaged
        try:
            numbers = tuple(_from_varints(decompress(body[:length])))
        except error:
            raise damaged from None
        return Chunk(self.rows[index], numbers, np.frombuffer(body, "<u4", words, length).astype(np.uint32))

    def _read(self, begin: int, length: int) -> bytes:
        self._stream.seek(begin)
        return self._stream.read(length)


TRUNCATED = (
    "the end of this file is not what was written: it is truncated, damaged, or something was added; wanted a whole "
    "copy"
)


def _varints(numbers: Iterable[int]) -> bytes:
    """Whole numbers, seven bits a byte, the lowest first; the sign is the lowest bit of all."""
    found = bytearray()
    for n in numbers:
        left = 2 * n if n >= 0 else -2 * n - 1
        while left > 127:
            found.append(left & 127 | 128)
            left >>= 7
        found.append(left)
    return bytes(found)


def _from_varints(content: bytes) -> Iterator[int]:
    n, place = 0, 0
    for byte in content:
        n |= (byte & 127) << place
        place += 7
        if byte < 128:
            yield n // 2 if n % 2 == 0 else -(n + 1) // 2
            n, place = 0, 0
