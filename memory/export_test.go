package memory

// For the tests of the key codec, whose functions take labels that NewNamespace would refuse.
var (
	CurKey       = curKey
	VerKey       = verKey
	DecodeCurKey = decodeCurKey
	DecodeVerKey = decodeVerKey
	ExactRange   = exactRange
	SubtreeRange = subtreeRange
	PrefixRange  = prefixRange
	Successor    = successor
)
