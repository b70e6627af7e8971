"""Reads the declared intent of a foreign service's methods from its generated Python stubs."""

from acme.greeter.v1 import greeter_pb2, greeter_pb2_grpc
from safeconduct.v1 import intent_pb2

assert intent_pb2.intent.number == 51807, intent_pb2.intent.number
assert intent_pb2.field.number == 51808, intent_pb2.field.number

methods = greeter_pb2.DESCRIPTOR.services_by_name["GreeterService"].methods_by_name
greet = methods["Greet"].GetOptions().Extensions[intent_pb2.intent]
assert greet.action == "acme.greet", greet
assert list(greet.scopes) == ["greet"], greet
assert greet.resource_field == "who", greet
assert greet.facts[0].field == "language", greet

who = greeter_pb2.GreetRequest.DESCRIPTOR.fields_by_name["who"]
assert who.GetOptions().Extensions[intent_pb2.field].context_ref

request = greeter_pb2.GreetRequest(who="ada")
request.envelope.SetInParent()
assert greeter_pb2.GreetRequest.FromString(request.SerializeToString()) == request
assert hasattr(greeter_pb2_grpc, "GreeterServiceStub")

print("python: intent", intent_pb2.intent.number, "of Greet is", greet.action)
