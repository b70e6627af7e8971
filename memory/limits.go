package memory

import "time"

// Bounds on what a caller sends. They hold on every driver alike.
const (
	MaxLabels     = 16       // labels of a namespace
	MaxLabelBytes = 128      // bytes of one label
	MaxKeyBytes   = 512      // bytes of a key
	MaxNameBytes  = 2048     // encoded namespace and key together: an index tuple of PostgreSQL holds about 2,704 bytes
	MaxValueBytes = 64 << 10 // bytes of one value; larger content is a blob
	MaxOps        = 64       // operations of one batch
	MaxBatchBytes = 1 << 20  // values, keys and metadata of one batch
	MaxRefs       = 256      // references of one read
	MaxMeta       = 16       // metadata pairs of an entry
	MaxMetaKey    = 64       // bytes of a metadata key
	MaxMetaValue  = 256      // bytes of a metadata value
	MaxMediaType  = 127      // bytes of a media type
	MaxParents    = 256      // declared parents, per entry and per batch
	MaxPage       = 1000     // entries of a page
	DefaultPage   = 100      // entries of a page when the caller names no size
	maxPageBytes  = 1 << 20  // headers of a page: a page fits a default gRPC message with room for its envelope
	maxTokenChars = 4096     // a page token holds one encoded name, sealed and in base64
	tokenLife     = 10 * time.Minute
)

// KeptVersions is how many versions of a key are kept, the live one included. With it, deleting [MaxOps] keys and every kept
// version of them is one driver batch of at most [MaxMuts] mutations.
const KeptVersions = 15

// Bounds of the driver contract.
const (
	MaxMuts        = 1024    // mutations of a driver batch, counters included; conditions have the same bound
	MaxCommitBytes = 4 << 20 // keys and values of a driver batch
	MaxDriverKey   = 2200    // bytes of a driver key: MaxNameBytes, separator and version
	MaxGet         = 1024    // keys of one Get
	MaxScan        = 1000    // items of one Scan, changes of one Changes
)

// Retries are bounded, because each lost race costs a commit of the winner and a caller may as well hear of the conflict.
const (
	writeTries = 32
	readTries  = 4
)
