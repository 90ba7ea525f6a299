// A CGI program, which is what Spin's WAGI executor runs, and net/http/cgi makes of an http.Handler.
package main

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
)

func handle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "Hello from Go! %s %s\n", r.Method, r.URL.Path)
}

func main() {
	if err := cgi.Serve(http.HandlerFunc(handle)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
