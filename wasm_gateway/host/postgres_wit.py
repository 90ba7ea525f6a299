# The WIT of PostgreSQL: apart from its family, whose driver need not be installed where a guest
# only imports it.

from __future__ import annotations

from .rdbms import ERROR, TYPES, TYPES_2

_DATE, _TIME = "tuple<s32, u8, u8>", "tuple<u8, u8, u8, u32>"
_VALUES = f"""
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64), floating32(f32), floating64(f64),
    str(string), binary(list<u8>), date({_DATE}), time({_TIME}),
    datetime(tuple<s32, u8, u8, u8, u8, u8, u32>), timestamp(s64),
"""
_BOUND = "option<tuple<{}, range-bound-kind>>"
_RANGE = f"tuple<{_BOUND}, {_BOUND}>"
_MORE_VALUES = f"""
    uuid(string), jsonb(list<u8>), decimal(string),
    range-int32({_RANGE.format("s32", "s32")}), range-int64({_RANGE.format("s64", "s64")}),
    range-decimal({_RANGE.format("string", "string")}),
    array-int32(list<option<s32>>), array-int64(list<option<s64>>),
    array-decimal(list<option<string>>), array-str(list<option<string>>), interval(interval),
"""
_ROWS = """
  record column { name: string, data-type: db-data-type }
  type row = list<db-value>;
  record row-set { columns: list<column>, rows: list<row> }
"""
_FUNCTIONS = """
    open: static func(address: string) -> result<connection, error>;
    query: func(statement: string, params: list<parameter-value>) -> result<row-set, error>;
    execute: func(statement: string, params: list<parameter-value>) -> result<u64, error>;
"""
_CONNECTION = f"resource connection {{ {_FUNCTIONS} }}"
INTERFACES = {
    "fermyon:spin/postgres": f"""
package fermyon:spin;
{TYPES}
interface postgres {{
  use rdbms-types.{{parameter-value, row-set}};
  variant pg-error {{
    success, connection-failed(string), bad-parameter(string), query-failed(string),
    value-conversion-failed(string), other-error(string),
  }}
  query: func(address: string, statement: string, params: list<parameter-value>)
    -> result<row-set, pg-error>;
  execute: func(address: string, statement: string, params: list<parameter-value>)
    -> result<u64, pg-error>;
}}
""",
    "fermyon:spin/postgres@2": f"""
package fermyon:spin@2.0.0;
{TYPES_2}
interface postgres {{
  use rdbms-types.{{parameter-value, row-set, error}};
  {_CONNECTION}
}}
""",
    "spin:postgres/postgres@3": f"""
package spin:postgres@3.0.0;
interface postgres {{
  {ERROR}
  enum db-data-type {{
    boolean, int8, int16, int32, int64, floating32, floating64, str, binary,
    date, time, datetime, timestamp, other,
  }}
  variant db-value {{ {_VALUES} db-null, unsupported }}
  variant parameter-value {{ {_VALUES} db-null }}
  {_ROWS}
  {_CONNECTION}
}}
""",
    "spin:postgres/postgres@4": f"""
package spin:postgres@4.2.0;
interface postgres {{
  variant error {{
    connection-failed(string), bad-parameter(string), query-failed(query-error),
    value-conversion-failed(string), other(string),
  }}
  variant query-error {{ text(string), db-error(db-error) }}
  record db-error {{
    as-text: string, severity: string, code: string, message: string, detail: option<string>,
    extras: list<tuple<string, string>>,
  }}
  variant db-data-type {{
    boolean, int8, int16, int32, int64, floating32, floating64, str, binary,
    date, time, datetime, timestamp, uuid, jsonb, decimal, range-int32, range-int64, range-decimal,
    array-int32, array-int64, array-decimal, array-str, interval, other(string),
  }}
  enum range-bound-kind {{ inclusive, exclusive }}
  record interval {{ micros: s64, days: s32, months: s32 }}
  variant db-value {{ {_VALUES} {_MORE_VALUES} db-null, unsupported(list<u8>) }}
  variant parameter-value {{ {_VALUES} {_MORE_VALUES} db-null }}
  {_ROWS}
  resource connection-builder {{
    constructor(address: string);
    set-ca-root: func(certificate: string) -> result<_, error>;
    build: func() -> result<connection, error>;
    build-async: async func() -> result<connection, error>;
  }}
  resource connection {{
    {_FUNCTIONS}
    open-async: static async func(address: string) -> result<connection, error>;
    query-async: async func(statement: string, params: list<parameter-value>)
      -> result<tuple<list<column>, stream<row>, future<result<_, error>>>, error>;
    execute-async: async func(statement: string, params: list<parameter-value>) -> result<u64, error>;
  }}
}}
""",
}
