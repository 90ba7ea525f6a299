;; The world of the guests, as wit-component wants it in the custom section `component-type` of a core module
;; (see the world of the game in ../../finicky_whiskers/guests). No guest imports all of it.
;;
;; package bookshop:guests;
;; world guest {
;;   import bookshop:site/catalogue@1.0.0;
;;   import wasm-gateway:site/identity@0.1.0;
;;   export fermyon:spin/inbound-http;
;; }
(component
  (@custom "wit-component-encoding" "\04\00")  ;; format 4, strings are UTF-8
  (type (component
    (type (component
      (type (instance
        (type (record (field "id" u32) (field "title" string) (field "author" string) (field "year" u32) (field "isbn" string) (field "copies" u32)))
        (export "book" (type (eq 0)))
        (type (list 1))
        (type (func (param "words" string) (param "limit" u32) (result 2)))
        (export "search" (func (type 3)))
        (type (option 1))
        (type (func (param "id" u32) (result 4)))
        (export "get" (func (type 5)))))
      (import "bookshop:site/catalogue@1.0.0" (instance (type 0)))
      (type (instance
        (type (list string))
        (type (record (field "id" string) (field "name" string) (field "groups" 0) (field "is-staff" bool)))
        (export "user" (type (eq 1)))
        (type (option 2))
        (type (func (result 3)))
        (export "get-user" (func (type 4)))
        (type (func (result string)))
        (export "get-locale" (func (type 5)))))
      (import "wasm-gateway:site/identity@0.1.0" (instance (type 1)))
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
      (import "fermyon:spin/http-types" (instance (type 2)))
      (alias export 2 "request" (type))
      (alias export 2 "response" (type))
      (type (instance
        (alias outer 1 3 (type))
        (export "request" (type (eq 0)))
        (alias outer 1 4 (type))
        (export "response" (type (eq 2)))
        (type (func (param "req" 1) (result 3)))
        (export "handle-request" (func (type 4)))))
      (export "fermyon:spin/inbound-http" (instance (type 5)))))
    (export "bookshop:guests/guest" (component (type 0)))))
  (export "guest" (type 0))
  (@producers (processed-by "wit-bindgen-none" "0.5")))
