"""The line in which requests wait for the one thread that works on them, several of a kind at a time.

One thread reads and writes the store, so a request sees every update that was answered before it was sent. Requests
that wait at the same moment are in no order but that of their kind: none was sent after another was answered.
"""

import queue
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from persrec.errors import UserError

# What requests agree in, and the rest of each, to answers; an exception among them is one request's. Work that raises
# one is repeated for each request by itself, so what changes anything must not raise.
Work = Callable[[Hashable, Sequence[Any]], Sequence[Any]]


class Full(Exception):
    """The line is as long as it may be."""


@dataclass(frozen=True)
class Request:
    """One request in the line."""

    kind: str
    common: Hashable  # requests of a kind that agree in this are answered together
    rest: Any
    answer: "Future[Any]" = field(default_factory=Future)


class Line:
    """Works on requests as they come: at most `together` that wait at once, those of a kind together and in order."""

    def __init__(
        self,
        work: dict[str, Work],
        *,
        longest: int,
        together: int,
        on_batch: Callable[[str, int], None] = lambda kind, count: None,
    ) -> None:
        """`longest` requests may wait; `on_batch` is told of each batch."""
        self.work, self.together, self.on_batch = work, together, on_batch
        self._waiting: queue.Queue[Request | None] = queue.Queue(longest)
        self._thread = threading.Thread(target=self._run, name="persrec", daemon=True)
        self._thread.start()

    def put(self, kind: str, common: Hashable, rest: Any) -> "Future[Any]":
        """The answer to a request, when it is there; until it is worked on it can be cancelled. Raises `Full`."""
        request = Request(kind, common, rest)
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            raise Full from None
        return request.answer

    def __len__(self) -> int:
        """How many requests wait."""
        return self._waiting.qsize()

    def close(self) -> None:
        """Answer what has come, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            batch = [self._waiting.get()]
            while len(batch) < self.together and batch[-1] is not None:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            going = batch[-1] is not None
            requests = [one for one in batch if one is not None and one.answer.set_running_or_notify_cancel()]
            alike: dict[tuple[str, Hashable], list[Request]] = {}
            for request in requests:
                alike.setdefault((request.kind, request.common), []).append(request)
            for (kind, common), several in alike.items():
                self._answer(kind, common, several)

    def _answer(self, kind: str, common: Hashable, requests: list[Request]) -> None:
        self.on_batch(kind, len(requests))
        try:
            answers = self.work[kind](common, [request.rest for request in requests])
        except Exception as error:
            nothing_done = isinstance(error, UserError) or kind != "update"
            for request in requests:
                if len(requests) > 1 and nothing_done:  # only the one at fault is to hear of it
                    self._answer(kind, common, [request])
                else:
                    request.answer.set_exception(error)
        else:
            for request, answer in zip(requests, answers, strict=True):
                if isinstance(answer, Exception):
                    request.answer.set_exception(answer)
                else:
                    request.answer.set_result(answer)
