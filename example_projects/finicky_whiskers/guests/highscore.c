/* GET /highscore: the ten best. POST /highscore with the form id=<round>&name=<name>: enter a round.
 *
 * The points are those that tally counted, not what a client says. A round can be entered once. Only the
 * hundred best rounds are kept.
 *
 * 200 or 201 {"scores": [{"place", "name", "points", "mine": bool}, ...], "place": number or null}
 * 400 · 404 no such round · 409 entered before */

#include "game.h"

enum { NAME = 16, LONGEST_FORM = 1024 };

#define FAILED T("the database failed")

/* `own` is the round that was just entered, empty for none. */
static void list(u32 db, text own, u16 status) {
    sql_rows rows;
    writer w = {0};
    u32 place = 0;
    if (!sqlite_execute(db, T("SELECT round, name, points FROM scores ORDER BY points DESC, entered, rowid LIMIT 10"), 0, 0, &rows))
        return refuse(500, FAILED);
    put(&w, T("{\"scores\":["));
    for (u32 i = 0; i < rows.size; i++) {
        const sql_row *row = &rows.at[i];
        if (row->size != 3 || row->at[0].kind != SQL_TEXT || row->at[1].kind != SQL_TEXT ||
            row->at[2].kind != SQL_INTEGER || row->at[2].integer < 0)
            return refuse(500, FAILED);
        flag mine = same(row->at[0].bytes, own);
        if (mine) place = i + 1;
        put(&w, i ? T(",{\"place\":") : T("{\"place\":"));
        put_number(&w, i + 1);
        put(&w, T(",\"name\":"));
        put_string(&w, row->at[1].bytes);
        put(&w, T(",\"points\":"));
        put_number(&w, (u64)row->at[2].integer);
        put(&w, mine ? T(",\"mine\":true}") : T(",\"mine\":false}"));
    }
    put(&w, T("],\"place\":"));
    if (place) put_number(&w, place);
    else put(&w, T("null"));
    put(&w, T("}"));
    respond(status, &w);
}

static void answer(const request *q) {
    text id = {0}, name;
    u32 store, db;
    round_state round;
    sql_rows rows;

    if (q->method != GET && q->method != HEAD && q->method != POST) return refuse_method(T("GET, HEAD, POST"));
    if (q->method == POST) {
        if (q->body.size > LONGEST_FORM) return refuse(413, T("the form is too long"));
        if (form_field(q->body, T("name"), &name) != FOUND || (name = trimmed(name), !printable(name, NAME)))
            return refuse(400, T("name: 1 to 16 characters expected"));
        if (!find_round(q->body, &store, &id, &round)) return;
    }

    if (!sqlite_open(&db)) return refuse(500, FAILED);
    if (!sqlite_execute(db, T("CREATE TABLE IF NOT EXISTS scores (round TEXT PRIMARY KEY, name TEXT NOT NULL, "
                              "points INTEGER NOT NULL, entered INTEGER NOT NULL)"), 0, 0, 0))
        return refuse(500, FAILED);
    if (q->method != POST) return list(db, id, 200);

    const sql_value values[] = {SQL_TEXT_OF(id), SQL_TEXT_OF(name), SQL_INTEGER_OF((s64)round.points),
                                SQL_INTEGER_OF((s64)now_ms())};
    if (!sqlite_execute(db, T("INSERT INTO scores (round, name, points, entered) VALUES (?1, ?2, ?3, ?4) "
                              "ON CONFLICT DO NOTHING RETURNING round"), values, 4, &rows))
        return refuse(500, FAILED);
    if (!rows.size) return refuse(409, T("this round was entered before"));
    if (!sqlite_execute(db, T("DELETE FROM scores WHERE rowid NOT IN "
                              "(SELECT rowid FROM scores ORDER BY points DESC, entered, rowid LIMIT 100)"), 0, 0, 0))
        return refuse(500, FAILED);
    list(db, id, 201);
}
