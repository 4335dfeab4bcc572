"""What an action printed: cleaned, bounded, in chunks at a bounded rate, digested whole.

protocol: docs/cosign-protocol.md, section 11. Invariant: reading never waits for delivery, so a
slow server cannot stop or lengthen a program; every raw byte is in the digest whether it is shown
or not.
"""

import asyncio
import codecs
import os
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from hashlib import sha256

from agent_bridge.core.output_chain import MAX_CHUNK_BYTES, Stream
from agent_bridge.core.pae import Digest
from agent_bridge.gate.output_cleaning import Redactor
from agent_bridge.gate.sandbox_launch import wait_readable

_READ_BYTES = 1 << 16
_TAIL_BYTES = 8 << 10
_RAW_FACTOR = 64
"""How much may be printed for each shown byte: a flood of control characters shows nothing."""
_TRUNCATED = b"\n[truncated: the rest is counted and digested, not shown]\n"


@dataclass(frozen=True)
class OutputChunk:
    stream: Stream
    data: bytes
    """UTF-8; its only control characters are newline and tab."""
    redacted: int


OutputSink = Callable[[OutputChunk], Awaitable[None]]


@dataclass(frozen=True)
class OutputSummary:
    shown_bytes: int
    total_bytes: int
    truncated: bool
    redactions: int
    """In what was shown."""
    stdout: Digest
    """Of everything the program wrote there, raw."""
    stderr: Digest
    tail: bytes
    """The last of what was shown, both streams in order."""


class _StreamReader:
    """Bytes of one stream to clean text."""

    def __init__(self, secrets: Collection[bytes]) -> None:
        self.digest = sha256()
        self.redactor = Redactor(secrets)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def clean(self, data: bytes, *, last: bool) -> tuple[bytes, int]:
        before = self.redactor.redactions
        text = self.redactor.feed(self._decoder.decode(data, last))
        if last:
            text += self.redactor.finish()
        return text.encode(errors="replace"), self.redactor.redactions - before


class OutputCollector:
    """Both streams of one run. Feed it bytes; take chunks."""

    def __init__(self, limit_bytes: int, secrets: Collection[bytes] = ()) -> None:
        self._limit = limit_bytes
        self._readers = {stream: _StreamReader(secrets) for stream in Stream}
        self._waiting: deque[OutputChunk] = deque()
        self._shown = 0
        self._total = 0
        self._redactions = 0
        self._truncated = False
        self._tail = b""
        self._changed = asyncio.Event()
        self._closed = False

    def feed(self, stream: Stream, data: bytes, *, last: bool = False) -> None:
        self._total += len(data)
        self._readers[stream].digest.update(data)
        if self._truncated:
            return  # cleaning what nobody sees would let a flood occupy the gate
        clean, redacted = self._readers[stream].clean(data, last=last)
        self._redactions += redacted
        room = self._limit - self._shown
        if len(clean) > room or self._total > _RAW_FACTOR * self._limit + _READ_BYTES:
            clean = clean[: max(room, 0)].decode(errors="ignore").encode()
            self._truncated = True
            clean += _TRUNCATED
        if clean or redacted:
            self._shown += len(clean)
            self._tail = (self._tail + clean)[-_TAIL_BYTES:]
            self._queue(stream, clean, redacted)
            self._changed.set()

    def close(self) -> None:
        """No more output will come."""
        self._closed = True
        self._changed.set()

    async def deliver(self, sink: OutputSink, interval: float, grace: float) -> None:
        """Hand every chunk to `sink` in order, at most one each `interval` seconds, until closed.

        grace   seconds the rest may take once closed; then TimeoutError
        """
        async with asyncio.timeout(None) as deadline:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._closed and deadline.when() is None:
                    deadline.reschedule(asyncio.get_running_loop().time() + grace)
                while self._waiting:
                    await sink(self._waiting.popleft())
                    await asyncio.sleep(interval)
                if self._closed and not self._waiting:
                    return

    def summarize(self) -> OutputSummary:
        return OutputSummary(
            shown_bytes=self._shown,
            total_bytes=self._total,
            truncated=self._truncated,
            redactions=self._redactions,
            stdout=_digest_of(self._readers[Stream.STDOUT]),
            stderr=_digest_of(self._readers[Stream.STDERR]),
            tail=self._tail.decode(errors="ignore").encode(),
        )

    def _queue(self, stream: Stream, clean: bytes, redacted: int) -> None:
        """Append, filling up the last waiting chunk first: fewer, fuller messages."""
        if self._waiting and self._waiting[-1].stream == stream:
            last = self._waiting.pop()
            clean = last.data + clean
            redacted += last.redacted
        while True:
            part = clean[:MAX_CHUNK_BYTES]
            if len(clean) > MAX_CHUNK_BYTES:
                part = part.decode(errors="ignore").encode()  # never cut inside a character
            clean = clean[len(part) :]
            self._waiting.append(OutputChunk(stream, part, redacted))
            redacted = 0
            if not clean:
                return


async def read_stream(descriptor: int, stream: Stream, collector: OutputCollector) -> None:
    """Read a pipe to its end. It ends when the last process of the sandbox is gone."""
    os.set_blocking(descriptor, False)
    while True:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            await wait_readable(descriptor)
            continue
        collector.feed(stream, data, last=not data)
        if not data:
            return
        await asyncio.sleep(0)  # a program that never stops writing must not starve the others


def _digest_of(reader: _StreamReader) -> Digest:
    return Digest(f"sha256:{reader.digest.hexdigest()}")
