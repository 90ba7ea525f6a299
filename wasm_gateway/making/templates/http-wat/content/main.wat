;; A CGI program, which is what Spin's WAGI executor runs: the request is in environment variables and on
;; standard input, the answer goes to standard output, its headers first, then an empty line.
;;
;; wasm-gateway takes this text as it is. For Spin, and for any other host, make a binary of it, and name that
;; in spin.toml:  wasm-tools parse main.wat -o main.wasm
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param $fd i32) (param $parts i32) (param $count i32) (param $done i32) (result i32)))

  (memory (export "memory") 1)
  (data $answer (i32.const 64) "Content-Type: text/plain\n\nHello from WAT!\n")

  ;; Write $size bytes at $at to standard output (1); the pair of both lies at 0, what was done at 8.
  (func $say (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))

  (func (export "_start")
    (call $say (i32.const 64) (i32.const 42))))
