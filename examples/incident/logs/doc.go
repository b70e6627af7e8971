// Package logs reads a text log as evidence, finds what is wrong in it and
// works out which deny rules would have stopped the offending lines.
//
// Everything here is pure: Read takes an io.Reader, and the rest are functions
// of what it returned. Three formats are known by name (web access logs,
// syslog and journal text, dpkg and apt logs); any other text is read as a
// generic log. A log that shows nothing unusual yields no finding.
//
// A log is written by whoever talks to the server, so every byte of it is
// untrusted. Text from a log enters a Finding or a Report only through Escape,
// an instruction found in a log is reported and never followed, and a Rule can
// be built only within bounds that keep it from stopping everybody.
package logs
