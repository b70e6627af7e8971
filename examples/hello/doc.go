// Command hello is a first agent: greeter.go serves, caller.go calls. Without an environment, demo.go shows both under a control
// plane of its own, with one call that is allowed and one that is refused:
//
//	go run ./examples/hello
//
// Against a development plane that runs (`safeconduct up`), each is an ordinary agent process. An identity belongs to one process
// and one executable, so the program is built and not started by `go run`:
//
//	safeconduct agent register greeter --tenant acme --class greeter --owner you@example.com --purpose "greets"
//	safeconduct agent register caller --tenant acme --class caller --owner you@example.com --purpose "calls" --integrity attested
//	safeconduct table allow greet --tenant acme --class caller --action hello.greet --resource agent/greeter \
//	  --peer spiffe://safeconduct.local/tenant/acme/agent/greeter
//	safeconduct grant --principal you@example.com --to acme/caller --can hello.greet:agent/greeter --purpose "say hello" -o caller.grant
//	go build -o hello ./examples/hello
//	safeconduct agent run acme/greeter -- ./hello serve &
//	safeconduct agent run acme/caller -- ./hello call caller.grant
package main
