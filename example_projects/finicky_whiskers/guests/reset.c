/* POST /reset: forgets every round and every high score.
 *
 * Other sites' pages cannot ask for it. When the variable `reset_token` has a value, the header
 * x-reset-token must have the same one.
 *
 * 200 {"rounds": number of rounds forgotten} · 403 */

#include "game.h"

/* Takes as long for a wrong token as for the right one of the same length. */
static flag same_secret(text a, text b) {
    u32 differs = a.size ^ b.size;
    for (u32 i = 0; i < a.size && i < b.size; i++) differs |= a.at[i] ^ b.at[i];
    return !differs;
}

static void answer(const request *q) {
    text token, value;
    u32 store, db, count, rounds = 0;
    const text *keys;
    writer w = {0};

    if (q->method != POST) return refuse_method(T("POST"));
    if (header_of(q, T("sec-fetch-site"), &value) && !same(value, T("same-origin")) && !same(value, T("none")))
        return refuse(403, T("asked for by another site"));
    if (!config_get(T("reset_token"), &token)) return refuse(500, T("the configuration failed"));
    if (token.size && !(header_of(q, T("x-reset-token"), &value) && same_secret(value, token)))
        return refuse(403, T("x-reset-token: wrong or missing"));

    if (!kv_open(&store) || !kv_keys(store, &keys, &count)) return refuse(500, T("the store failed"));
    for (u32 i = 0; i < count; i++) {
        if (!starts_with(keys[i], T("round:"))) continue;
        if (!kv_delete(store, keys[i])) return refuse(500, T("the store failed"));
        rounds++;
    }
    if (!sqlite_open(&db) || !sqlite_execute(db, T("DROP TABLE IF EXISTS scores"), 0, 0, 0))
        return refuse(500, T("the database failed"));

    put(&w, T("{\"rounds\":"));
    put_number(&w, rounds);
    put(&w, T("}"));
    respond(200, &w);
}
