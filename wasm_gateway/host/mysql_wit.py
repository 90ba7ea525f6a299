# The WIT of MySQL: apart from its family, whose driver need not be installed where a guest
# only imports it.

from __future__ import annotations

from .rdbms import ERROR, STREAMED, TYPES, TYPES_2

INTERFACES = {
    "fermyon:spin/mysql": f"""
package fermyon:spin;
{TYPES}
interface mysql {{
  use rdbms-types.{{parameter-value, row-set}};
  variant mysql-error {{
    success, connection-failed(string), bad-parameter(string), query-failed(string),
    value-conversion-failed(string), other-error(string),
  }}
  query: func(address: string, statement: string, params: list<parameter-value>)
    -> result<row-set, mysql-error>;
  execute: func(address: string, statement: string, params: list<parameter-value>)
    -> result<_, mysql-error>;
}}
""",
    "fermyon:spin/mysql@2": f"""
package fermyon:spin@2.0.0;
{TYPES_2}
interface mysql {{
  use rdbms-types.{{parameter-value, row-set, error}};
  resource connection {{
    open: static func(address: string) -> result<connection, error>;
    query: func(statement: string, params: list<parameter-value>) -> result<row-set, error>;
    execute: func(statement: string, params: list<parameter-value>) -> result<_, error>;
  }}
}}
""",
    "spin:mysql/mysql@3": f"""
package spin:mysql@3.0.0;
interface mysql {{
  {ERROR}
  {STREAMED}
  resource connection {{
    open: static async func(address: string) -> result<connection, error>;
    query: async func(statement: string, params: list<parameter-value>)
      -> result<tuple<list<column>, stream<row>, future<result<_, error>>>, error>;
    execute: async func(statement: string, params: list<parameter-value>) -> result<_, error>;
  }}
}}
""",
}
