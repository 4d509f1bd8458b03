from __future__ import annotations

from thriftnet.errors import MOST_CHARACTERS, DataError, Interrupted, NonFiniteLossError


def test_a_message_is_one_printable_line() -> None:
    assert str(DataError("a\nb\x1b[2J\x00c\u2028d\u202ee")) == r"a\nb\x1b[2J\x00c\u2028d\u202ee"
    assert str(DataError("naïve – 数 \\n")) == "naïve – 数 \\n"  # what is printable stays as it is


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    message = str(DataError("the field " + "9" * 10**6 + "; give less"))
    assert len(message) <= MOST_CHARACTERS + 5
    assert message.startswith("the field 999")
    assert message.endswith("999; give less")


def test_errors_that_carry_more_have_such_messages_too() -> None:
    assert str(NonFiniteLossError("a\nb", step=3)) == r"a\nb"
    assert str(Interrupted("a\tb", 15)) == r"a\tb"
