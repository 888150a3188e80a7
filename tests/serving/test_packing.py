"""A user's record as bytes and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persrec.models.encodings import row_bytes
from persrec.serving.packing import CHECKSUM, Layout, MemoryRows, Record, no_rows, pack, sizes, unpack
from persrec.serving.past import Past, of_items
from tests.serving.records import LAYOUTS, record_of, same

PLAIN = Layout(1, 4, "int8", True, "none")


@given(st.sampled_from(LAYOUTS), st.integers(0, 10_000))
def test_what_was_written_is_read(layout: Layout, seed: int) -> None:
    record = record_of(layout, seed)
    data = pack(record, layout)
    assert same(unpack(data, layout), record)
    assert pack(unpack(data, layout), layout) == data
    assert sum(sizes(record, layout).values()) == len(data)


@given(st.integers(0, 10_000), st.data())
def test_damaged_bytes_are_noticed(seed: int, data: st.DataObject) -> None:
    layout = LAYOUTS[seed % len(LAYOUTS)]
    packed = bytearray(pack(record_of(layout, seed), layout))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="the checksum is not that of the bytes"):
        unpack(bytes(packed), layout)
    with pytest.raises(ValueError, match="checksum"):
        unpack(bytes(packed[: data.draw(st.integers(0, CHECKSUM))]), layout)


def rows_at(position: list[int], time: list[int], weight: list[float]) -> MemoryRows:
    states = np.zeros((len(position), PLAIN.row_bytes), np.uint8)
    return MemoryRows(states, np.array(position), np.array(time), np.array(weight, np.float32))


def test_rows_that_are_alike_cost_nothing_beside_their_states() -> None:
    """The tokens of a segment share position, time and weight."""
    one = Record(rows_at([39], [5000], [40.0]), count=40, last=9000, folded=5000)
    four = Record(rows_at([39] * 4, [5000] * 4, [40.0] * 4), count=40, last=9000, folded=5000)
    assert len(pack(four, PLAIN)) - len(pack(one, PLAIN)) == 3 * row_bytes(4, "int8")


def test_a_further_segment_costs_a_few_bytes_beside_its_states() -> None:
    minute = 60_000
    times = [1_700_000_000_000 + minute * 1000 * index for index in range(10)]
    grown = [
        Record(
            rows_at([40 * index + 39 for index in range(count)], times[:count], [10.0] * count),
            count=40 * count,
            last=times[count - 1],
            folded=times[count - 1],
        )
        for count in (9, 10)
    ]
    assert len(pack(grown[1], PLAIN)) - len(pack(grown[0], PLAIN)) <= PLAIN.row_bytes + 5


def test_the_unit_of_the_times_is_found() -> None:
    """Times that are whole minutes cost what minutes cost."""
    layout = PLAIN
    numbers = np.cumsum(np.arange(30) % 100)
    sizes_by_unit = []
    for unit in (1, 60_000):
        times = numbers * unit
        record = Record(no_rows(layout), items=np.full(30, 7), times=times, last=int(times[-1]))
        sizes_by_unit.append(sizes(record, layout)["open"])
    assert sizes_by_unit == [60, 60], "a byte for the item and a byte for the time"


def test_an_item_that_was_had_once_costs_no_strength() -> None:
    layout = PLAIN._replace(keeps="counts")
    several = [
        Record(
            no_rows(layout),
            count=9,
            last=8,
            folded=8,
            past=Past(np.array([3]), np.array([often]), np.array([8]), np.array([8]), np.array([often], np.float32)),
        )
        for often in (1, 2)
    ]
    assert len(pack(several[1], layout)) - len(pack(several[0], layout)) == 4


def test_times_that_fall_are_refused() -> None:
    record = Record(no_rows(PLAIN), items=np.array([1, 2]), times=np.array([5, 3]), last=3)
    with pytest.raises(ValueError, match="positions and times of a record must not fall"):
        pack(record, PLAIN)


@pytest.mark.parametrize("keeps", ["items", "counts"])
def test_many_seen_items_cost_a_bit_for_each_item_of_the_catalogue(keeps: str) -> None:
    layout = PLAIN._replace(keeps=keeps)  # type: ignore[arg-type]
    record = Record(no_rows(layout), times=np.zeros(0, np.int64), count=9000, last=9000, folded=5000)
    none = len(pack(record, layout))
    for every, most in ((1, 8000 // 8 + 4), (2, 8000 // 8 + 4), (100, 8000 // 100 + 2)):
        items = np.arange(1, 8001, every)
        record.past = of_items(items)
        data = pack(record, layout)
        assert same(unpack(data, layout), record)
        further = 0 if keeps == "items" else 4 * len(items) + 16
        assert len(data) - none <= most + further
        assert sum(sizes(record, layout).values()) == len(data)
