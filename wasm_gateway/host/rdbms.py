# fermyon:spin/rdbms-types: what the two relational interfaces share.

from __future__ import annotations

from typing import Any

TYPES = """
interface rdbms-types {
  enum db-data-type {
    boolean, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
    floating32, floating64, str, binary, other,
  }
  variant db-value {
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64),
    uint8(u8), uint16(u16), uint32(u32), uint64(u64),
    floating32(f32), floating64(f64), str(string), binary(list<u8>), db-null, unsupported,
  }
  variant parameter-value {
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64),
    uint8(u8), uint16(u16), uint32(u32), uint64(u64),
    floating32(f32), floating64(f64), str(string), binary(list<u8>), db-null,
  }
  record column { name: string, data-type: db-data-type }
  type row = list<db-value>;
  record row-set { columns: list<column>, rows: list<row> }
}
"""

# Lifted values: a variant is (case, payload).
Value = tuple[str, Any]
NULL: Value = ("db-null", None)
UNSUPPORTED: Value = ("unsupported", None)

Column = tuple[str, str]
RowSet = tuple[list[Column], list[list[Value]]]


class DatabaseFailure(Exception):
    """A call that did not work; `case` is that of the versioned interfaces' error."""

    def __init__(self, case: str, text: str) -> None:
        super().__init__(text)
        self.case = case
        self.text = text

    def v1(self) -> tuple[str, str]:
        """The error of the unversioned interfaces, which have another name for `other`."""
        return ("other-error" if self.case == "other" else self.case, self.text)
