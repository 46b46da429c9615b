"""The payload of a batch gives every message back as it came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spendgate.payload import Message, pack_messages, unpack_messages
from tests.strategies import patient

messages = st.builds(
    Message,
    st.none() | st.binary(max_size=300),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.integers(-(2**62), 2**62),
)


@patient
@given(st.lists(messages, max_size=30), st.data())
def test_any_messages_come_back_by_their_ordinals(packed: list[Message], data: st.DataObject) -> None:
    content = pack_messages(
        [one.raw for one in packed], [one.position for one in packed], [one.enqueued_ms for one in packed]
    )
    ordinals = data.draw(st.lists(st.integers(0, len(packed) - 1), max_size=5)) if packed else []
    assert unpack_messages(content, ordinals) == [packed[ordinal] for ordinal in ordinals]
    assert unpack_messages(content, range(len(packed))) == packed


def test_a_payload_is_compressed() -> None:
    values: list[bytes | None] = [b'{"event_type":"click","click_id":"%036d","ad_id":10}' % n for n in range(1000)]
    content = pack_messages(values, [str(n) for n in range(1000)], [0] * 1000)
    assert len(content) < sum(len(value or b"") for value in values) / 2
