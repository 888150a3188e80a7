"""The segment rule and its masks, against their definitions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from persrec.models.segments import SegmentRule, causal, chain_window, fold_visible, unscored

sizes = st.integers(1, 60)


@given(events=st.integers(0, 5000), segment=sizes, recent=sizes)
def test_open_block_holds_between_r_and_r_plus_s_minus_1_events(events: int, segment: int, recent: int) -> None:
    closed = int(SegmentRule(segment, recent).closed(torch.tensor([events]))[0])
    opened = events - closed * segment
    assert closed >= 0
    if events < recent + segment:
        assert opened == events
    else:
        assert recent <= opened <= recent + segment - 1


@given(events=st.integers(0, 400), segment=sizes, recent=sizes)
def test_one_more_event_closes_at_most_one_segment(events: int, segment: int, recent: int) -> None:
    now, then = SegmentRule(segment, recent).closed(torch.tensor([events, events + 1])).tolist()
    assert then - now == int(events + 1 >= recent + segment and (events + 1 - recent) % segment == 0)


def test_full_never_closes() -> None:
    assert SegmentRule(4, None).closed(torch.tensor([0, 3, 1000])).tolist() == [0, 0, 0]


def test_causal_rows_see_the_memory_themselves_and_earlier_rows() -> None:
    assert causal(3, 2).int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_tokens_see_their_segment_but_not_the_events_after_it() -> None:
    visible = fold_visible(2, 1, 2, 1)[0].int().tolist()
    #                memory  segment  after  tokens
    assert visible == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 1],
    ]


@given(events=st.integers(1, 300), segment=sizes, recent=sizes, reads_all=st.booleans())
def test_every_event_is_scored_exactly_once(events: int, segment: int, recent: int, reads_all: bool) -> None:
    rule = SegmentRule(segment, recent)
    closed = int(rule.closed(torch.tensor([events]))[0])
    behind = recent - 1 if reads_all else 0
    scored: list[int] = []
    for block in range(closed + 1):
        start, end = block * segment, (block + 1) * segment + behind if block < closed else events
        skipped = unscored(rule, torch.tensor([block]), end - start, reads_all=reads_all)[0]
        scored += [start + row for row in range(end - start) if not skipped[row]]
    assert scored == list(range(events))


def test_a_chain_reads_the_tokens_of_earlier_blocks_within_the_cap() -> None:
    # rows 0-3: two remembered segments; rows 4-9: tokens of blocks 0, 1, 2
    rows, exist = chain_window(torch.tensor([0, 2]), 3, 4, 2, None)
    assert rows[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert exist[1].all()
    assert rows[0][exist[0]].tolist() == [0, 1, 2, 3]
    rows, exist = chain_window(torch.tensor([0, 1, 2]), 3, 4, 2, 2)
    assert rows.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert exist.all()
