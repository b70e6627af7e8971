package vectors

// Absences are the rows of the matrix that no vector covers: they are not about the bytes of a chain, or need a running service.
func Absences() *NotRun {
	tokens := "tokens: the tests of identity/token and of the authority's token endpoint"
	return &NotRun{Format: Format, Rows: []*Absent{
		{Row: 34, WaitsFor: tokens},
		{Row: 35, WaitsFor: tokens},
		{Row: 36, WaitsFor: tokens},
		{Row: 38, WaitsFor: tokens},
		{Row: 39, WaitsFor: tokens},
		{Row: 43, WaitsFor: tokens},
		{Row: 44, WaitsFor: tokens},
		{Row: 45, Part: "other replica", WaitsFor: "a replay store that replicas share"},
		{Row: 46, WaitsFor: tokens},
		{Row: 47, WaitsFor: "revocation: a feed that cuts streams; what a revoked handle does to a chain is in row 60"},
		{Row: 48, WaitsFor: "revocation: the feed"},
		{Row: 49, WaitsFor: "revocation: the registry's states"},
		{Row: 50, Part: "bridges", WaitsFor: "federation: without bridges every origin is refused"},
		{Row: 51, Part: "ID-JAG", WaitsFor: "federation: the authority's token endpoint"},
		{Row: 52, Part: "clock step during a stream", WaitsFor: "a stream: the vectors step the clock between messages"},
		{Row: 54, WaitsFor: tokens},
		{Row: 55, WaitsFor: tokens},
		{Row: 56, WaitsFor: tokens},
		{Row: 57, WaitsFor: "policy: the entitlements of principals are no part of a chain"},
		{Row: 58, WaitsFor: "audit: the tests of the log and its graph"},
		{Row: 61, WaitsFor: "load: the limit on cold verification is counted per second and peer"},
	}}
}
