/* GET /api/isbn?number=<13 digits, hyphens and spaces between them>: {"isbn", "valid"} or 400 {"error"} */

#include "../../finicky_whiskers/guests/spin.h"

enum { DIGITS = 13 };

static void answer(const request *q) {
    text number = {0};
    u8 digits[DIGITS];
    u32 count = 0, total = 0;
    writer w = {0};
    if (q->method != GET && q->method != HEAD) return refuse_method(T("GET, HEAD"));
    form_field(q->query, T("number"), &number);
    for (u32 i = 0; i < number.size; i++) {
        u8 c = number.at[i];
        if (c == '-' || c == ' ') continue;
        if (c < '0' || c > '9' || count == DIGITS) return refuse(400, T("number: 13 digits expected"));
        total += (u32)(c - '0') * (count % 2 ? 3 : 1);
        digits[count++] = c;
    }
    if (count != DIGITS) return refuse(400, T("number: 13 digits expected"));
    put(&w, T("{\"isbn\":"));
    put_string(&w, (text){digits, DIGITS});
    put(&w, total % 10 ? T(",\"valid\":false}") : T(",\"valid\":true}"));
    respond(200, &w);
}
