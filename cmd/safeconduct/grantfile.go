package main

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// maxGrantFile bounds a grant that is read back; the wire format allows 16 KiB for a whole chain.
const maxGrantFile = 16 << 10

// grantFile is what grant -o wrote. Its claims are not verified here: they serve to say early and clearly what a verifier would
// refuse.
type grantFile struct {
	path      string
	statement *v1.SignedStatement
	claimed   *v1.GrantPayload
}

func readGrant(path string) (grantFile, error) {
	raw, err := readBounded(path, maxGrantFile)
	again := "make one with: safeconduct grant -o " + quote(path)
	if errors.Is(err, fs.ErrNotExist) {
		return grantFile{}, usagef("no grant in %s; %s", path, again)
	}
	if err != nil {
		return grantFile{}, err
	}
	g := grantFile{path, &v1.SignedStatement{}, &v1.GrantPayload{}}
	if proto.Unmarshal(raw, g.statement) != nil || proto.Unmarshal(g.statement.GetPayload(), g.claimed) != nil || g.claimed.GetDelegate() == "" {
		return grantFile{}, usagef("%s holds no grant; %s", path, again)
	}
	return g, nil
}

// check says what keeps id from acting under the grant for purpose now.
func (g grantFile) check(id identity.AgentID, purpose string, now time.Time) error {
	end := time.UnixMilli(g.claimed.GetExpiresAtMs())
	switch sum := sha256.Sum256([]byte(purpose)); {
	case g.claimed.GetDelegate() != id.String():
		return usagef("the grant in %s is for %s; act --as that agent", g.path, g.claimed.GetDelegate())
	case string(sum[:]) != string(g.claimed.GetPurposeDigest()):
		return usagef("the grant in %s is for another purpose; give the one that it was made with", g.path)
	case !now.Before(end):
		return usagef("the grant in %s ended at %s; make another one with: safeconduct grant", g.path, end.UTC().Format(time.RFC3339))
	}
	return nil
}
