package delegation

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// ReplayKind says what a replay key was made from. Two kinds never share a key.
type ReplayKind uint8

// The kinds. The numbers are part of the key and never reused; 0 is none.
const (
	// ReplayDirect is a message: the sender that the connection verified, and the envelope's id.
	ReplayDirect ReplayKind = 1
	// ReplayInvocation is an invocation proof: its caller and its jti.
	ReplayInvocation ReplayKind = 2
	// ReplayAssertion is a client assertion: its subject and its jti.
	ReplayAssertion ReplayKind = 3
	// ReplayDPoP is a DPoP proof (RFC 9449): the thumbprint of its key, and its jti. Its key is that of [ReplayKeyDPoP].
	ReplayDPoP ReplayKind = 4
)

const replayDomain = "safeconduct/replay/v1"

// ReplayKey names one thing that may be used once: SHA-256("safeconduct/replay/v1" || kind || issuer || 0x00 || jti), where kind
// is one byte, issuer is the SPIFFE ID in ASCII, which holds no zero byte, and jti is the rest, so that no two inputs are framed
// alike. The transport and the receiver are no part of it.
func ReplayKey(kind ReplayKind, issuer identity.AgentID, jti []byte) [32]byte {
	return replayKey(kind, issuer.String(), jti)
}

// ReplayKeyDPoP is the key of a DPoP proof. thumbprint is the base64url SHA-256 JWK thumbprint (RFC 7638), which holds no zero byte.
func ReplayKeyDPoP(thumbprint, jti string) [32]byte {
	return replayKey(ReplayDPoP, thumbprint, []byte(jti))
}

func replayKey(kind ReplayKind, issuer string, jti []byte) [32]byte {
	const usual = 256 // a longer issuer or jti costs an allocation
	buf := append(make([]byte, 0, usual), replayDomain...)
	buf = append(append(append(buf, byte(kind)), issuer...), 0)
	return sha256.Sum256(append(buf, jti...))
}

// Errors of a ReplayStore. Each of them, as any other, denies the message.
var (
	// ErrReplayFull means that the tenant holds as many live keys as it may. Nothing is evicted to make room.
	ErrReplayFull = errors.New("the replay set of the tenant is full")
	// ErrReplayForgotten means that keys which end as late as this one were forgotten already, as the clock was ahead then:
	// whether this key was used cannot be told any more.
	ErrReplayForgotten = errors.New("the clock stepped back: keys that end then were forgotten")
	// ErrReplayLife means that a key would have to be remembered for longer than the store does.
	ErrReplayLife = errors.New("the key would have to be remembered for too long")
)

// ReplayStore remembers what was used once. One store serves all transports of a process. Implementations are safe for
// concurrent use.
type ReplayStore interface {
	// Seen reports whether key was inserted. It is read early, before the costly checks, and decides nothing else: that key is
	// unknown is no permission. It does not block on a disk.
	Seen(key [32]byte) (bool, error)
	// Insert remembers key until the moment `until` and longer: the last moment at which the message could be accepted again, its
	// end plus the clock skew that is granted. tenant is whose bound the key counts for. Of several concurrent inserts of one key,
	// in all processes that share the store, exactly one is fresh; fresh is true only when the key is as durable as the store
	// promises. It is called last, after every other check and before the effect, so that a refused message spends nothing.
	//
	// An error is a denial, whatever it is: the key may be spent or not, and the effect must not happen. Errors wrap ErrReplayFull,
	// ErrReplayForgotten or ErrReplayLife, or ctx's error, or say why the store is unavailable.
	Insert(ctx context.Context, tenant string, key [32]byte, until time.Time) (fresh bool, err error)
	// Shared reports whether every process of this identity inserts into the same store. Behind a store that is not shared,
	// invocation proofs are refused while more than one process of the identity lives.
	Shared() bool
}
