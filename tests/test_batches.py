"""Batches by hand, and what holds of every epoch of a plan."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from persrec.batches import Batch, Budget, EpochLoader, Plan, Windows, collate, evaluation_windows
from persrec.constants import PAD
from tests.logs import Log, log_of, numbered

FIVE = log_of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 1], [2, 2, 4, 4, 3], [5]])  # five users, at most five events
TIMES = {0: [0, 1, 2, 3, 4], 1: [5, 6], 2: [7, 8, 9]}  # seconds


def windows(*rows: tuple[int, int, int, int]) -> Windows:
    """Windows of (user, start, end, shift)."""
    return Windows(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def test_by_hand() -> None:
    #     log                    window           shift      columns
    #     user 0  1 2 3 4 5      events 0 to 3    1          . 1 2 3 4
    #     user 2  8 9 1          all              0          8 9 1
    #     user 0  1 2 3 4 5      events 2 to 3    0          3 4
    history, events, user, _ = collate(FIVE, windows((0, 0, 4, 1), (2, 0, 3, 0), (0, 2, 4, 0)))
    assert history.item.tolist() == [[0, 1, 2, 3, 4], [8, 9, 1, 0, 0], [3, 4, 0, 0, 0]]
    assert history.target.tolist() == [[0, 2, 3, 4, 5], [9, 1, 0, 0, 0], [4, 5, 0, 0, 0]]
    assert history.valid.int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert history.position.tolist() == [[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4], [2, 3, 4, 5, 6]]
    assert events.tolist() == [5, 3, 2]
    assert user.tolist() == [0, 2, 0]
    assert not history.time.any()
    assert not history.query_time.any()


def test_the_last_event_of_a_user_has_no_target_and_never_the_next_users_first() -> None:
    history, _, _, _ = collate(FIVE, windows((1, 0, 2, 0), (4, 0, 1, 0)))
    assert history.target.tolist() == [[7, PAD], [PAD, PAD]]


@pytest.mark.parametrize(
    ("time", "own", "query"),
    [
        ("none", [[0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ("last", [[0, 0, 1, 2], [7, 8, 9, 0]], [[0, 0, 1, 2], [7, 8, 9, 0]]),
        ("next", [[0, 0, 1, 2], [7, 8, 9, 0]], [[0, 1, 2, 3], [8, 9, 9, 0]]),
    ],
)
def test_times(time: str, own: list[list[int]], query: list[list[int]]) -> None:
    history, _, _, _ = collate(FIVE, windows((0, 0, 3, 1), (2, 0, 3, 0)), time=time)
    seconds = [(field * history.valid // 1000).tolist() for field in (history.time, history.query_time)]
    assert seconds == [own, query]


def test_at_is_the_query_time_of_rows_without_a_successor_only() -> None:
    history, _, _, _ = collate(
        FIVE, windows((0, 3, 5, 0), (1, 0, 2, 0)), time="next", at=np.array([50_000, 60_000], dtype=np.int64)
    )
    assert (history.query_time // 1000).tolist() == [[4, 50], [6, 60]]
    assert (history.time // 1000).tolist() == [[3, 4], [5, 6]]


def test_at_changes_nothing_under_last() -> None:
    history, _, _, _ = collate(FIVE, windows((0, 3, 5, 0)), time="last", at=np.array([50_000]))
    assert (history.query_time // 1000).tolist() == [[3, 4]]


def test_open_columns_of_a_history() -> None:
    history, _, _, _ = collate(FIVE, windows((0, 0, 4, 1), (2, 0, 3, 0)))
    found = history.at(torch.tensor([[3, 4], [1, 2]]), torch.tensor([[True, True], [True, False]]))
    assert found.item.tolist() == [[3, 4], [9, PAD]]
    assert found.target.tolist() == [[4, 5], [1, PAD]]
    assert found.position.tolist() == [[2, 3], [1, 2]]
    assert found.valid.tolist() == [[True, True], [True, False]]


def test_evaluation_windows_end_before_the_target_and_begin_length_events_earlier() -> None:
    found = evaluation_windows(np.array([0, 2]), np.array([4, 2]), length=3)
    assert [field.tolist() for field in found] == [[0, 2], [1, 0], [4, 2], [0, 0]]
    assert evaluation_windows(np.array([0]), np.array([4]), length=None).start.tolist() == [0]


@pytest.mark.parametrize("users", [None, 4])
@pytest.mark.parametrize("recent", [None, 5])
def test_a_budget_is_kept_and_batches_fall_in_closed_segments_and_length(users: int | None, recent: int | None) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, 300)
    given = Windows(np.arange(300), np.zeros(300, np.int64), lengths, random.integers(0, 7, 300))
    budget = Budget(7, recent, 100, users)
    cut = [given.take(rows) for rows in budget.cut(given)]
    assert sorted(np.concatenate([batch.user for batch in cut])) == list(range(300))
    for batch in cut:
        columns = batch.columns
        assert len(columns) * columns.max() <= 100 or len(columns) == 1
        assert users is None or len(columns) <= users
        closed = np.zeros(len(columns)) if recent is None else np.maximum(0, (columns - recent) // 7)
        assert all(a >= b for a, b in pairwise(closed))
    for batch, after in pairwise(cut):  # a batch is cut only where the next user would not have fitted
        wider = max(batch.columns.max(), after.columns[0])
        full = users is not None and len(batch.user) == users
        assert full or (len(batch.user) + 1) * wider > 100


def test_a_user_above_the_budget_is_a_batch_alone() -> None:
    cut = Budget(4, 4, 10, None).cut(windows((0, 0, 50, 0), (1, 0, 3, 0), (2, 0, 3, 0)))
    assert [rows.tolist() for rows in cut] == [[0], [1, 2]]


def test_no_users_are_no_batches() -> None:
    assert Budget(4, 4, 10, None).cut(windows((0, 0, 5, 0)).take(np.array([], dtype=np.int64))) == []


LENGTHS = [3, 30, 4, 17, 2, 26, 9, 1, 40, 12, 5, 33]
TRAINABLE = {1, 2, 3, 4, 5, 6, 8, 9, 10, 11}  # two training events: 4 events of which 2 are held out, or 2 in all


def plan(log: Log, *, seed: int = 0, length: int | None = None, recent: int | None = 5, shift: bool = True) -> Plan:
    budget = Budget(6, recent, 80, None)
    return Plan(log, seed=seed, length=length, budget=budget, random_first_segment=shift, time="last")  # type: ignore[arg-type]


def epoch(of: Plan, number: int) -> list[Batch]:
    of.at(number)
    return [of[part] for part in of]


def contents(batches: list[Batch]) -> list[list[list[int]]]:
    return [[*batch.history.item.tolist(), batch.user.tolist()] for batch in batches]


@pytest.mark.parametrize("length", [None, 10])
@pytest.mark.parametrize("recent", [None, 5])
def test_every_trainable_user_is_in_every_epoch_once_with_its_next_events(
    recent: int | None, length: int | None
) -> None:
    log = numbered(*LENGTHS)
    of = plan(log, length=length, recent=recent)
    for number in range(3):
        users = []
        for batch in epoch(of, number):
            users += batch.user.tolist()
            for row, user in enumerate(batch.user.tolist()):
                valid = batch.history.valid[row]
                items = batch.history.item[row][valid].tolist()
                expected = min(int(log.train_end[user]) - 1, length or 10_000)
                assert len(items) == expected
                assert items == list(range(items[0], items[0] + expected)), "consecutive events"
                assert items[-1] - 1000 * (user + 1) <= log.train_end[user] - 2
                assert batch.history.target[row][valid].tolist() == [item + 1 for item in items]
                assert not batch.history.target[row][~valid].any(), "padding carries no loss"
        assert sorted(users) == sorted(TRAINABLE)


def test_held_out_events_are_never_targets() -> None:
    log = numbered(*LENGTHS)
    targets = {item for batch in epoch(plan(log), 0) for item in batch.history.target.flatten().tolist()}
    held = {1000 * (u + 1) + e for u, n in enumerate(LENGTHS) if n >= 3 for e in (n - 1, n - 2)}
    assert not targets & held


def test_users_stand_in_descending_order_of_closed_segments() -> None:
    for batch in epoch(plan(numbered(*LENGTHS)), 2):
        closed = ((batch.events - 5) // 6).clamp(min=0)
        assert closed.tolist() == sorted(closed.tolist(), reverse=True)


def shifts(of: Plan, epochs: int) -> dict[int, set[int]]:
    """Columns in front of each user over some epochs."""
    found: dict[int, set[int]] = {}
    for number in range(epochs):
        for batch in epoch(of, number):
            front = (~batch.history.valid).int().cumprod(dim=1).sum(dim=1)
            for user, columns in zip(batch.user.tolist(), front.tolist(), strict=True):
                found.setdefault(user, set()).add(columns)
    return found


def test_the_first_segment_is_of_any_length_for_users_with_closed_segments_only() -> None:
    found = shifts(plan(numbered(*LENGTHS)), 60)
    for user, columns in found.items():
        inputs = numbered(*LENGTHS).train_end[user] - 1
        assert columns == (set(range(6)) if inputs >= 11 else {0})  # o = S - shift is 1 to S


def test_no_shift_where_it_is_off_or_nothing_is_ever_closed() -> None:
    for of in (plan(numbered(*LENGTHS), shift=False), plan(numbered(*LENGTHS), recent=None)):
        assert set().union(*shifts(of, 5).values()) == {0}


def test_windows_of_a_length_move_over_the_whole_history() -> None:
    of = plan(numbered(40, 40), length=10)
    starts = {
        int(item) for n in range(150) for batch in epoch(of, n) for item in batch.history.item[batch.history.valid]
    }
    assert starts >= set(range(1000, 1037))  # inputs 0 to 36 of 40 events


def test_epochs_are_functions_of_seed_and_number() -> None:
    log = numbered(*LENGTHS)
    first = plan(log)
    third = contents(epoch(first, 3))
    assert third == contents(epoch(plan(log), 3))
    assert third != contents(epoch(first, 4))
    assert third == contents(epoch(first, 3)), "going back repeats it"
    assert third != contents(epoch(plan(log, seed=1), 3))


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(done: int) -> None:
    log = numbered(*LENGTHS)
    of = plan(log)
    of.at(2)
    loader = EpochLoader(of)
    whole = contents(list(EpochLoader(of)))
    given = iter(loader)
    for _ in range(done):
        next(given)
    assert loader.state_dict() == {"epoch": 2, "done": done}
    again = EpochLoader(plan(log))
    again.load_state_dict(loader.state_dict())
    assert contents(list(again)) == whole[done:]
    assert again.state_dict() == {"epoch": 2, "done": len(whole)}


def test_a_loader_whose_epoch_is_over_goes_on_with_the_next() -> None:
    log = numbered(*LENGTHS)
    loader = EpochLoader(plan(log))
    list(loader)
    again = EpochLoader(plan(log))
    again.load_state_dict(loader.state_dict())
    assert contents(list(again)) == contents(epoch(plan(log), 1))


def test_a_worker_gives_the_same_batches() -> None:
    log = numbered(*LENGTHS)
    alone, helped = EpochLoader(plan(log)), EpochLoader(plan(log), workers=1)
    assert contents(list(helped)) == contents(list(alone))
    assert helped.state_dict() == alone.state_dict()


def test_moving_a_batch_keeps_its_contents() -> None:
    batch = epoch(plan(numbered(*LENGTHS)), 0)[0]
    moved = batch.to("cpu")
    assert contents([moved]) == contents([batch])
    assert batch.to("meta").history.item.device.type == "meta"


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_devices_share_the_batches_of_an_epoch_in_turn(ranks: int) -> None:
    """Batch n is device n % ranks'; who has none left is given an event without a target."""
    of = plan(numbered(*LENGTHS))
    whole = contents(epoch(of, 3))
    shares = []
    for rank in range(ranks):
        of.share(rank, ranks)
        shares.append(epoch(of, 3))
        assert len(shares[-1]) == len(of) == -(-len(whole) // ranks)
    turns = [batch for turn in zip(*shares, strict=True) for batch in turn]
    assert contents(turns[: len(whole)]) == whole
    assert len(turns) - len(whole) == -len(whole) % ranks
    for batch in turns[len(whole) :]:
        assert batch.history.valid.tolist() == [[True]]
        assert batch.history.target.tolist() == [[PAD]]
