// A CGI program, which is what Spin's WAGI executor runs: the request is in environment variables and on
// standard input, the answer goes to standard output, its headers first, then an empty line.

const Part = extern struct { at: [*]const u8, size: usize };

extern "wasi_snapshot_preview1" fn fd_write(fd: i32, parts: [*]const Part, count: usize, done: *usize) i32;

fn say(text: []const u8) void {
    var done: usize = 0;
    const part = [_]Part{.{ .at = text.ptr, .size = text.len }};
    _ = fd_write(1, &part, 1, &done);
}

export fn _start() void {
    say("Content-Type: text/plain\n\n");
    say("Hello from Zig!\n");
}
