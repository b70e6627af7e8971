// Package authority is the control plane of one trust domain in its development form: a root key that issues X.509-SVIDs, a
// SPIFFE Workload API that hands them to attested processes, the registry of agents, the issuer of delegation grants, the
// capability table in force and the signed trust bundle that every runtime follows.
//
// cmd starts one per trust domain with [Start]. A process gets an identity because the operator admitted it, never because it
// asks: it is pinned by its pidfd, its user and the digest of its executable. The operator is a process of the authority's own
// user that is no admitted workload and descends from none. Everything else is refused and recorded.
//
// Whoever holds a chain renews it here, over mTLS, as its last delegate: the chain, its members and the table are held against the
// state of the moment, and what is minted is no more than the chain had. The root and the grant key are rotated with overlap
// ([Authority.RotateRoot], [Authority.RotateGrantKey]); a key that leaked is withdrawn at once ([Authority.WithdrawGrantKey]).
//
// What this form cannot hold off: a program of the same user that nobody admitted is an operator, and so is a process that a
// workload orphaned on purpose. Admit a program before it runs foreign code, and run untrusted code as another user. Production
// uses SPIRE and people who log in.
package authority
