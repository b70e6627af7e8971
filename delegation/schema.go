package delegation

import v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"

// The tables of the strict wire profile, one row per field of delegation.proto. A row left out is an unknown field. A test
// holds them against the generated descriptors, so that a field cannot be added to one side alone.

var (
	uintField   = field{kind: kindUint32}
	varintField = field{kind: kindVarint}
	boolField   = field{kind: kindBool}
	identField  = field{kind: kindIdent, max: MaxStringBytes}
	textField   = field{kind: kindString, max: MaxStringBytes}
	nonceField  = field{kind: kindBytes, size: nonceSize}
	digestField = field{kind: kindBytes, size: digestSize}

	capabilityList = field{kind: kindMessage, count: MaxCapabilities, sub: capabilityTable}
	delegateList   = field{kind: kindIdent, max: MaxStringBytes, count: MaxDelegates}
	criticalList   = field{kind: kindIdent, max: MaxStringBytes, count: MaxCritical}
	principalField = field{kind: kindMessage, sub: principalTable}
)

var principalTable = &message{name: "Principal", fields: []field{
	1: {kind: kindEnum, max: int(v1.Principal_TYPE_SELF)}, 2: textField, 3: textField,
}}

// A rule or a kind of value that this build does not know is told apart from a field that nobody knows.
var valueTable = &message{name: "Value", unknown: v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT, fields: []field{
	1: {kind: kindString, max: MaxStringBytes, explicit: true, oneof: true},
	2: {kind: kindVarint, explicit: true, oneof: true},
	3: {kind: kindBool, explicit: true, oneof: true},
}}

var valueSetTable = &message{name: "ValueSet", fields: []field{
	1: {kind: kindMessage, count: MaxValues, sub: valueTable},
}}

var rangeTable = &message{name: "Range", fields: []field{
	1: {kind: kindVarint, explicit: true}, 2: {kind: kindVarint, explicit: true},
}}

var constraintTable = &message{name: "Constraint", unknown: v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT, fields: []field{
	1: {kind: kindIdent, max: 64},
	2: {kind: kindMessage, oneof: true, sub: valueTable},
	3: {kind: kindMessage, oneof: true, sub: valueSetTable},
	4: {kind: kindMessage, oneof: true, sub: rangeTable},
	5: {kind: kindString, max: MaxStringBytes, explicit: true, oneof: true},
}}

var capabilityTable = &message{name: "Capability", fields: []field{
	1: identField,
	2: {kind: kindString, max: MaxSegmentBytes, count: MaxSegments},
	3: boolField,
	4: {kind: kindMessage, count: MaxConstraints, sub: constraintTable},
	5: uintField,
}}

var pastActorTable = &message{name: "PastActor", fields: []field{1: identField, 2: digestField, 3: uintField}}

var originTable = &message{name: "Origin", fields: []field{
	1: identField, 2: identField, 3: identField, 4: digestField, 5: principalField, 6: identField,
}}

var grantTable = &message{name: "GrantPayload", fields: []field{
	1: uintField, 2: nonceField, 3: identField, 4: identField, 5: identField, 6: identField, 7: principalField, 8: identField, 9: capabilityList, 10: delegateList,
	11: uintField, 12: uintField, 13: varintField, 14: varintField, 15: varintField, 16: varintField, 17: digestField, 18: textField, 19: varintField, 20: nonceField,
	21: digestField, 22: {kind: kindMessage, count: MaxHistory, sub: pastActorTable}, 23: {kind: kindMessage, sub: originTable},
	24: criticalList,
}}

var hopTable = &message{name: "HopPayload", fields: []field{
	1: uintField, 2: nonceField, 3: uintField, 4: digestField, 5: identField, 6: identField, 7: identField, 8: capabilityList, 9: delegateList, 10: uintField,
	11: varintField, 12: varintField, 13: varintField, 14: nonceField, 15: digestField, 16: criticalList,
}}

var invocationTable = &message{name: "InvocationPayload", fields: []field{
	1: uintField, 2: digestField, 3: identField, 4: identField, 5: identField, 6: digestField, 7: nonceField, 8: varintField, 9: varintField,
}}

var receiptTable = &message{name: "ReceiptPayload", fields: []field{
	1: uintField, 2: nonceField, 3: digestField, 4: nonceField, 5: nonceField, 6: identField, 7: identField,
	8: {kind: kindEnum, max: int(v1.ReceiptPayload_DECISION_STEP_UP)}, 9: nonceField, 10: nonceField, 11: varintField, 12: digestField,
	13: varintField, 14: nonceField,
}}

var certChainTable = &message{name: "CertChain", fields: []field{
	1: {kind: kindBytes, max: MaxCertBytes}, 2: {kind: kindBytes, max: MaxCertBytes, count: MaxIntermediates},
}}

var statementTable = &message{name: "SignedStatement", fields: []field{
	1: {kind: kindBytes, max: MaxPayloadBytes}, 2: {kind: kindBytes, size: sigSize}, 3: uintField,
}}

var proofStatementTable = &message{name: "SignedStatement", fields: []field{
	1: {kind: kindBytes, max: MaxProofBytes}, 2: statementTable.fields[2], 3: uintField,
}}

var chainTable = &message{name: "DelegationChain", fields: []field{
	1: {kind: kindMessage, sub: statementTable},
	2: {kind: kindMessage, count: MaxHops, sub: statementTable},
	3: {kind: kindMessage, count: maxCerts, sub: certChainTable},
}}

var proofTable = &message{name: "InvocationProof", fields: []field{
	1: {kind: kindMessage, sub: proofStatementTable}, 2: {kind: kindMessage, count: 1, sub: certChainTable},
}}
