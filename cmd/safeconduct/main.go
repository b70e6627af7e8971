// Command safeconduct runs a development control plane, registers and starts agents, edits the capability table, issues grants,
// reads and writes shared memory as an agent, and answers questions over audit logs. It wires the packages below it and decides
// nothing: every refusal that it prints was made by the authority, by an enforcement core, or by the format of its arguments.
//
// Exit codes: 0 done, 1 refused, failed or bad, 2 wrong usage or incomplete. A command that runs another program exits as that
// program does.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }
