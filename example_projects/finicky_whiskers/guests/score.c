/* GET /score?id=<round>: how a round stands.
 *
 * 200 {"taken", "right", "wrong", "points", "over": bool} · 400 · 404 no such round */

#include "game.h"

static void answer(const request *q) {
    text id;
    u32 store;
    round_state round;
    writer w = {0};

    if (q->method != GET && q->method != HEAD) return refuse_method(T("GET, HEAD"));
    if (!find_round(q->query, &store, &id, &round)) return;
    put(&w, T("{"));
    put_counts(&w, &round);
    put(&w, now_ms() > round.until ? T(",\"over\":true}") : T(",\"over\":false}"));
    respond(200, &w);
}
