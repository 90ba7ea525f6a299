// A CGI program, which is what Spin's WAGI executor runs: the request is in environment variables and on
// standard input, the answer goes to standard output, its headers first, then an empty line.

@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: i32, parts: usize, count: i32, done: usize): i32;

function say(text: string): void {
  const bytes = String.UTF8.encode(text);
  const parts = memory.data(12);
  store<usize>(parts, changetype<usize>(bytes));
  store<i32>(parts, bytes.byteLength, 4);
  fd_write(1, parts, 1, parts + 8);
}

export function _start(): void {
  say("Content-Type: text/plain\n\n");
  say("Hello from AssemblyScript!\n");
}
