/* POST /tally?id=<round>&n=<click>&treat=<name>: the player offers a treat.
 *
 * Clicks are numbered from 0 and each number counts once, so a repeated or overtaken request changes
 * nothing: it gets 409 and the number that is expected. Click n answers wish n of the menu (modulo its length).
 *
 * 200 {"correct": bool, "taken", "right", "wrong", "points"} · 400 · 404 no such round · 409 · 410 round over */

#include "game.h"

static void answer(const request *q) {
    text id, number, treat;
    u64 n;
    u32 store, offered = TREATS;
    round_state round;
    writer w = {0};

    if (q->method != POST) return refuse_method(T("POST"));
    if (form_field(q->query, T("n"), &number) != FOUND || !read_number(number, MOST_CLICKS, &n))
        return refuse(400, T("n: the number of the click expected"));
    if (form_field(q->query, T("treat"), &treat) == FOUND)
        for (u32 i = 0; i < TREATS; i++)
            if (same(treat, treats[i])) offered = i;
    if (offered == TREATS) return refuse(400, T("treat: a treat of the menu expected"));
    if (!find_round(q->query, &store, &id, &round)) return;

    if (now_ms() > round.until || round.taken >= MOST_CLICKS) return refuse(410, T("the round is over"));
    if (n != round.taken) {
        put(&w, T("{\"error\":\"out of step\","));
        put_counts(&w, &round);
        put(&w, T("}"));
        return respond(409, &w);
    }

    flag correct = round.menu.at[n % MENU] == '0' + offered;
    round.taken++;
    if (correct) round.right++, round.points += RIGHT_POINTS;
    else round.wrong++, round.points -= round.points < WRONG_POINTS ? round.points : WRONG_POINTS;
    if (!kv_set(store, round_key(id), write_round(&round))) return refuse(500, T("the store failed"));

    put(&w, correct ? T("{\"correct\":true,") : T("{\"correct\":false,"));
    put_counts(&w, &round);
    put(&w, T("}"));
    respond(200, &w);
}
