package main

import (
	"bytes"
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

// rootName is the embedded root in the state folder of up; its key stands in the same file and is passed over.
const rootName = "authority/root.pem"

func trustFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVar(files, "trust", nil,
		"trust bundle as safeconduct up leaves it, or PEM with X.509 roots and public grant keys; repeatable (default: "+trustName+" and "+rootName+" of the state folder)")
}

// readChainTrust reads the files given, or what up left in the state folder.
func readChainTrust(cmd *cobra.Command, files []string) (*chaintext.Trust, error) {
	t := &chaintext.Trust{}
	for _, path := range files {
		if err := readTrustFile(t, path); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		if err := readTrustState(cmd, t); err != nil {
			return nil, err
		}
	}
	if !t.HasKeys() {
		return nil, usagef("no trust file holds a grant key; add a trust bundle or a public key in PEM: --trust FILE")
	}
	return t, nil
}

// readTrustState reads the bundle and the embedded root. Where SVIDs come from elsewhere, from SPIRE for example, that root vouches
// for nobody, and --trust has to name the files.
func readTrustState(cmd *cobra.Command, t *chaintext.Trust) error {
	dir, err := stateDir(cmd)
	if err != nil {
		return err
	}
	v, err := readTrust(dir)
	if errors.Is(err, errNotUp) {
		return usagef("no %s in %s; name what to verify against with --trust FILE, or the state folder with --dir", trustName, dir)
	}
	if err != nil {
		return err
	}
	addBundle(t, v)
	return readTrustFile(t, filepath.Join(dir, rootName))
}

func readTrustFile(t *chaintext.Trust, path string) error {
	raw, err := readBounded(path, maxTrust)
	if err != nil {
		return usagef("%w", err)
	}
	if bytes.Contains(raw, []byte("-----BEGIN ")) {
		if err := t.AddPEM(raw); err != nil {
			return usagef("%s: %w", path, err)
		}
		return nil
	}
	v, err := parseTrust(raw)
	if err != nil {
		return usagef("%s is neither PEM nor a trust bundle: %w", path, err)
	}
	addBundle(t, v)
	return nil
}

func addBundle(t *chaintext.Trust, v trustView) {
	for _, k := range v.GetKeys() {
		if key, found := v.key(v1.KeyUse_KEY_USE_GRANT)(k.GetKeyId()); found {
			t.AddKey(v.GetTrustDomain(), k.GetKeyId(), key, k.GetNotBeforeMs(), k.GetNotAfterMs())
		}
	}
}
