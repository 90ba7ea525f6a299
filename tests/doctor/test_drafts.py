from __future__ import annotations

import pytest

from wasm_gateway.doctor.drafts import Draft, Edit

TEXT = """# head
a = 1 # one
  b = [ 1,
  2 ] # two
t = { x = 1, "y z" = 'v', w.v = 2 }
[u]
"""


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (("a",), "# head\n  b = [ 1,\n  2 ] # two\nt = { x = 1, \"y z\" = 'v', w.v = 2 }\n[u]\n"),
        (("b",), "# head\na = 1 # one\nt = { x = 1, \"y z\" = 'v', w.v = 2 }\n[u]\n"),
        (("t", "x"), TEXT.replace("x = 1, ", "")),
        (("t", "y z"), TEXT.replace("\"y z\" = 'v', ", "")),
        (("t", "w", "v"), TEXT.replace(", w.v = 2", "")),
        (("nothing",), TEXT),
    ],
)
def test_remove(key: tuple[str, ...], expected: str) -> None:
    draft = Draft(TEXT)
    after = draft.edited(draft.remove(key))
    assert after is not None
    assert after.text == expected


def test_replace_and_rename() -> None:
    draft = Draft(TEXT)
    after = draft.edited([*draft.replace(("t", "y z"), ["\x7f\n", True]), *draft.rename(("a",), "c")])
    assert after is not None
    assert after.data == {"c": 1, "b": [1, 2], "t": {"x": 1, "y z": ["\x7f\n", True], "w": {"v": 2}}, "u": {}}
    assert "c = 1 # one\n" in after.text


def test_edits_that_do_not_go_together_or_break_the_text_are_none() -> None:
    draft = Draft(TEXT)
    assert draft.edited([Edit(0, 8, ""), Edit(4, 12, "x")]) is None
    assert draft.edited([Edit(0, 0, "[")]) is None
    assert draft.edited(draft.rename(("a",), "b")) is None


def test_insert_begins_a_line() -> None:
    draft = Draft("a = 1")
    after = draft.edited(draft.insert(len(draft.text), ["b = 2"]))
    assert after is not None
    assert after.text == "a = 1\nb = 2\n"
    assert draft.below(("a",)) == len(draft.text)
