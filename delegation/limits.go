package delegation

import (
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// Bounds on what a peer sends. Going over one is refused as CHAIN_TOO_LARGE before anything is parsed.
const (
	MaxChainBytes    = 16 << 10 // four hops with their certificates are about 6 KiB
	MaxPayloadBytes  = 2 << 10  // a hop is 300 to 500 bytes
	MaxProofBytes    = 1 << 10  // payload of an invocation proof
	MaxHops          = 8        // one signature each: bounds the CPU of one cold chain
	MaxCapabilities  = 32       // per statement: the subset check is quadratic
	MaxConstraints   = 8        // per capability
	MaxValues        = 32       // of one one_of constraint
	MaxDelegates     = 16
	MaxSegments      = 17  // of one resource: 16 of a namespace and a key
	MaxSegmentBytes  = 128 // of one segment
	MaxStringBytes   = 256
	MaxHistory       = 8       // as many actors as a lineage can have
	MaxCritical      = 8       // names of extensions
	MaxIntermediates = 2       // certificates between a leaf and its root
	MaxCertBytes     = 2 << 10 // an SVID is about 500 bytes

	maxNesting = 8 // the schema's deepest path is 5; the scanner counts all the same
	maxCerts   = MaxHops
)

// Bounds on time and depth.
const (
	// MaxGrantLife bounds how long a stolen agent key can use a grant that nobody revokes.
	MaxGrantLife = 15 * time.Minute
	// Skew is granted on the beginning of statements, never on their end.
	Skew = 30 * time.Second
	// MaxLineage is the hard limit on renewing one chain id.
	MaxLineage = 24 * time.Hour
	// DefaultLineage is the limit where Limits names none.
	DefaultLineage = 8 * time.Hour
	// MaxDepth is the hard limit on the absolute depth of a lineage.
	MaxDepth = 8

	backdate     = 5 * time.Second // a hop begins this much early, for callees whose clock is behind
	clockStep    = 5 * time.Second // a clock that went back further may revive what has expired
	maxMargin    = 30 * time.Second
	marginShare  = 10            // a hop ends a tenth of the certificate's life before the certificate, so that short SVIDs work
	endOfTime    = 4102444800000 // 2100-01-01 in milliseconds; later times are mistakes or overflows
	nonceSize    = 16
	digestSize   = 32
	sigSize      = 64
	wireVersion  = 1
	cacheShards  = 64
	usualPayload = 512     // up to here a statement is one of what is bounded below by number, and two from here on, and so forth
	defaultLinks = 4096    // verified prefixes, 3 to 4 KiB each, and at worst 14
	defaultSeals = 1 << 19 // 100,000 chains of a grant and three hops, about 100 bytes each
	defaultCerts = 16384   // verified certificates
	// MaxRemembered bounds the chains that one connection may refer to; the oldest leaves first. One whose last statement is larger than
	// usual counts for several.
	MaxRemembered = 1024
)

// Limits are the choices of a deployment inside the bounds of the format. The zero value is the default.
type Limits struct {
	// Allow asks whether peer may make this process verify n more signatures now; nil allows. It is called before the first
	// signature of a chain that is not cached, with the identity that the connection proved. A refusal is
	// CHAIN_COLD_LIMIT. It must be safe for concurrent use.
	Allow func(peer identity.AgentID, n int) bool
	// Lineage bounds the renewals of one chain id; 0 is DefaultLineage, more than MaxLineage is refused.
	Lineage time.Duration
	// CachedLinks bounds the verified prefixes that are kept whole, which a chain is compared with and nothing more; 0 is 4,096.
	CachedLinks int
	// CachedSeals bounds the prefixes of which is only known that their signatures verify: their chains are read again from their
	// bytes, which costs microseconds and no signature; 0 is 524,288.
	CachedSeals int
	// CachedCerts bounds the certificate cache; 0 is 16,384.
	CachedCerts int
}
