/* The rules of the game, as the C guests see them: what a round is in the key-value store.
 *
 * Key   round:<id>       the id is 32 lower-case hex digits
 * Value 1 <until> <taken> <right> <wrong> <points> <menu>
 *       numbers are decimal; `until` is the end in ms since 1970; `taken` counts the clicks so far;
 *       the menu is 30 digits, one per wish, each an index into `treats`.
 *
 * session.rs writes the first value of a round and tally.c every later one. */

#include "spin.h"

enum { MENU = 30, ID = 32, TREATS = 6, RIGHT_POINTS = 10, WRONG_POINTS = 5, MOST_CLICKS = 9999 };

static const text treats[TREATS] = {
    {(const u8 *)"fish", 4},   {(const u8 *)"shrimp", 6}, {(const u8 *)"milk", 4},
    {(const u8 *)"cheese", 6}, {(const u8 *)"egg", 3},    {(const u8 *)"chicken", 7},
};

typedef struct {
    u64 until, taken, right, wrong, points;
    text menu;
} round_state;

static flag is_id(text t) {
    if (t.size != ID) return 0;
    for (u32 i = 0; i < ID; i++)
        if (!((t.at[i] >= '0' && t.at[i] <= '9') || (t.at[i] >= 'a' && t.at[i] <= 'f'))) return 0;
    return 1;
}

static text round_key(text id) {
    writer w = {0};
    put(&w, T("round:"));
    put(&w, id);
    return (text){w.at, w.size};
}

/* The next word of `rest`, up to a space or the end. */
static text word(text *rest) {
    text w = {rest->at, 0};
    while (w.size < rest->size && w.at[w.size] != ' ') w.size++;
    u32 used = w.size + (w.size < rest->size);
    rest->at += used, rest->size -= used;
    return w;
}

static flag read_round(text value, round_state *r) {
    if (!same(word(&value), T("1"))) return 0;
    if (!read_number(word(&value), ~0ull >> 1, &r->until)) return 0;
    if (!read_number(word(&value), MOST_CLICKS, &r->taken)) return 0;
    if (!read_number(word(&value), MOST_CLICKS, &r->right)) return 0;
    if (!read_number(word(&value), MOST_CLICKS, &r->wrong)) return 0;
    if (!read_number(word(&value), MOST_CLICKS * RIGHT_POINTS, &r->points)) return 0;
    r->menu = word(&value);
    if (value.size || r->menu.size != MENU) return 0;
    for (u32 i = 0; i < MENU; i++)
        if (r->menu.at[i] < '0' || r->menu.at[i] >= '0' + TREATS) return 0;
    return 1;
}

static text write_round(const round_state *r) {
    writer w = {0};
    const u64 numbers[] = {1, r->until, r->taken, r->right, r->wrong, r->points};
    for (u32 i = 0; i < sizeof numbers / sizeof *numbers; i++) put_number(&w, numbers[i]), put(&w, T(" "));
    put(&w, r->menu);
    return (text){w.at, w.size};
}

/* The round that the field `id` of a form names. When there is none the refusal is already written. */
static flag find_round(text form, u32 *store, text *id, round_state *round) {
    text value;
    if (form_field(form, T("id"), id) != FOUND || !is_id(*id)) return refuse(400, T("id: 32 hex digits expected")), 0;
    if (!kv_open(store)) return refuse(500, T("the store failed")), 0;
    switch (kv_get(*store, round_key(*id), &value)) {
    case ABSENT: return refuse(404, T("no such round")), 0;
    case MALFORMED: return refuse(500, T("the store failed")), 0;
    case FOUND: break;
    }
    if (!read_round(value, round)) {
        complain(T("round"), T("its value in the store cannot be read"));
        return refuse(500, T("the store failed")), 0;
    }
    return 1;
}

static void put_counts(writer *w, const round_state *r) {
    put(w, T("\"taken\":")), put_number(w, r->taken);
    put(w, T(",\"right\":")), put_number(w, r->right);
    put(w, T(",\"wrong\":")), put_number(w, r->wrong);
    put(w, T(",\"points\":")), put_number(w, r->points);
}
