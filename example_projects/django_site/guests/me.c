/* GET /api/me: who asks, as the site lends it.
 *
 * {"user": null | {"id", "name", "groups", "staff"}, "locale"} */

#include "../../finicky_whiskers/guests/spin.h"

typedef struct { const text *at; u32 size; } texts;
typedef struct { u8 some; text id, name; texts groups; flag staff; } maybe_user;

#define IDENTITY "wasm-gateway:site/identity@0.1.0"
IMPORT(IDENTITY, "get-user") void get_user(maybe_user *ret);
IMPORT(IDENTITY, "get-locale") void get_locale(text *ret);

static void answer(const request *q) {
    maybe_user user;
    text locale;
    writer w = {0};
    if (q->method != GET && q->method != HEAD) return refuse_method(T("GET, HEAD"));
    get_user(&user);
    get_locale(&locale);
    if (user.some) {
        put(&w, T("{\"user\":{\"id\":"));
        put_string(&w, user.id);
        put(&w, T(",\"name\":"));
        put_string(&w, user.name);
        put(&w, T(",\"groups\":["));
        for (u32 i = 0; i < user.groups.size; i++) {
            if (i) put(&w, T(","));
            put_string(&w, user.groups.at[i]);
        }
        put(&w, user.staff ? T("],\"staff\":true}") : T("],\"staff\":false}"));
    } else put(&w, T("{\"user\":null"));
    put(&w, T(",\"locale\":"));
    put_string(&w, locale);
    put(&w, T("}"));
    respond(200, &w);
}
