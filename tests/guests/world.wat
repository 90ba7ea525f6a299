;; The world of the Spin 1 guests that tests make, encoded as wit-component does it: a component that
;; exports the type of a component.
;;
;; package test:guests;
;; world guest {
;;   import fermyon:spin/key-value;  import fermyon:spin/sqlite;  import fermyon:spin/config;
;;   import fermyon:spin/http;
;;   export fermyon:spin/inbound-http;  export fermyon:spin/inbound-redis;
;; }
(component
  (@custom "wit-component-encoding" "\04\00")
  (type (component
    (type $world (component
      (type $key-value (instance
        (type $u32 u32)
        (export "store" (type $store (eq $u32)))
        (type $cases (variant (case "store-table-full") (case "no-such-store") (case "access-denied")
          (case "invalid-store") (case "no-such-key") (case "io" string)))
        (export "error" (type $error (eq $cases)))
        (type $opened (result $store (error $error)))
        (export "open" (func (param "name" string) (result $opened)))
        (type $bytes (list u8))
        (type $got (result $bytes (error $error)))
        (export "get" (func (param "store" $store) (param "key" string) (result $got)))
        (type $done (result (error $error)))
        (export "set" (func (param "store" $store) (param "key" string) (param "value" $bytes) (result $done)))
        (export "delete" (func (param "store" $store) (param "key" string) (result $done)))
        (type $there (result bool (error $error)))
        (export "exists" (func (param "store" $store) (param "key" string) (result $there)))
        (type $strings (list string))
        (type $keys (result $strings (error $error)))
        (export "get-keys" (func (param "store" $store) (result $keys)))
        (export "close" (func (param "store" $store)))))
      (import "fermyon:spin/key-value" (instance (type $key-value)))

      (type $sqlite (instance
        (type $u32 u32)
        (export "connection" (type $connection (eq $u32)))
        (type $cases (variant (case "no-such-database") (case "access-denied") (case "invalid-connection")
          (case "database-full") (case "io" string)))
        (export "error" (type $error (eq $cases)))
        (type $bytes (list u8))
        (type $values (variant (case "integer" s64) (case "real" f64) (case "text" string) (case "blob" $bytes)
          (case "null")))
        (export "value" (type $value (eq $values)))
        (type $list (list $value))
        (type $row (record (field "values" $list)))
        (export "row-result" (type $row-result (eq $row)))
        (type $names (list string))
        (type $rows (list $row-result))
        (type $query (record (field "columns" $names) (field "rows" $rows)))
        (export "query-result" (type $query-result (eq $query)))
        (type $opened (result $connection (error $error)))
        (export "open" (func (param "database" string) (result $opened)))
        (type $executed (result $query-result (error $error)))
        (export "execute" (func (param "conn" $connection) (param "statement" string) (param "parameters" $list)
          (result $executed)))
        (export "close" (func (param "conn" $connection)))))
      (import "fermyon:spin/sqlite" (instance (type $sqlite)))

      (type $config (instance
        (type $cases (variant (case "provider" string) (case "invalid-key" string) (case "invalid-schema" string)
          (case "other" string)))
        (export "error" (type $error (eq $cases)))
        (type $value (result string (error $error)))
        (export "get-config" (func (param "key" string) (result $value)))))
      (import "fermyon:spin/config" (instance (type $config)))

      (type $http-types (instance
        (type $u16 u16)
        (export "http-status" (type $http-status (eq $u16)))
        (type $bytes (list u8))
        (export "body" (type $body (eq $bytes)))
        (type $pair (tuple string string))
        (type $pairs (list $pair))
        (export "headers" (type $headers (eq $pairs)))
        (export "params" (type $params (eq $pairs)))
        (type $string string)
        (export "uri" (type $uri (eq $string)))
        (type $methods (enum "get" "post" "put" "delete" "patch" "head" "options"))
        (export "method" (type $method (eq $methods)))
        (type $maybe-body (option $body))
        (type $asked (record (field "method" $method) (field "uri" $uri) (field "headers" $headers)
          (field "params" $params) (field "body" $maybe-body)))
        (export "request" (type (eq $asked)))
        (type $maybe-headers (option $headers))
        (type $answered (record (field "status" $http-status) (field "headers" $maybe-headers)
          (field "body" $maybe-body)))
        (export "response" (type (eq $answered)))
        (type $errors (enum "success" "destination-not-allowed" "invalid-url" "request-error" "runtime-error"
          "too-many-requests"))
        (export "http-error" (type (eq $errors)))))
      (import "fermyon:spin/http-types" (instance $types (type $http-types)))
      (alias export $types "request" (type $request))
      (alias export $types "response" (type $response))
      (alias export $types "http-error" (type $http-error))

      (type $http (instance
        (alias outer $world $request (type $outer-request))
        (export "request" (type $request (eq $outer-request)))
        (alias outer $world $response (type $outer-response))
        (export "response" (type $response (eq $outer-response)))
        (alias outer $world $http-error (type $outer-error))
        (export "http-error" (type $error (eq $outer-error)))
        (type $sent (result $response (error $error)))
        (export "send-request" (func (param "req" $request) (result $sent)))))
      (import "fermyon:spin/http" (instance (type $http)))

      (type $inbound-http (instance
        (alias outer $world $request (type $outer-request))
        (export "request" (type $request (eq $outer-request)))
        (alias outer $world $response (type $outer-response))
        (export "response" (type $response (eq $outer-response)))
        (export "handle-request" (func (param "req" $request) (result $response)))))
      (export "fermyon:spin/inbound-http" (instance (type $inbound-http)))

      (type $inbound-redis (instance
        (type $bytes (list u8))
        (export "payload" (type $payload (eq $bytes)))
        (type $errors (enum "success" "error"))
        (export "error" (type $error (eq $errors)))
        (type $handled (result (error $error)))
        (export "handle-message" (func (param "message" $payload) (result $handled)))))
      (export "fermyon:spin/inbound-redis" (instance (type $inbound-redis)))))
    (export "test:guests/guest" (component (type $world)))))
  (export "guest" (type 0))
  (@producers (processed-by "wit-bindgen-test" "0.5")))
