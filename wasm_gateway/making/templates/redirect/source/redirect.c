/* A WAGI guest: a CGI program, its answer goes to standard output. Sends the client to the URL in the
 * environment variable DESTINATION. */

typedef unsigned char u8;
typedef unsigned int u32;

#define P1(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))
P1("environ_sizes_get") int environ_sizes_get(u32 *count, u32 *bytes);
P1("environ_get") int environ_get(char **variables, char *bytes);
P1("fd_write") int fd_write(int fd, const void *parts, u32 n, u32 *done);

/* Every header of the request is a variable, so the client decides how many there are: memory is
 * taken behind what the linker placed, as much as is needed. */
extern u8 __heap_base;

static void say(const char *first, const char *second) {
    struct { const char *at; u32 size; } parts[] = {{first, 0}, {second, 0}, {"\n\n", 2}};
    u32 done;
    while (first[parts[0].size]) parts[0].size++;
    while (second[parts[1].size]) parts[1].size++;
    fd_write(1, parts, 3, &done);
}

__attribute__((export_name("_start"))) void start(void) {
    static const char name[] = "DESTINATION=";
    u32 count, size;
    if (environ_sizes_get(&count, &size)) __builtin_trap();
    u32 base = ((u32)&__heap_base + 3) & ~3u;
    unsigned long long end = base + 4ull * count + size, have = (unsigned long long)__builtin_wasm_memory_size(0) << 16;
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (__SIZE_TYPE__)-1) __builtin_trap();
    char **variables = (char **)base;
    if (environ_get(variables, (char *)(base + 4 * count))) __builtin_trap();

    for (u32 i = 0; i < count; i++) {
        const char *v = variables[i];
        u32 n = 0;
        while (name[n] && v[n] == name[n]) n++;
        if (name[n] || !v[n]) continue;
        for (const char *c = v + n; *c; c++)
            if (*c <= ' ' || *c > '~') __builtin_trap(); /* no header of its own making */
        say("Status: 302 Found\nCache-Control: no-store\nLocation: ", v + n);
        return;
    }
    say("Status: 500 Internal Server Error\nContent-Type: text/plain", "\n\nDESTINATION is not set");
}
