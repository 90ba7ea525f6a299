/* The books of the site, by its own interface:
 *
 * GET /api/books?q=<words>   {"books": [{"id", "title", "author", "year", "isbn", "copies"}, ...]}
 * GET /api/books/<id>        one of them, or 404 {"error"}
 * GET /covers/<id>.svg       its picture
 *
 * The list has a mistake, which running it beside the view brings to light: see MOST. */

#include "../../finicky_whiskers/guests/spin.h"

enum { MOST = 10, LONGEST_WORDS = 200 };

/* ------------------------------------------------- bookshop:site/catalogue */

typedef struct { u32 id; text title, author; u32 year; text isbn; u32 copies; } book;
typedef struct { const book *at; u32 size; } list;
typedef struct { u8 some; book found; } maybe;

#define CATALOGUE "bookshop:site/catalogue@1.0.0"
IMPORT(CATALOGUE, "search") void search(const u8 *words, u32 size, u32 limit, list *ret);
IMPORT(CATALOGUE, "get") void get(u32 id, maybe *ret);

/* ---------------------------------------------------------------- requests */

static void put_book(writer *w, const book *b) {
    put(w, T("{\"id\":"));
    put_number(w, b->id);
    put(w, T(",\"title\":"));
    put_string(w, b->title);
    put(w, T(",\"author\":"));
    put_string(w, b->author);
    put(w, T(",\"year\":"));
    put_number(w, b->year);
    put(w, T(",\"isbn\":"));
    put_string(w, b->isbn);
    put(w, T(",\"copies\":"));
    put_number(w, b->copies);
    put(w, T("}"));
}

static void all(const request *q) {
    text words = {0};
    list found;
    writer w = {0};
    if (form_field(q->query, T("q"), &words) == MALFORMED || (words.size && !printable(words, LONGEST_WORDS)))
        return refuse(400, T("q: text expected"));
    search(words.at, words.size, MOST, &found);
    put(&w, T("{\"books\":["));
    for (u32 i = 0; i < found.size; i++) {
        if (i) put(&w, T(","));
        put_book(&w, found.at + i);
    }
    put(&w, T("]}"));
    respond(200, &w);
}

/* What stands between `before` and `after`, if it is the number of a book; 404 else. */
static flag book_of(text path, text before, text after, maybe *ret) {
    u64 id;
    if (path.size <= before.size + after.size) return 0;
    text digits = {path.at + before.size, path.size - before.size - after.size};
    if (!same((text){digits.at + digits.size, after.size}, after)) return 0;
    if (!read_number(digits, 0xffffffff, &id)) return 0;
    get((u32)id, ret);
    return ret->some;
}

static void one(const request *q) {
    maybe m;
    writer w = {0};
    if (!book_of(q->path, T("/api/books/"), T(""), &m)) return refuse(404, T("no such book"));
    put_book(&w, &m.found);
    respond(200, &w);
}

static void put_escaped(writer *w, text t) {
    for (u32 i = 0; i < t.size; i++) switch (t.at[i]) {
        case '&': put(w, T("&amp;")); break;
        case '<': put(w, T("&lt;")); break;
        case '>': put(w, T("&gt;")); break;
        case '"': put(w, T("&quot;")); break;
        case '\'': put(w, T("&#x27;")); break;
        default: put(w, (text){t.at + i, 1});
    }
}

static void cover(const request *q) {
    maybe m;
    writer w = {0};
    if (!book_of(q->path, T("/covers/"), T(".svg"), &m)) return refuse(404, T("no such book"));
    put(&w, T("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"120\" height=\"160\">"
              "<rect width=\"120\" height=\"160\" fill=\"#357\"/>"
              "<text x=\"8\" y=\"40\" fill=\"#fff\" font-size=\"10\">"));
    put_escaped(&w, m.found.title);
    put(&w, T("</text></svg>"));
    reply_headers[0].value = T("image/svg+xml");
    respond(200, &w);
}

static void answer(const request *q) {
    if (q->method != GET && q->method != HEAD) refuse_method(T("GET, HEAD"));
    else if (starts_with(q->path, T("/covers/"))) cover(q);
    else if (same(q->path, T("/api/books"))) all(q);
    else one(q);
}
