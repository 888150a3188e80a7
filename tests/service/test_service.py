"""The service as a process of its own, asked over HTTP."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from persrec.serving.recommender import Recommender
from tests.small import events, run_of

SIZES = {"segment": 6, "recent": 5, "tokens": 2}
MIXED = [{"user_id": "a", "item_id": "i", "timestamp": 5}, {"user_id": "a", "item_id": "i"}]


@contextmanager
def service(run: Path, store: Path, *options: str) -> Iterator[str]:
    """Where the service is while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from persrec.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", str(run), "--store", str(store), "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield answering(f"http://127.0.0.1:{port}", process)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (0, -signal.SIGTERM)


def answering(place: str, process: subprocess.Popen) -> str:
    """The place, when something answers there."""
    for _ in range(300):
        try:
            httpx.get(f"{place}/health")
            return place
        except httpx.TransportError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
    raise AssertionError("it did not start")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, pl.DataFrame]:
    """A run, a store of its log, and the log."""
    folder, log = tmp_path_factory.mktemp("service"), events()
    run = run_of(folder, log, memory=SIZES)
    with Recommender.load(run, folder / "store") as recommender:
        recommender.compress()
    return run, folder / "store", log


@pytest.fixture(scope="module")
def place(made: tuple[Path, Path, pl.DataFrame]) -> Iterator[str]:
    with service(made[0], made[1]) as where:
        yield where


def ask(place: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(place + path, json=body, timeout=30)


def test_many_at_once_get_what_each_would_get_alone(made: tuple[Path, Path, pl.DataFrame], place: str) -> None:
    users = made[2]["user_id"].unique(maintain_order=True).to_list()
    with Recommender.load(made[0], made[1]) as recommender:
        wanted = recommender.recommend(users, 3)
    with ThreadPoolExecutor(16) as pool:
        asked = list(pool.map(lambda user: ask(place, "/recommend", users=[user], k=3), users * 3))
    for user, answer in zip(users * 3, asked, strict=True):
        assert answer.status_code == 200, answer.text
        ((found,)) = answer.json()
        rows = wanted.filter(pl.col("user_id") == user)
        assert found["user_id"] == user
        assert [item["item_id"] for item in found["items"]] == rows["item_id"].to_list()
        assert [item["score"] for item in found["items"]] == pytest.approx(rows["score"].to_list(), abs=1e-5)


def test_scores(made: tuple[Path, Path, pl.DataFrame], place: str) -> None:
    users, items = (made[2][name].unique(maintain_order=True).to_list() for name in ("user_id", "item_id"))
    answer = ask(place, "/score", users=users[:2], candidates=items[:4]).json()
    with Recommender.load(made[0], made[1]) as recommender:
        wanted = recommender.score(users[:2], items[:4])["score"].to_list()
    assert answer[0]["scores"] + answer[1]["scores"] == pytest.approx(wanted, abs=1e-5)


def test_an_update_is_seen_by_what_is_asked_after_it(made: tuple[Path, Path, pl.DataFrame], place: str) -> None:
    item, moment = made[2]["item_id"][0], int(made[2]["timestamp"].max()) + 1000
    before = ask(place, "/update", events=[{"user_id": "nobody-yet", "item_id": item, "timestamp": moment}])
    assert before.json()["applied"] == 1
    assert before.json()["new_users"] == 1
    (found,) = ask(place, "/recommend", users=["nobody-yet"], k=30).json()
    assert item not in [one["item_id"] for one in found["items"]], "what a user had is not recommended"
    again = ask(place, "/update", events=[{"user_id": "nobody-yet", "item_id": item, "timestamp": moment}])
    assert again.json()["applied"] == 0


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/recommend", {"users": ["who"]}, "'who'"),
        ("/recommend", {"users": []}, "body.users: List should have at least 1 item"),
        ("/recommend", {"users": ["a"], "many": 3}, "body.many: Extra inputs are not permitted"),
        ("/recommend", {"users": ["a"], "k": 0}, "body.k: Input should be greater than or equal to 1"),
        ("/recommend", {"users": ["a"], "at": 10**30}, "body.at: Input should be less than or equal to 7258118399999"),
        ("/update", {"events": [{"user_id": "a", "item_id": "i", "timestamp": 10**30}]}, "timestamp: Input should be"),
        ("/score", {"users": ["a"] * 1000, "candidates": ["i"] * 1001}, "expected at most 1,000,000 scores"),
        ("/update", {"events": [{"user_id": "a"}]}, "item_id: Field required"),
        ("/update", {"events": MIXED}, "got 1 of 2 events without a timestamp, expected all or none; add them"),
    ],
)
def test_what_is_wrong_is_said(place: str, path: str, body: dict[str, Any], words: str) -> None:
    answer = ask(place, path, **body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_half_a_surrogate_pair_is_no_id(place: str) -> None:
    body, kind = rb'{"users": ["\ud800"]}', {"Content-Type": "application/json"}
    answer = httpx.post(f"{place}/recommend", content=body, headers=kind)
    assert answer.status_code == 422
    assert "surrogates not allowed" in answer.json()["error"]


def test_an_address_or_method_that_is_none_says_so(place: str) -> None:
    answer = httpx.get(f"{place}/recommend")
    assert (answer.status_code, answer.json()) == (405, {"error": "GET /recommend: Method Not Allowed; see /docs"})
    assert httpx.get(f"{place}/nothing").json() == {"error": "GET /nothing: Not Found; see /docs"}


def test_one_fault_does_not_spoil_its_neighbours(made: tuple[Path, Path, pl.DataFrame], place: str) -> None:
    user = made[2]["user_id"][0]
    names = [user, "who"] * 12
    with ThreadPoolExecutor(24) as pool:
        codes = list(pool.map(lambda name: ask(place, "/recommend", users=[name]).status_code, names))
    assert codes == [200, 422] * 12


def test_health_and_metrics(place: str) -> None:
    health = httpx.get(place + "/health").json()
    assert health["status"] == "ok"
    ask(place, "/recommend", users=["who"])
    text = httpx.get(place + "/metrics").text
    assert 'persrec_requests_total{path="/recommend",status="422"}' in text
    assert "persrec_batch_requests_bucket" in text
    assert "persrec_waiting_requests 0.0" in text
    assert httpx.get(place + "/nowhere").status_code == 404


def test_a_line_that_is_full_or_too_slow_says_so(made: tuple[Path, Path, pl.DataFrame]) -> None:
    users = made[2]["user_id"].unique().to_list()
    options = "--waiting", "2", "--together", "1", "--timeout", "0.05"
    with service(made[0], made[1], *options) as where, ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda _: ask(where, "/recommend", users=users, k=30), range(64)))
    codes = {answer.status_code for answer in found}
    assert codes == {200, 503}, "some are answered, the others are told at once"
    errors = {answer.json()["error"] for answer in found if answer.status_code == 503}
    assert any("2 requests are waiting already; try again later" in error for error in errors)


def test_a_second_service_cannot_write_to_a_store_in_use(made: tuple[Path, Path, pl.DataFrame], place: str) -> None:
    event = {"user_id": "a", "item_id": made[2]["item_id"][0], "timestamp": int(made[2]["timestamp"].max()) + 5000}
    assert ask(place, "/update", events=[event]).status_code == 200
    with service(made[0], made[1]) as other:
        answer = ask(other, "/update", events=[event])
    assert answer.status_code == 503, "the client is not at fault"
    assert "is being written by process" in answer.json()["error"]
