// Package incident works a real incident with real agents, each in a process of its own, fully enforced: an on-call engineer's
// authority goes to triage, which delegates to an analyst, a planner and an executor. Evidence is shared by reference; the
// executor puts a deny rule in force and replays the log through it. Intruders try ten ways around it.
//
// [Run] is `safeconduct demo`; [Role] is one of its child processes.
package incident
