"""What a Recommender does for several requests at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import ITEM, TIME, USER
from persrec.recipe.recipe import Recipe
from persrec.serving.histories import carried, columns_of
from persrec.serving.recommender import Recommender

Id = int | str
MOST_SCORES = 1_000_000  # that are answered together


def recommend(
    recommender: Recommender, common: tuple[int, int | None], requests: Sequence[list[Id]]
) -> list[list[dict[str, Any]]]:
    """For each request, a list of users, their items; `common` is k and the moment at which they are asked."""
    k, at = common
    users = list({str(user): user for request in requests for user in request}.values())  # "7" is 7
    frame = recommender.recommend(users, k, at=at)
    found: dict[str, list[dict[str, Any]]] = {}
    for user, item, score in frame.select(USER, ITEM, "score").iter_rows():
        found.setdefault(str(user), []).append({"item_id": item, "score": score})
    return [[{"user_id": user, "items": found.get(str(user), [])} for user in request] for request in requests]


def score(
    recommender: Recommender, common: int | None, requests: Sequence[dict[str, Any]]
) -> list[list[dict[str, Any]]]:
    """For each request, users and candidates, the scores in their order; `common` is when they are asked."""
    return [answer for some in _few(requests) for answer in _scored(recommender, common, some)]


def _few(requests: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Requests together, as long as they ask for no more scores than one may."""
    some: list[dict[str, Any]] = []
    wanted = 0
    for request in requests:
        own = len(request["users"]) * len(request["candidates"])
        if some and wanted + own > MOST_SCORES:
            yield some
            some, wanted = [], 0
        some.append(request)
        wanted += own
    yield some


def _scored(recommender: Recommender, at: int | None, requests: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    asked: dict[str, tuple[Id, list[Id]]] = {}  # "7" is 7
    for request in requests:
        for user in request["users"]:
            asked.setdefault(str(user), (user, []))[1].extend(request["candidates"])
    scores = iter(recommender.score(None, dict(asked.values()), at=at)["score"].to_list())
    found = {name: iter(list(islice(scores, len(items)))) for name, (_, items) in asked.items()}
    return [
        [
            {"user_id": user, "scores": list(islice(found[str(user)], len(request["candidates"])))}
            for user in request["users"]
        ]
        for request in requests
    ]


def update(
    recommender: Recommender, common: None, requests: Sequence[list[dict[str, Any]]]
) -> list[dict[str, Any] | Exception]:
    """For each request, a list of events, what became of them; or its fault, as those before it are committed."""
    answers: list[dict[str, Any] | Exception] = []
    for events in requests:
        try:
            answers.append(asdict(recommender.update(frame_of(events, recommender.recipe))))
        except Exception as error:
            answers.append(error)
    return answers


def frame_of(events: list[dict[str, Any]], recipe: Recipe) -> pl.DataFrame:
    """Events as a frame in the columns of the run's log, of what they carry only what is asked for.

    Ids are text where one of them is, times are said to be ms since 1970. Raises UserError for an event that lacks what
    the model reads, or the filters.
    """
    columns = {}
    for name in (USER, ITEM):
        ids = [event[name] for event in events]
        columns[name] = pl.Series(ids if all(isinstance(one, int) for one in ids) else [str(one) for one in ids])
    for name in sorted(carried(recipe)):
        values = [event.get(name) for event in events]
        if None in values:
            raise UserError(
                f"update: event {values.index(None) + 1} of {len(values)} has no {name}, expected one with every "
                "event, as this model or the filters of its log read it"
            )
        columns[name] = pl.Series(values)
    times = [event[TIME] for event in events]
    if all(time is not None for time in times):
        columns[TIME] = pl.Series(times, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame(columns).rename(columns_of(recipe), strict=False)


WORK: dict[str, Callable[..., Sequence[Any]]] = {"recommend": recommend, "score": score, "update": update}
