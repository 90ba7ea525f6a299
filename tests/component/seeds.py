# Components as text that together hold every kind of definition: what mutations begin with, in the tests
# and in fuzz.py.

from __future__ import annotations

# Every kind of definition, and every way to write one.
EVERYTHING = """
(component $all
  (core type $cft (func (param f64) (result i64)))
  (core type $mt (module
    (type $ft (func (param i32)))
    (alias outer $all $cft (type $outer))
    (import "x" "y" (func (type $ft))) (import "x" "t" (table 1 2 funcref))
    (import "x" "m" (memory 1)) (import "x" "g" (global (mut i32)))
    (export "z" (func (type $outer))) (export "t" (table 1 funcref)) (export "m" (memory 1 2))
    (export "g" (global i64))))
  (core module $memory
    (func (export "dtor") (param i32))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (memory (export "mem") 1) (table (export "t") 1 funcref) (global (export "v") i32 (i32.const 1))
    (tag (export "e")))
  (core module $empty)
  (core instance $i (instantiate $memory))
  (alias core export $i "dtor" (core func $dtor))
  (alias core export $i "realloc" (core func $realloc))
  (alias core export $i "mem" (core memory $mem))
  (alias core export $i "t" (core table $t))
  (alias core export $i "v" (core global $v))
  (alias core export $i "e" (core tag $e))
  (core instance (export "all" (table $t)) (export "m" (memory $mem)) (export "v" (global $v))
    (export "e" (tag $e)))

  (type $string string)
  (type $r' (record (field "one" u8) (field "two" $string)))
  (export $r "r" (type $r'))
  (type $v' (variant (case "a") (case "b" $r)))
  (export $v "v" (type $v'))
  (type $e' (enum "x" "y"))
  (export $e "e" (type $e') (type (eq $e')))
  (type $f (flags "read" "write"))
  (type $o (option $v))
  (type $res (result $o (error $e)))
  (type (result)) (type (result u8)) (type (result (error u8)))
  (type $tuple (tuple s8 s16 s32 s64 u16 u32 u64 f32 f64 char bool))
  (type $list (list $tuple))
  (type $four (list u8 4))
  (type $map (map string u32))
  (type $resource' (resource (rep i32) (dtor (core func $dtor))))
  (export $resource "resource" (type $resource'))
  (type $plain (resource (rep i32)))
  (type $own (own $resource)) (type $borrow (borrow $resource))
  (type $stream (stream u8)) (type (stream)) (type $future (future string)) (type (future))
  (type $later (func async (param "a" $four)))
  (type $func (func (param "a" $list) (param "b" $borrow) (result $res)))
  (type $it (instance
    (core type (func)) (type $t u8) (alias outer $all $r (type $rr))
    (export "t" (type (eq $t))) (export "s" (type $sub (sub resource)))
    (export "f" (func (param "x" $rr)))))
  (type $ct (component
    (import "i" (instance $inner (export "t" (type (sub resource)))))
    (alias export $inner "t" (type $u))
    (import "f" (func (param "a" (own $u))))
    (import "m" (core module (export "x" (func))))
    (export "c" (component))))

  (import "plain" (func $imported (param "a" $list) (result string)))
  (import "later" (func (type $later)))
  (import "wasi:io/streams@0.2.3" (instance $streams
    (export "s" (type (sub resource))) (export "f" (func (param "x" u8)))))
  (import "comp" (component $imported-component (type $ct)))
  (import "mod" (core module (type $mt)))
  (import "eq" (type (eq $string)))
  (import "sub" (type (sub resource)))

  (core func $lowered (canon lower (func $imported) string-encoding=utf16 (memory $mem) (realloc $realloc)))
  (core func $new (canon resource.new $resource'))
  (core func $drop (canon resource.drop $resource))
  (core func $rep (canon resource.rep $resource'))
  (core module $main
    (import "a" "f" (func (param i32 i32 i32)))
    (import "a" "new" (func (param i32) (result i32)))
    (func (export "run") (param i32 i32 i32) (result i32) unreachable)
    (func (export "later") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "callback") (param i32 i32 i32) (result i32) unreachable)
    (func (export "post") (param i32)))
  (core instance $fs (export "f" (func $lowered)) (export "new" (func $new)))
  (core instance $c (instantiate $main (with "a" (instance $fs))))
  (func $lifted (type $func) (canon lift (core func $c "run") string-encoding=latin1+utf16
    (memory $mem) (realloc $realloc) (post-return (core func $c "post"))))
  (func $async (type $later) (canon lift (core func $c "later") async (callback (core func $c "callback"))))

  (component $nested
    (import "f" (func $f (param "x" u8))) (type $inner u8)
    (alias outer $all $string (type)) (alias outer $all $empty (core module))
    (alias outer $all $cft (core type))
    (component $deeper (alias outer $nested $inner (type)))
    (export "f" (func $f)) (export "g" (func $f) (func (param "x" u8))))
  (alias export $streams "f" (func $sf))
  (instance $n (instantiate $nested (with "f" (func $sf)) (with "t" (type $r))
    (with "c" (component $nested)) (with "m" (core module $empty)) (with "i" (instance $streams))))
  (alias export $n "f" (func $nf))
  (alias export $streams "s" (type))
  (instance $bag (export "f" (func $nf)) (export "m" (core module $empty)) (export "t" (type $r)))
  (export $x "a:b/c@1.2.3" (instance $bag))
  (export "run" (func $lifted))
  (@custom "hello" "world")
)"""

# Tasks, streams, futures and error contexts between the host and two component instances.
ASYNC = """
(component
  (import "test:tasks/host@0.1.0" (instance $host
    (export "conn" (type $conn (sub resource)))
    (type $code' (variant (case "gone") (case "other" (option string))))
    (export "code" (type $code (eq $code')))
    (type $done (future (result (error $code))))
    (export "open" (func async (param "name" string) (result (result (own $conn) (error $code)))))
    (export "[method]conn.send" (func (param "self" (borrow $conn)) (param "data" (stream u8))
      (result $done)))
    (export "[method]conn.pairs" (func async (param "self" (borrow $conn))
      (result (tuple (stream (tuple u32 string)) (future string)))))))
  (alias export $host "conn" (type $conn))
  (alias export $host "code" (type $code))
  (type $bytes (stream u8)) (type $pairs (stream (tuple u32 string)))
  (type $done (future (result (error $code)))) (type $text (future string)) (type $unit (stream))

  (core module $libc
    (memory (export "mem") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "mem" (core memory $mem))
  (alias core export $libc "realloc" (core func $realloc))

  (core func $open (canon lower (func $host "open") async (memory $mem) (realloc $realloc)))
  (core func $send (canon lower (func $host "[method]conn.send") (memory $mem)))
  (core func $pairs (canon lower (func $host "[method]conn.pairs") async (memory $mem) (realloc $realloc)))
  (core func $drop (canon resource.drop $conn))
  (core func $return (canon task.return (result $text) (memory $mem)))
  (core func $cancel (canon task.cancel))
  (core func $get (canon context.get i32 0)) (core func $set (canon context.set i32 1))
  (core func $inc (canon backpressure.inc)) (core func $dec (canon backpressure.dec))
  (core func $yield (canon thread.yield))
  (core func $wnew (canon waitable-set.new))
  (core func $wait (canon waitable-set.wait (memory $mem)))
  (core func $poll (canon waitable-set.poll (memory $mem)))
  (core func $wdrop (canon waitable-set.drop)) (core func $join (canon waitable.join))
  (core func $scancel (canon subtask.cancel async)) (core func $sdrop (canon subtask.drop))
  (core func $bnew (canon stream.new $bytes)) (core func $unew (canon stream.new $unit))
  (core func $bwrite (canon stream.write $bytes async (memory $mem)))
  (core func $pread (canon stream.read $pairs async (memory $mem) (realloc $realloc)))
  (core func $uread (canon stream.read $unit async))
  (core func $bcancel (canon stream.cancel-write $bytes async))
  (core func $pcancel (canon stream.cancel-read $pairs))
  (core func $bdropw (canon stream.drop-writable $bytes))
  (core func $pdropr (canon stream.drop-readable $pairs))
  (core func $fnew (canon future.new $text))
  (core func $fwrite (canon future.write $text async (memory $mem)))
  (core func $fread (canon future.read $done async (memory $mem) (realloc $realloc)))
  (core func $fcancelw (canon future.cancel-write $text))
  (core func $fcancelr (canon future.cancel-read $done async))
  (core func $fdropw (canon future.drop-writable $text))
  (core func $fdropr (canon future.drop-readable $done))
  (core func $enew (canon error-context.new (memory $mem)))
  (core func $emsg (canon error-context.debug-message string-encoding=utf16 (memory $mem) (realloc $realloc)))
  (core func $edrop (canon error-context.drop))

  (core module $main
    (import "h" "open" (func (param i32 i32 i32) (result i32)))
    (import "h" "send" (func (param i32 i32) (result i32)))
    (import "h" "bnew" (func (result i64)))
    (import "h" "bwrite" (func (param i32 i32 i32) (result i32)))
    (import "h" "fread" (func (param i32 i32) (result i32)))
    (import "h" "join" (func (param i32 i32)))
    (import "h" "wait" (func (param i32 i32) (result i32)))
    (func (export "run") (param i32 i32) (result i32) (i32.const 0))
    (func (export "callback") (param i32 i32 i32) (result i32) (i32.const 0))
    (func (export "sync") (param i32) (result i32) (i32.const 0)))
  (core instance $main (instantiate $main (with "h" (instance
    (export "open" (func $open)) (export "send" (func $send)) (export "bnew" (func $bnew))
    (export "bwrite" (func $bwrite)) (export "fread" (func $fread)) (export "join" (func $join))
    (export "wait" (func $wait))))))
  (type $run (func async (param "name" string) (result $text)))
  (func $run (type $run) (canon lift (core func $main "run") async
    (callback (core func $main "callback")) (memory $mem) (realloc $realloc)))
  (func $pass (param "x" $bytes) (result $unit) (canon lift (core func $main "sync")))

  (component $other
    (type $text (future string)) (type $bytes (stream u8)) (type $unit (stream))
    (import "run" (func $run async (param "name" string) (result $text)))
    (import "pass" (func $pass (param "x" $bytes) (result $unit)))
    (core module $m (memory (export "mem") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func (export "dtor") (param i32)))
    (core instance $m (instantiate $m))
    (type $r' (resource (rep i32) (dtor (core func $m "dtor"))))
    (export $r "r" (type $r'))
    (core func $new (canon resource.new $r'))
    (core func $lowered (canon lower (func $run) async (memory (core memory $m "mem"))
      (realloc (core func $m "realloc"))))
    (core func $passed (canon lower (func $pass)))
    (core module $n
      (import "h" "run" (func (param i32 i32 i32) (result i32)))
      (import "h" "pass" (func (param i32) (result i32)))
      (import "h" "new" (func (param i32) (result i32)))
      (func (export "make") (result i32) unreachable))
    (core instance $n (instantiate $n (with "h" (instance (export "run" (func $lowered))
      (export "pass" (func $passed)) (export "new" (func $new))))))
    (func (export "make") (result (own $r)) (canon lift (core func $n "make"))))
  (instance $o (instantiate $other (with "run" (func $run)) (with "pass" (func $pass))))
  (export "test:tasks/other@0.1.0" (instance $o))
  (export "run" (func $run))
)"""

# A shim and its fixup, as wit-component makes them, and a world in a custom section of a module.
SHIMMED = """
(component
  (import "test:tasks/shim@0.1.0" (instance $host (export "read" (func (param "n" u64) (result (list u8))))))
  (core module $main (import "h" "read" (func $read (param i64 i32))) (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
    (func (export "run") (result i32) (call $read (i64.const 9) (i32.const 8)) (i32.const 0)))
  (core module $shim (type $t (func (param i64 i32))) (table (export "$imports") 1 1 funcref)
    (func (export "0") (type $t) (local.get 0) (local.get 1) (i32.const 0) (call_indirect (type $t))))
  (core module $fixup (import "" "0" (func $f (param i64 i32))) (import "" "$imports" (table 1 1 funcref))
    (elem (i32.const 0) func $f))
  (core instance $shim (instantiate $shim))
  (core instance $main (instantiate $main (with "h" (instance (export "read" (func $shim "0"))))))
  (core func $read (canon lower (func $host "read") (memory (core memory $main "memory"))
    (realloc (core func $main "cabi_realloc"))))
  (core instance (instantiate $fixup (with "" (instance
    (export "0" (func $read)) (export "$imports" (table $shim "$imports"))))))
  (func (export "run") (result string) (canon lift (core func $main "run")
    (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc"))))
)"""

COMPONENTS = {"everything": EVERYTHING, "async": ASYNC, "shimmed": SHIMMED}

# What the host offers to them.
HOST = """
package test:tasks@0.1.0;
interface host {
    resource conn {
        send: func(data: stream<u8>) -> future<result<_, code>>;
        pairs: async func() -> tuple<stream<tuple<u32, string>>, future<string>>;
    }
    variant code { gone, other(option<string>) }
    open: async func(name: string) -> result<conn, code>;
}
interface shim { read: func(n: u64) -> list<u8>; }
"""

# Every form of WIT.
WIT = """
package local:texts@1.2.3-rc.1;
@since(version = 0.1.0) @unstable(feature = a-b) @deprecated(version = 1.0.0)
interface types {
    /* a /* nested */ comment */
    use test:tasks/host@0.1.0.{code, conn as link};
    /// documented
    resource r { constructor(a: u8); m: func() -> option<borrow<r>>; s: static func(x: own<r>); }
    record point { x: f32, %list: tuple<s64, char, bool>, }
    flags f { a, b, } enum e { one, two }
    type l = list<list<u16, 4>>; type s = result<stream<point>, future>; type c = error-context;
    g: async func(p: point, q: borrow<link>) -> result<_, string>;
}
world w {
    include v with { old as new };
    import types; export local:texts/types@1.2.3-rc.1;
    import h: func(); export k: interface { use types.{e}; }
    use types.{f}; record z { f: f }
}
world v { import old: func() -> u8; }
"""
