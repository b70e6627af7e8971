// Package enforceconnect puts the enforcement core in front of connect-go handlers at the edge. [Middleware] resolves the peer,
// because a connect interceptor cannot see TLS; [New] admits the messages. Both are required: without the middleware every call
// is denied PEER_UNVERIFIED.
package enforceconnect
