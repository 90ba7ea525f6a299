/* GET /board: the ten best. POST /board?name=<name>&points=<points>: enter a score.
 *
 * 200 {"scores": [{"name", "points", "when"}, ...]} · 201 {"place"} · 400 {"error"}
 *
 * Who may be on the board, and for how much, is the site's to say: `add` gives its words. Here is checked
 * only what `add` could not be called with: a string is UTF-8, points are 32 bits. */

#include "../../finicky_whiskers/guests/spin.h"

enum { BEST = 10, LONGEST_NAME = 1000 };

/* ------------------------------------------------------ scores:site/board */

typedef struct { text name; u32 points; u64 when; } entry;
typedef struct { const entry *at; u32 size; } entries;
typedef struct { u8 failed; union { u32 place; text error; }; } added; /* result<u32, string> */

#define BOARD "scores:site/board@1.0.0"
IMPORT(BOARD, "best") void board_best(u32 limit, entries *ret);
IMPORT(BOARD, "add") void board_add(const u8 *name, u32 size, u32 points, added *ret);

/* ---------------------------------------------------------------- requests */

static void list(void) {
    entries best;
    writer w = {0};
    board_best(BEST, &best);
    put(&w, T("{\"scores\":["));
    for (u32 i = 0; i < best.size; i++) {
        put(&w, i ? T(",{\"name\":") : T("{\"name\":"));
        put_string(&w, best.at[i].name);
        put(&w, T(",\"points\":"));
        put_number(&w, best.at[i].points);
        put(&w, T(",\"when\":"));
        put_number(&w, best.at[i].when);
        put(&w, T("}"));
    }
    put(&w, T("]}"));
    respond(200, &w);
}

static void enter(const request *q) {
    text name, digits;
    u64 points;
    added result;
    writer w = {0};
    if (form_field(q->query, T("name"), &name) != FOUND || !printable(name, LONGEST_NAME))
        return refuse(400, T("name: text expected"));
    if (form_field(q->query, T("points"), &digits) != FOUND || !read_number(digits, 0xffffffff, &points))
        return refuse(400, T("points: a number expected"));
    board_add(name.at, name.size, (u32)points, &result);
    if (result.failed) return refuse(400, result.error);
    put(&w, T("{\"place\":"));
    put_number(&w, result.place);
    put(&w, T("}"));
    respond(201, &w);
}

static void answer(const request *q) {
    if (q->method == POST) enter(q);
    else if (q->method == GET || q->method == HEAD) list();
    else refuse_method(T("GET, HEAD, POST"));
}
