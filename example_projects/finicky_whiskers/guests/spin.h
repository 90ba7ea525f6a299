/* What a Spin 1 guest needs, and no more: the canonical ABI of `fermyon:spin/inbound-http`
 * and of the three host interfaces of this game, an allocator, texts, forms and JSON.
 *
 * Freestanding: no libc. Everything is static, so a guest is one compilation unit.
 *
 * Rule 1: a `text` is never NUL-terminated and never changed by who receives it.
 * Rule 2: whatever a client sent is checked here or in game.h before it is used.
 * Rule 3: an instance serves one request, so nothing is ever freed.
 *
 * A guest defines `answer`; the export at the end of this file calls it. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;
typedef _Bool flag;

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

/* ---------------------------------------------------------------- memory */

extern u8 __heap_base;

static void *take(u32 size, u32 align) {
    static u32 top;
    u64 at = top ? top : (u32)&__heap_base;
    at = (at + align - 1) & ~(u64)(align - 1);
    u64 end = at + size;
    u64 have = (u64)__builtin_wasm_memory_size(0) << 16;
    if (end > 0xffffffffu) __builtin_trap();
    if (end > have && __builtin_wasm_memory_grow(0, (u32)((end - have + 0xffff) >> 16)) == (__SIZE_TYPE__)-1)
        __builtin_trap();
    top = (u32)end;
    return (void *)(u32)at;
}

static void copy(u8 *to, const u8 *from, u32 size) {
    for (u32 i = 0; i < size; i++) to[i] = from[i];
}

/* The host's way to place arguments and results in our memory. */
EXPORT("cabi_realloc") void *cabi_realloc(u8 *old, u32 old_size, u32 align, u32 new_size) {
    u8 *fresh = take(new_size, align);
    copy(fresh, old, old_size < new_size ? old_size : new_size);
    return fresh;
}

/* ----------------------------------------------------------------- texts */

typedef struct { /* (pointer, length): how the canonical ABI passes strings and lists of bytes */
    const u8 *at;
    u32 size;
} text;

#define T(literal) ((text){(const u8 *)(literal), sizeof(literal) - 1})

static flag same(text a, text b) {
    if (a.size != b.size) return 0;
    for (u32 i = 0; i < a.size; i++)
        if (a.at[i] != b.at[i]) return 0;
    return 1;
}

static flag starts_with(text a, text b) { return a.size >= b.size && same((text){a.at, b.size}, b); }

/* Equal whatever the case of ASCII letters; `lower` is in lower case. */
static flag same_name(text a, text lower) {
    if (a.size != lower.size) return 0;
    for (u32 i = 0; i < a.size; i++) {
        u8 c = a.at[i];
        if (c >= 'A' && c <= 'Z') c |= 0x20;
        if (c != lower.at[i]) return 0;
    }
    return 1;
}

/* Decimal digits only, at least one, at most `max`. */
static flag read_number(text t, u64 max, u64 *value) {
    u64 n = 0;
    if (!t.size || t.size > 19) return 0;
    for (u32 i = 0; i < t.size; i++) {
        if (t.at[i] < '0' || t.at[i] > '9') return 0;
        n = n * 10 + (t.at[i] - '0');
    }
    if (n > max) return 0;
    *value = n;
    return 1;
}

/* Well-formed UTF-8 (no surrogates, nothing overlong) of 1 to `max` characters, none of which is a
 * control or turns the direction of the text around. */
static flag printable(text t, u32 max) {
    u32 count = 0;
    for (u32 i = 0; i < t.size; count++) {
        u32 c = t.at[i++], more = 0, least = 0;
        if (c >= 0x80) {
            if (c >= 0xc2 && c <= 0xdf) more = 1, least = 0x80, c &= 0x1f;
            else if (c >= 0xe0 && c <= 0xef) more = 2, least = 0x800, c &= 0x0f;
            else if (c >= 0xf0 && c <= 0xf4) more = 3, least = 0x10000, c &= 0x07;
            else return 0;
        }
        if (more > t.size - i) return 0;
        for (; more; more--, i++) {
            if ((t.at[i] & 0xc0) != 0x80) return 0;
            c = c << 6 | (t.at[i] & 0x3f);
        }
        if (c < least || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
        if (c < 0x20 || (c >= 0x7f && c <= 0x9f)) return 0;
        if (c == 0x061c || (c >= 0x200b && c <= 0x200f)) return 0; /* invisible, marks of direction */
        if (c >= 0x2028 && c <= 0x202e) return 0;                  /* line ends, embeddings, overrides */
        if (c >= 0x2060 && c <= 0x206f) return 0;                  /* invisible, isolates */
        if (c == 0xfeff) return 0;
    }
    return count >= 1 && count <= max;
}

/* Without the spaces around it. */
static text trimmed(text t) {
    while (t.size && t.at[0] == ' ') t.at++, t.size--;
    while (t.size && t.at[t.size - 1] == ' ') t.size--;
    return t;
}

/* ----------------------------------------------------------------- forms */

enum field { ABSENT, FOUND, MALFORMED };

static int hex_digit(u8 c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* "a=b&c=d", as in a query or in a body of type application/x-www-form-urlencoded: the decoded value of
 * `name`. A wrong escape in it, or the same name twice, is MALFORMED. Names are matched undecoded. */
static enum field form_field(text form, text name, text *value) {
    enum field found = ABSENT;
    for (u32 i = 0; i <= form.size;) {
        u32 start = i, equals = form.size;
        for (; i < form.size && form.at[i] != '&'; i++)
            if (form.at[i] == '=' && equals == form.size) equals = i;
        u32 end = i++;
        if (equals > end) equals = end;
        if (!same((text){form.at + start, equals - start}, name)) continue;
        if (found) return MALFORMED;
        found = FOUND;
        u8 *out = take(end - equals + 1, 1);
        u32 size = 0;
        for (u32 j = equals + 1; j < end; j++) {
            u8 c = form.at[j];
            if (c == '+') c = ' ';
            else if (c == '%') {
                int high = j + 2 < end ? hex_digit(form.at[j + 1]) : -1;
                int low = j + 2 < end ? hex_digit(form.at[j + 2]) : -1;
                if (high < 0 || low < 0) return MALFORMED;
                c = (u8)(high << 4 | low);
                j += 2;
            }
            out[size++] = c;
        }
        *value = (text){out, size};
    }
    return found;
}

/* ------------------------------------------------------------------ JSON */

typedef struct { /* bytes being written; grows */
    u8 *at;
    u32 size, room;
} writer;

static void put(writer *w, text t) {
    if (t.size > w->room - w->size) {
        u32 room = w->room * 2 + t.size + 256;
        u8 *fresh = take(room, 1);
        copy(fresh, w->at, w->size);
        w->at = fresh, w->room = room;
    }
    copy(w->at + w->size, t.at, t.size);
    w->size += t.size;
}

static void put_number(writer *w, u64 n) {
    u8 digits[20];
    u32 i = sizeof digits;
    do digits[--i] = '0' + n % 10; while (n /= 10);
    put(w, (text){digits + i, sizeof digits - i});
}

static void put_string(writer *w, text t) {
    put(w, T("\""));
    for (u32 i = 0; i < t.size; i++) {
        u8 c = t.at[i];
        if (c == '"' || c == '\\') put(w, T("\\"));
        if (c < 0x20) {
            u8 escape[6] = {'\\', 'u', '0', '0', "01"[c >> 4], "0123456789abcdef"[c & 15]};
            put(w, (text){escape, 6});
        } else put(w, (text){t.at + i, 1});
    }
    put(w, T("\""));
}

/* ------------------------------------------------- WASI preview 1, a little */

IMPORT("wasi_snapshot_preview1", "fd_write") int wasi_fd_write(int fd, const text *parts, u32 n, u32 *done);
IMPORT("wasi_snapshot_preview1", "clock_time_get") int wasi_clock_time_get(u32 clock, u64 precision, u64 *ns);

/* A line for the operator's log. */
static void complain(text where, text what) {
    text parts[4] = {where, T(": "), what, T("\n")};
    u32 done;
    wasi_fd_write(2, parts, 4, &done);
}

static u64 now_ms(void) {
    u64 ns = 0;
    if (wasi_clock_time_get(0, 1000000, &ns)) __builtin_trap();
    return ns / 1000000;
}

/* ------------------------------------------------------ fermyon:spin/key-value */

#define KV "fermyon:spin/key-value"
IMPORT(KV, "open") void kv_open_(const u8 *name, u32 size, void *ret);
IMPORT(KV, "get") void kv_get_(u32 store, const u8 *key, u32 size, void *ret);
IMPORT(KV, "set") void kv_set_(u32 store, const u8 *key, u32 size, const u8 *value, u32 value_size, void *ret);
IMPORT(KV, "delete") void kv_delete_(u32 store, const u8 *key, u32 size, void *ret);
IMPORT(KV, "get-keys") void kv_get_keys_(u32 store, void *ret);

typedef struct { /* every `result<_, error>` of the two store interfaces: error is a variant whose last case is io(string) */
    u8 failed;
    union {
        u32 handle;
        text bytes;
        struct { const text *at; u32 size; } keys;
        struct { u8 which; text io; } error;
    };
} store_result;

/* The variants of key-value and sqlite have five cases before, respectively four before, io(string). */
static text reason(const store_result *r, u8 io) { return r->error.which == io ? r->error.io : T("refused"); }

static flag kv_open(u32 *store) {
    store_result r;
    kv_open_((const u8 *)"default", 7, &r);
    if (r.failed) complain(T("key-value open"), reason(&r, 5));
    else *store = r.handle;
    return !r.failed;
}

/* FOUND, ABSENT, or MALFORMED when the store failed. */
static enum field kv_get(u32 store, text key, text *value) {
    store_result r;
    kv_get_(store, key.at, key.size, &r);
    if (!r.failed) return *value = r.bytes, FOUND;
    if (r.error.which == 4) return ABSENT; /* no-such-key */
    complain(T("key-value get"), reason(&r, 5));
    return MALFORMED;
}

static flag kv_set(u32 store, text key, text value) {
    store_result r;
    kv_set_(store, key.at, key.size, value.at, value.size, &r);
    if (r.failed) complain(T("key-value set"), reason(&r, 5));
    return !r.failed;
}

static flag kv_delete(u32 store, text key) {
    store_result r;
    kv_delete_(store, key.at, key.size, &r);
    if (r.failed) complain(T("key-value delete"), reason(&r, 5));
    return !r.failed;
}

static flag kv_keys(u32 store, const text **keys, u32 *count) {
    store_result r;
    kv_get_keys_(store, &r);
    if (r.failed) complain(T("key-value get-keys"), reason(&r, 5));
    else *keys = r.keys.at, *count = r.keys.size;
    return !r.failed;
}

/* -------------------------------------------------------- fermyon:spin/sqlite */

#define SQLITE "fermyon:spin/sqlite"
IMPORT(SQLITE, "open") void sqlite_open_(const u8 *name, u32 size, void *ret);
IMPORT(SQLITE, "execute") void sqlite_execute_(u32 db, const u8 *sql, u32 size, const void *values, u32 n, void *ret);

typedef struct { /* variant value { integer(s64), real(f64), text(string), blob(list<u8>), null } */
    u8 kind;
    union { s64 integer; text bytes; };
} sql_value;
enum { SQL_INTEGER = 0, SQL_TEXT = 2 };

#define SQL_TEXT_OF(t) ((sql_value){.kind = SQL_TEXT, .bytes = (t)})
#define SQL_INTEGER_OF(n) ((sql_value){.kind = SQL_INTEGER, .integer = (n)})

typedef struct { const sql_value *at; u32 size; } sql_row;
typedef struct { const sql_row *at; u32 size; } sql_rows;

static flag sqlite_open(u32 *db) {
    store_result r;
    sqlite_open_((const u8 *)"default", 7, &r);
    if (r.failed) complain(T("sqlite open"), reason(&r, 4));
    else *db = r.handle;
    return !r.failed;
}

static flag sqlite_execute(u32 db, text sql, const sql_value *values, u32 n, sql_rows *rows) {
    struct { /* result<query-result, error> */
        u8 failed;
        union {
            struct { text columns; sql_rows rows; } ok;
            struct { u8 which; text io; } error;
        };
    } r;
    sqlite_execute_(db, sql.at, sql.size, values, n, &r);
    if (r.failed) complain(T("sqlite"), r.error.which == 4 ? r.error.io : T("refused"));
    else if (rows) *rows = r.ok.rows;
    return !r.failed;
}

/* -------------------------------------------------------- fermyon:spin/config */

IMPORT("fermyon:spin/config", "get-config") void config_get_(const u8 *key, u32 size, void *ret);

static flag config_get(text key, text *value) {
    struct { u8 failed; u32 which_or_at; text rest; } raw = {0}; /* ok: (p, l) at 4; error: case at 4, (p, l) at 8 */
    config_get_(key.at, key.size, &raw);
    if (raw.failed) complain(T("config"), raw.rest);
    else *value = (text){(const u8 *)raw.which_or_at, (u32)raw.rest.at};
    return !raw.failed;
}

/* -------------------------------------------------- fermyon:spin/inbound-http */

enum method { GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS };

typedef struct { text name, value; } header;

typedef struct {
    u32 method;
    text path, query; /* query without its "?", empty when there is none */
    const header *headers;
    u32 header_count;
    text body;
} request;

typedef struct { /* record response { status: u16, headers: option<list<tuple<string, string>>>, body: option<list<u8>> } */
    u16 status;
    struct { u8 some; const header *at; u32 size; } headers;
    struct { u8 some; text bytes; } body;
} response;

static response reply;
static header reply_headers[3] = {
    {{(const u8 *)"content-type", 12}, {(const u8 *)"application/json", 16}},
    {{(const u8 *)"cache-control", 13}, {(const u8 *)"no-store", 8}},
};
static u32 reply_header_count = 2;

static void respond(u16 status, const writer *body) {
    reply = (response){status, {1, reply_headers, reply_header_count}, {1, {body->at, body->size}}};
}

/* {"error": "<message>"} */
static void refuse(u16 status, text message) {
    writer w = {0};
    put(&w, T("{\"error\":"));
    put_string(&w, message);
    put(&w, T("}"));
    respond(status, &w);
}

/* `allowed` is a text such as "GET, HEAD". */
static void refuse_method(text allowed) {
    reply_headers[reply_header_count++] = (header){T("allow"), allowed};
    refuse(405, T("method not allowed"));
}

/* The value of a header that came exactly once. */
static flag header_of(const request *q, text lower, text *value) {
    u32 found = 0;
    for (u32 i = 0; i < q->header_count; i++)
        if (same_name(q->headers[i].name, lower)) found++, *value = q->headers[i].value;
    return found == 1;
}

static void answer(const request *q);

EXPORT("fermyon:spin/inbound-http#handle-request")
response *handle_request(u32 method, const u8 *uri, u32 uri_size, const header *headers, u32 header_count,
                         const void *params, u32 param_count, u32 has_body, const u8 *body, u32 body_size) {
    u32 cut = 0;
    while (cut < uri_size && uri[cut] != '?') cut++;
    request q = {method, {uri, cut}, {0}, headers, header_count, {0}};
    if (cut < uri_size) q.query = (text){uri + cut + 1, uri_size - cut - 1};
    if (has_body) q.body = (text){body, body_size};
    (void)params, (void)param_count;
    answer(&q);
    if (method == HEAD) reply.body.bytes.size = 0;
    return &reply;
}
