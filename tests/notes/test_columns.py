import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.notes.importing import columns, values

CELLS = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(-(10**17), 10**17).map(str),
    st.sampled_from([" ", "\x00", "1e9", "2020-01-01", "x"]),
)


def _cell_by_cell(cells: list, field: str, convert: object) -> tuple[list, dict[int, str]]:
    problems: dict[int, str] = {}
    return columns.each(cells, field, convert, problems), problems


@given(st.lists(CELLS, max_size=8))
def test_ids_at_once_are_as_one_by_one(cells: list) -> None:
    problems: dict[int, str] = {}
    array = pa.array([None if c is None else c.encode() for c in cells], pa.binary())
    assert (columns.ids(array, "user_id", problems).to_pylist(), problems) == _cell_by_cell(
        cells, "user_id", values.identifier
    )


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
def test_times_at_once_are_as_one_by_one(numbers: list[int]) -> None:
    expected, problems = _cell_by_cell(numbers, "t", values.microseconds)
    for array in (pa.array(numbers, pa.int64()), pa.array([str(n).encode() for n in numbers], pa.binary())):
        times = columns.moments(array)
        assert times is None or times.cast(pa.int64()).to_pylist() == expected
        if not problems and all(abs(n) < 10**11 for n in numbers):
            assert times is not None


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_arrow_times_keep_their_instant(unit: str) -> None:
    times = columns.moments(pa.array([60], pa.timestamp(unit, tz="Asia/Shanghai")))
    assert times.cast(pa.int64()).to_pylist() == [60 * {"s": 10**6, "ms": 10**3, "us": 1}[unit]]


def test_nulls_among_arrow_times_are_left_to_the_caller() -> None:
    times = columns.moments(pa.array([None, 1], pa.timestamp("us")))
    assert times.null_count == 1
