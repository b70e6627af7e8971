// Reads the declared intent of a foreign service's methods from its generated TypeScript stubs.
import assert from "node:assert/strict";
import { create, fromBinary, getOption, toBinary } from "@bufbuild/protobuf";
import { GreeterService, GreetRequestSchema, type GreetRequest } from "./gen/acme/greeter/v1/greeter_pb.js";
import { field, intent } from "./gen/safeconduct/v1/intent_pb.js";

assert.equal(intent.number, 51807);
assert.equal(field.number, 51808);

const greet = getOption(GreeterService.method.greet, intent);
assert.equal(greet.action, "acme.greet");
assert.deepEqual(greet.scopes, ["greet"]);
assert.equal(greet.resourceField, "who");
assert.equal(greet.facts[0]?.field, "language");

assert.equal(getOption(GreetRequestSchema.field.who, field).contextRef, true);

const request: GreetRequest = create(GreetRequestSchema, { who: "ada", envelope: {} });
assert.deepEqual(fromBinary(GreetRequestSchema, toBinary(GreetRequestSchema, request)), request);

console.log("typescript: intent", intent.number, "of Greet is", greet.action);
