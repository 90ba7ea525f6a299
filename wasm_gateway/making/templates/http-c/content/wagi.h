/* CGI without a C library, for Spin's WAGI executor: the request is in environment variables and on standard
 * input, the answer goes to standard output, its headers first, then an empty line.
 *
 * A guest of this kind builds in a tenth of a second and is a few hundred bytes. For one with a C library take
 * this header away and build with `zig cc -target wasm32-wasi -Os -s -o main.wasm main.c`. */

#ifndef WAGI_H
#define WAGI_H

typedef __SIZE_TYPE__ size_t;

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))
WASI("environ_sizes_get") int environ_sizes_get(size_t *count, size_t *bytes);
WASI("environ_get") int environ_get(char **variables, char *bytes);
WASI("fd_read") int fd_read(int fd, const void *parts, size_t count, size_t *done);
WASI("fd_write") int fd_write(int fd, const void *parts, size_t count, size_t *done);

/* Memory behind what the linker has placed; it is never given back, for an instance answers one request. */
extern unsigned char __heap_base;

static void *take(size_t size) {
    static size_t top;
    if (!top) top = (size_t)&__heap_base;
    size_t at = (top + 15) & ~(size_t)15, have = (size_t)__builtin_wasm_memory_size(0) << 16;
    if (size > (size_t)-1 - at - 0xffff) __builtin_trap();
    if (at + size > have && __builtin_wasm_memory_grow(0, (at + size - have + 0xffff) >> 16) == (size_t)-1)
        __builtin_trap();
    top = at + size;
    return (void *)at;
}

static size_t length(const char *text) {
    size_t n = 0;
    while (text[n]) n++;
    return n;
}

/* Write `size` bytes to standard output; say() writes a text. */
static void write_all(const char *at, size_t size) {
    while (size) {
        struct { const char *at; size_t size; } part = {at, size};
        size_t done;
        if (fd_write(1, &part, 1, &done) || !done) return;
        at += done, size -= done;
    }
}

static void say(const char *text) { write_all(text, length(text)); }

/* Up to `size` bytes of the request's body; 0 at its end. */
static size_t read_some(char *at, size_t size) {
    struct { char *at; size_t size; } part = {at, size};
    size_t done;
    return fd_read(0, &part, 1, &done) ? 0 : done;
}

/* The variable `name`, as REQUEST_METHOD, PATH_INFO, QUERY_STRING or HTTP_ACCEPT; "" where there is none. */
static const char *variable(const char *name) {
    static char **variables;
    static size_t count;
    if (!variables) {
        size_t bytes;
        if (environ_sizes_get(&count, &bytes)) __builtin_trap();
        variables = take((count + 1) * sizeof *variables);
        if (environ_get(variables, take(bytes))) __builtin_trap();
    }
    size_t n = length(name);
    for (size_t i = 0; i < count; i++) {
        size_t same = 0;
        while (same < n && variables[i][same] == name[same]) same++;
        if (same == n && variables[i][n] == '=') return variables[i] + n + 1;
    }
    return "";
}

/* What the guest does with a request. */
static void answer(void);

__attribute__((export_name("_start"))) void start(void) { answer(); }

#endif
