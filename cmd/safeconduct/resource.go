package main

import (
	"net/url"
	"slices"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// parseResource reads segments joined by "/". A last segment "*" is everything below the ones before it. A segment that holds one
// of "/", ",", "%" or "*" itself writes it as %2F, %2C, %25 or %2A.
func parseResource(s string) (path []string, subtree bool, err error) {
	segments := strings.Split(s, "/")
	if last := len(segments) - 1; last > 0 && segments[last] == "*" {
		segments, subtree = segments[:last], true
	}
	for _, seg := range segments {
		if strings.Contains(seg, "*") {
			return nil, false, usagef("resource %q: * stands only alone as the last segment, as in notes/*", s)
		}
		plain, err := url.PathUnescape(seg)
		if err != nil {
			return nil, false, usagef("resource %q: %w", s, err)
		}
		path = append(path, plain)
	}
	if !policy.ValidResource(path) {
		return nil, false, usagef("resource %q: want 1 to 17 segments of 1 to 128 bytes joined by /, as in notes/today or notes/*", s)
	}
	return path, subtree, nil
}

// resourceText is the text form that parseResource reads.
func resourceText(path []string, subtree bool) string {
	out := make([]string, len(path))
	for i, seg := range path {
		out[i] = strings.NewReplacer("%", "%25", "/", "%2F", ",", "%2C", "*", "%2A").Replace(seg)
	}
	if subtree {
		out = append(out, "*")
	}
	return strings.Join(out, "/")
}

// parseCapabilities reads ACTION:RESOURCE[,RESOURCE...] with further ACTION:RESOURCE after a comma; what looks like a dotted action
// and a colon begins a new one.
func parseCapabilities(args []string, reach uint32) ([]*v1.Capability, error) {
	var out []*v1.Capability
	for _, arg := range args {
		action := ""
		for _, item := range strings.Split(arg, ",") {
			head, rest, ok := strings.Cut(item, ":")
			if ok && policy.ValidAction(head) && (action == "" || strings.Contains(head, ".")) {
				action, item = head, rest
			}
			if action == "" {
				return nil, usagef("--can %q: want ACTION:RESOURCE, as in memory.write:notes/*", arg)
			}
			path, subtree, err := parseResource(item)
			if err != nil {
				return nil, err
			}
			out = append(out, &v1.Capability{Action: action, Resource: path, Subtree: subtree, Reach: reach})
		}
	}
	return slices.Clip(out), nil
}
