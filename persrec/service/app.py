"""The HTTP side: what may be asked, what comes back, and what a fault looks like."""

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, NamedTuple, Self

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from persrec import __version__
from persrec.constants import LATEST_MS
from persrec.errors import UserError
from persrec.service.line import Full, Line, Work
from persrec.service.work import MOST_SCORES, WORK
from persrec.serving.disk import StoreError
from persrec.serving.recommender import Recommender


def _encodable(text: str) -> str:
    """Text that UTF-8 has, unlike halves of a surrogate pair, which JSON can hold."""
    text.encode()  # a UnicodeEncodeError is a ValueError, which makes a 422
    return text


Id = StrictInt | Annotated[StrictStr, AfterValidator(_encodable)]
Users = Annotated[list[Id], Field(min_length=1, max_length=1000)]
Moment = Annotated[int, Field(ge=0, le=LATEST_MS)]  # ms since 1970


class Late(Exception):
    """A request waited longer than it may, and was not begun."""


class Limits(NamedTuple):
    """How much waits, for how long, and how much is done together."""

    waiting: int
    seconds: float
    together: int


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Recommend(Asked):
    users: Users
    k: int = Field(10, ge=1, le=1000)
    at: Moment | None = None


class Score(Asked):
    users: Users
    candidates: Annotated[list[Id], Field(min_length=1, max_length=10_000)]
    at: Moment | None = None

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if len(self.users) * len(self.candidates) > MOST_SCORES:
            got = f"{len(self.users)} users and {len(self.candidates)} candidates"
            raise ValueError(f"got {got}, expected at most {MOST_SCORES:,} scores; ask in parts")
        return self


class Event(Asked):
    user_id: Id
    item_id: Id
    timestamp: Moment | None = None
    rating: float | None = None
    weight: float | None = None
    dwell: float | None = None
    event: str | None = None  # its type, as the recipe's data.events has them


class Update(Asked):
    events: Annotated[list[Event], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _all_with_times_or_none(self) -> Self:
        without = sum(event.timestamp is None for event in self.events)
        if 0 < without < len(self.events):
            raise ValueError(
                f"got {without} of {len(self.events)} events without a timestamp, expected all or none; add them, or "
                "ask in parts"
            )
        return self


class Measures:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        known: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("persrec_requests", "Requests by path and status", ["path", "status"], **known)
        self.seconds = Histogram("persrec_request_seconds", "Seconds until the answer", ["path"], **known)
        self.together = Histogram(
            "persrec_batch_requests", "Requests answered together", ["kind"], buckets=(1, 2, 4, 8, 16, 32, 64), **known
        )
        self.waiting = Gauge("persrec_waiting_requests", "Requests in the line", **known)


def app_of(recommender: Recommender, limits: Limits) -> FastAPI:
    """The service of a recommender with a store; it is closed with the service."""
    measures, model = Measures(), recommender.model.maker()

    def on_batch(kind: str, count: int) -> None:
        measures.together.labels(kind).observe(count)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work: dict[str, Work] = {kind: partial(function, recommender) for kind, function in WORK.items()}
        app.state.line = Line(work, longest=limits.waiting, together=limits.together, on_batch=on_batch)
        measures.waiting.set_function(lambda: len(app.state.line))
        yield
        app.state.line.close()
        recommender.close()

    app = FastAPI(title="persrec", version=__version__, lifespan=lifespan)

    async def answered(kind: str, common: Hashable, rest: Any) -> Any:
        answer = app.state.line.put(kind, common, rest)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(answer)), limits.seconds)
        except TimeoutError:
            if answer.cancel():
                raise Late from None
            return await asyncio.wrap_future(answer)  # it is being worked on, and an update must not be in doubt

    @app.post("/recommend")
    async def recommend(asked: Recommend) -> Any:
        """The k best items of each user, best first."""
        return await answered("recommend", (asked.k, asked.at), asked.users)

    @app.post("/score")
    async def score(asked: Score) -> Any:
        """Scores of the candidates for each user, in their order."""
        return await answered("score", asked.at, asked.model_dump(include={"users", "candidates"}))

    @app.post("/update")
    async def update(asked: Update) -> Any:
        """Take in new events, and say what became of them."""
        return await answered("update", None, [event.model_dump() for event in asked.events])

    @app.get("/health")
    async def health() -> Any:
        """That it is there, and with which model."""
        return {
            "status": "ok",
            "version": __version__,
            "model": model,
            "waiting": len(app.state.line),
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return PlainTextResponse(generate_latest(measures.registry).decode(), media_type="text/plain; version=0.0.4")

    _explain_faults(app, limits)
    app.add_middleware(Measured, measures=measures)
    return app


def _explain_faults(app: FastAPI, limits: Limits) -> None:
    """Every fault as {"error": what was got, what was expected, what to do}."""

    def said(status: int, text: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": text}, status_code=status, headers=headers)

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> JSONResponse:
        return said(422, str(error))

    @app.exception_handler(StoreError)
    async def failed(request: Request, error: StoreError) -> JSONResponse:
        return said(503, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
        return said(422, f"{request.url.path}: {'; '.join(faults)}; see /docs")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        text = f"{request.method} {request.url.path}: {error.detail}; see /docs"
        return said(error.status_code, text, **(error.headers or {}))

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> JSONResponse:
        text = f"{limits.waiting} requests are waiting already; try again later, or start with a longer --waiting"
        return said(503, text, **{"Retry-After": "1"})

    @app.exception_handler(Late)
    async def late(request: Request, error: Late) -> JSONResponse:
        return said(503, f"no answer within {limits.seconds:g} s; try again later, or start with a longer --timeout")


class Measured:
    """Counts what an app answers; plain ASGI, which costs least."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self.app, self.measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            path = scope["path"] if status not in (404, 405) else "other"
            self.measures.requests.labels(path, status).inc()
            self.measures.seconds.labels(path).observe(time.perf_counter() - started)
