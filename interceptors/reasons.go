package interceptors

import v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"

type wire struct {
	code   Code
	reason v1.Reason
}

// wireReasons is the one table from a reason to what a peer sees of it: the code, and the coarsest reason that lets an honest
// client act. A reason that is not listed is INTERNAL.
var wireReasons = map[v1.Reason]wire{
	v1.Reason_REASON_PEER_UNVERIFIED:          {CodeUnauthenticated, v1.Reason_REASON_PEER_UNVERIFIED},
	v1.Reason_REASON_TOKEN_INVALID:            {CodeUnauthenticated, v1.Reason_REASON_TOKEN_INVALID},
	v1.Reason_REASON_AGENT_STATE:              {CodePermissionDenied, v1.Reason_REASON_AGENT_STATE},
	v1.Reason_REASON_REAUTHENTICATE:           {CodeFailedPrecondition, v1.Reason_REASON_REAUTHENTICATE},
	v1.Reason_REASON_NO_ENVELOPE:              {CodePermissionDenied, v1.Reason_REASON_NO_ENVELOPE},
	v1.Reason_REASON_MALFORMED:                {CodeInvalidArgument, v1.Reason_REASON_MALFORMED},
	v1.Reason_REASON_DIGEST_MISMATCH:          {CodeInvalidArgument, v1.Reason_REASON_DIGEST_MISMATCH},
	v1.Reason_REASON_REPLAYED:                 {CodeAlreadyExists, v1.Reason_REASON_REPLAYED},
	v1.Reason_REASON_EXTENSION_UNKNOWN:        {CodeFailedPrecondition, v1.Reason_REASON_EXTENSION_UNKNOWN},
	v1.Reason_REASON_CHAIN_UNKNOWN:            {CodeFailedPrecondition, v1.Reason_REASON_CHAIN_UNKNOWN},
	v1.Reason_REASON_CHAIN_INVALID:            {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_EXPIRED:            {CodePermissionDenied, v1.Reason_REASON_CHAIN_EXPIRED},
	v1.Reason_REASON_CHAIN_REVOKED:            {CodePermissionDenied, v1.Reason_REASON_CHAIN_REVOKED},
	v1.Reason_REASON_AUDIENCE_MISMATCH:        {CodePermissionDenied, v1.Reason_REASON_AUDIENCE_MISMATCH},
	v1.Reason_REASON_PRESENTER_MISMATCH:       {CodePermissionDenied, v1.Reason_REASON_PRESENTER_MISMATCH},
	v1.Reason_REASON_TENANT_MISMATCH:          {CodePermissionDenied, v1.Reason_REASON_TENANT_MISMATCH},
	v1.Reason_REASON_PROOF_REQUIRED:           {CodeFailedPrecondition, v1.Reason_REASON_PROOF_REQUIRED},
	v1.Reason_REASON_INTEGRITY_TOO_LOW:        {CodeFailedPrecondition, v1.Reason_REASON_INTEGRITY_TOO_LOW},
	v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH: {CodeFailedPrecondition, v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH},
	v1.Reason_REASON_POLICY:                   {CodePermissionDenied, v1.Reason_REASON_POLICY},
	v1.Reason_REASON_SCOPE:                    {CodePermissionDenied, v1.Reason_REASON_SCOPE},
	v1.Reason_REASON_LEVEL:                    {CodePermissionDenied, v1.Reason_REASON_LEVEL},
	v1.Reason_REASON_RATE:                     {CodeResourceExhausted, v1.Reason_REASON_RATE},
	v1.Reason_REASON_CONCURRENCY:              {CodeResourceExhausted, v1.Reason_REASON_CONCURRENCY},
	v1.Reason_REASON_LIMIT:                    {CodeResourceExhausted, v1.Reason_REASON_LIMIT},
	v1.Reason_REASON_FEED_STALE:               {CodeUnavailable, v1.Reason_REASON_FEED_STALE},
	v1.Reason_REASON_AUDIT_UNAVAILABLE:        {CodeUnavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE},
	v1.Reason_REASON_PROTOCOL_ERROR:           {CodeInternal, v1.Reason_REASON_PROTOCOL_ERROR},
	v1.Reason_REASON_FLOW_CONTROL:             {CodeResourceExhausted, v1.Reason_REASON_FLOW_CONTROL},
	v1.Reason_REASON_SESSION_DRAINING:         {CodeUnavailable, v1.Reason_REASON_SESSION_DRAINING},
	v1.Reason_REASON_SESSION_STALLED:          {CodeUnavailable, v1.Reason_REASON_SESSION_STALLED},
	v1.Reason_REASON_OUTCOME_UNKNOWN:          {CodeUnavailable, v1.Reason_REASON_OUTCOME_UNKNOWN},
	v1.Reason_REASON_IDEMPOTENCY_MISMATCH:     {CodeAborted, v1.Reason_REASON_IDEMPOTENCY_MISMATCH},
	v1.Reason_REASON_UNKNOWN_METHOD:           {CodeUnimplemented, v1.Reason_REASON_UNKNOWN_METHOD},
	v1.Reason_REASON_DEADLINE:                 {CodeDeadlineExceeded, v1.Reason_REASON_DEADLINE},
	v1.Reason_REASON_INTERNAL:                 {CodeInternal, v1.Reason_REASON_INTERNAL},
	v1.Reason_REASON_NOT_FOUND:                {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_CONFLICT:                 {CodeAborted, v1.Reason_REASON_CONFLICT},
	v1.Reason_REASON_QUOTA:                    {CodeResourceExhausted, v1.Reason_REASON_QUOTA},

	v1.Reason_REASON_PEER_NO_TLS:         {CodeUnauthenticated, v1.Reason_REASON_PEER_UNVERIFIED},
	v1.Reason_REASON_PEER_NOT_SVID:       {CodeUnauthenticated, v1.Reason_REASON_PEER_UNVERIFIED},
	v1.Reason_REASON_PEER_UNREGISTERED:   {CodeUnauthenticated, v1.Reason_REASON_PEER_UNVERIFIED},
	v1.Reason_REASON_PEER_EXPIRED:        {CodeUnauthenticated, v1.Reason_REASON_PEER_UNVERIFIED},
	v1.Reason_REASON_WORKLOAD_UNATTESTED: {CodePermissionDenied, v1.Reason_REASON_PEER_UNVERIFIED},
	v1.Reason_REASON_OPERATOR_REQUIRED:   {CodePermissionDenied, v1.Reason_REASON_PEER_UNVERIFIED},
	v1.Reason_REASON_PEER_DUPLICATE:      {CodePermissionDenied, v1.Reason_REASON_AGENT_STATE},
	v1.Reason_REASON_AGENT_PENDING:       {CodePermissionDenied, v1.Reason_REASON_AGENT_STATE},
	v1.Reason_REASON_AGENT_SUSPENDED:     {CodePermissionDenied, v1.Reason_REASON_AGENT_STATE},
	v1.Reason_REASON_AGENT_QUARANTINED:   {CodePermissionDenied, v1.Reason_REASON_AGENT_STATE},
	v1.Reason_REASON_AGENT_RETIRED:       {CodePermissionDenied, v1.Reason_REASON_AGENT_STATE},

	v1.Reason_REASON_CHAIN_TOO_LARGE:           {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_MALFORMED:           {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_NON_CANONICAL:       {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_VERSION:             {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_WRONG_TYPE:          {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_PARENT_MISMATCH:     {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_LOOP:                {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_DEPTH:               {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_BAD_SIGNATURE:       {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_BAD_SIGNER:          {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_SVID:                {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_TRUST_DOMAIN:        {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_KEY:                 {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT:      {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED:     {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED: {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT:  {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_NOT_DELEGABLE:       {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_CHAIN_LIFETIME:            {CodePermissionDenied, v1.Reason_REASON_CHAIN_EXPIRED},
	v1.Reason_REASON_CHAIN_TIME:                {CodePermissionDenied, v1.Reason_REASON_CHAIN_EXPIRED},
	v1.Reason_REASON_CHAIN_PRESENTER:           {CodePermissionDenied, v1.Reason_REASON_PRESENTER_MISMATCH},
	v1.Reason_REASON_PROOF_BINDING:             {CodePermissionDenied, v1.Reason_REASON_PRESENTER_MISMATCH},
	v1.Reason_REASON_CHAIN_AUDIENCE:            {CodePermissionDenied, v1.Reason_REASON_AUDIENCE_MISMATCH},
	v1.Reason_REASON_CHAIN_TENANT:              {CodePermissionDenied, v1.Reason_REASON_TENANT_MISMATCH},
	v1.Reason_REASON_CHAIN_PURPOSE:             {CodePermissionDenied, v1.Reason_REASON_SCOPE},
	v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET:    {CodePermissionDenied, v1.Reason_REASON_SCOPE},
	v1.Reason_REASON_CHAIN_INTERSECTION:        {CodePermissionDenied, v1.Reason_REASON_SCOPE},
	v1.Reason_REASON_CHAIN_PRINCIPAL:           {CodePermissionDenied, v1.Reason_REASON_SCOPE},
	v1.Reason_REASON_CHAIN_HANDLE_REVOKED:      {CodePermissionDenied, v1.Reason_REASON_CHAIN_REVOKED},
	v1.Reason_REASON_CHAIN_COLD_LIMIT:          {CodeResourceExhausted, v1.Reason_REASON_RATE},

	v1.Reason_REASON_POLICY_NO_TABLE:       {CodePermissionDenied, v1.Reason_REASON_POLICY},
	v1.Reason_REASON_POLICY_NO_ROW:         {CodePermissionDenied, v1.Reason_REASON_POLICY},
	v1.Reason_REASON_POLICY_UNKNOWN_ACTION: {CodePermissionDenied, v1.Reason_REASON_POLICY},
	v1.Reason_REASON_SCOPE_MISSING:         {CodePermissionDenied, v1.Reason_REASON_SCOPE},
	v1.Reason_REASON_METHOD_DEPTH:          {CodePermissionDenied, v1.Reason_REASON_CHAIN_INVALID},
	v1.Reason_REASON_INTENT_MISMATCH:       {CodeInvalidArgument, v1.Reason_REASON_MALFORMED},
	v1.Reason_REASON_INTEGRITY_FLOOR:       {CodeFailedPrecondition, v1.Reason_REASON_INTEGRITY_TOO_LOW},
	v1.Reason_REASON_LABEL_UNKNOWN:         {CodeInvalidArgument, v1.Reason_REASON_MALFORMED},
	v1.Reason_REASON_TABLE_REJECTED:        {CodeFailedPrecondition, v1.Reason_REASON_POLICY},

	v1.Reason_REASON_MEMORY_NO_PERMIT:      {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_MEMORY_WRONG_ACTION:   {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE:  {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_MEMORY_ABSENT:         {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_MEMORY_COMMITMENT:     {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_MEMORY_RESERVED:       {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_MEMORY_TENANT_CROSSED: {CodeNotFound, v1.Reason_REASON_NOT_FOUND},
	v1.Reason_REASON_MEMORY_PERMIT_EXPIRED: {CodePermissionDenied, v1.Reason_REASON_CHAIN_EXPIRED},
	v1.Reason_REASON_MEMORY_BAD_NAMESPACE:  {CodeInvalidArgument, v1.Reason_REASON_MALFORMED},
	v1.Reason_REASON_MEMORY_WRITE_FLOOR:    {CodeFailedPrecondition, v1.Reason_REASON_INTEGRITY_TOO_LOW},

	v1.Reason_REASON_AUDIT_FULL:            {CodeUnavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE},
	v1.Reason_REASON_AUDIT_POISONED:        {CodeUnavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE},
	v1.Reason_REASON_GRANT_OUTSIDE_CEILING: {CodePermissionDenied, v1.Reason_REASON_SCOPE},
	v1.Reason_REASON_TRANSPORT_REFUSED:     {CodeInvalidArgument, v1.Reason_REASON_MALFORMED},
	v1.Reason_REASON_CANCELLED:             {CodeCanceled, v1.Reason_REASON_INTERNAL},
}

func wireOf(r v1.Reason) wire {
	if w, ok := wireReasons[r]; ok {
		return w
	}
	return wire{CodeInternal, v1.Reason_REASON_INTERNAL}
}
