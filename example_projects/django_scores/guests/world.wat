;; The world of board.c, as wit-component wants it in the custom section `component-type` of a core module
;; (see the world of the game in ../../finicky_whiskers/guests).
;;
;; package scores:guests;
;; world board {
;;   import scores:site/board@1.0.0;
;;   export fermyon:spin/inbound-http;
;; }
(component
  (@custom "wit-component-encoding" "\04\00")  ;; format 4, strings are UTF-8
  (type (component
    (type (component
      (type (instance
        (type (record (field "name" string) (field "points" u32) (field "when" u64)))
        (export "entry" (type (eq 0)))
        (type (list 1))
        (type (func (param "limit" u32) (result 2)))
        (export "best" (func (type 3)))
        (type (result u32 (error string)))
        (type (func (param "name" string) (param "points" u32) (result 4)))
        (export "add" (func (type 5)))))
      (import "scores:site/board@1.0.0" (instance (type 0)))
      (type (instance
        (type u16)
        (export "http-status" (type (eq 0)))
        (type (list u8))
        (export "body" (type (eq 2)))
        (type (tuple string string))
        (type (list 4))
        (export "headers" (type (eq 5)))
        (type (list 4))
        (export "params" (type (eq 7)))
        (type string)
        (export "uri" (type (eq 9)))
        (type (enum "get" "post" "put" "delete" "patch" "head" "options"))
        (export "method" (type (eq 11)))
        (type (option 3))
        (type (record (field "method" 12) (field "uri" 10) (field "headers" 6) (field "params" 8) (field "body" 13)))
        (export "request" (type (eq 14)))
        (type (option 6))
        (type (record (field "status" 1) (field "headers" 16) (field "body" 13)))
        (export "response" (type (eq 17)))))
      (import "fermyon:spin/http-types" (instance (type 1)))
      (alias export 1 "request" (type))
      (alias export 1 "response" (type))
      (type (instance
        (alias outer 1 2 (type))
        (export "request" (type (eq 0)))
        (alias outer 1 3 (type))
        (export "response" (type (eq 2)))
        (type (func (param "req" 1) (result 3)))
        (export "handle-request" (func (type 4)))))
      (export "fermyon:spin/inbound-http" (instance (type 4)))))
    (export "scores:guests/board" (component (type 0)))))
  (export "board" (type 0))
  (@producers (processed-by "wit-bindgen-none" "0.5")))
